"""The picture of a profile; drawn for real where matplotlib is installed."""

from __future__ import annotations

import pytest

from stts_cli import estimate, plots
from stts_cli.architectures import load_architecture
from stts_cli.errors import EnvironmentFailure, InputError
from tests.test_report_profile import make_document, make_point


def test_a_target_that_cannot_be_drawn_is_told_first(tmp_path, monkeypatch):
    for path in (tmp_path / "x.pdf", tmp_path, tmp_path / "nowhere" / "x.png"):
        with pytest.raises(InputError, match="--plot is"):
            plots.check_target(str(path))
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match=r"pip install 'stts\[plot\]'") as error:
        plots.check_target(str(tmp_path / "x.png"))
    assert error.value.exit_code == 3


def test_bars_hold_the_stages_and_the_dense_arm_once():
    bars = plots._bars([make_point(64), {**make_point(64), "keep_ratio": 0.3}])
    assert list(bars) == ["64\ndense", "64\nkeep 0.5", "64\nkeep 0.3"]
    assert bars["64\ndense"]["LLM prefill"] == 1.0
    assert bars["64\nkeep 0.5"]["score, select, pack"] == 0.02


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    counted = estimate.analytic(architecture=load_architecture("nano"), frames=[8, 16], keep_ratios=[0.5, 0.7])
    for name, document in {
        "one": make_document(make_point()),
        "sweep": make_document(make_point(16), make_point(32)),
        "counted": counted,
    }.items():
        path = tmp_path / f"{name}.png"
        plots.plot(document, str(path))
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
