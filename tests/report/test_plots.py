"""The picture of a profile; drawn for real where matplotlib is installed."""

from __future__ import annotations

import pytest

from stts_cli.config.architectures import load_architecture
from stts_cli.cost import estimate
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.report import plots
from tests.report.test_profile import make_document, make_point


def test_a_target_that_cannot_be_drawn_is_told_first(tmp_path, monkeypatch):
    for path in (tmp_path / "x.pdf", tmp_path):
        with pytest.raises(InputError, match="--plot is"):
            plots.check_target(str(path))
    with pytest.raises(EnvironmentFailure, match=r"^--plot .*nowhere/x.png: cannot be written"):
        plots.check_target(str(tmp_path / "nowhere" / "x.png"))
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match=r"pip install '\.\[plot\]'") as error:
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


def test_arms_of_one_scorer_make_a_line():
    names = ["dense", "learned@0.5", "learned@0.3", "dense@4f", "runs/mine@0.5", "named", "runs/mine@1"]
    assert plots._series({"arms": dict.fromkeys(names)}) == {
        "dense": ["dense"],
        "learned": ["learned@0.5", "learned@0.3"],
        "dense@4f": ["dense@4f"],
        "runs/mine": ["runs/mine@0.5", "runs/mine@1"],
        "named": ["named"],
    }


def test_a_picture_of_accuracy(tmp_path):
    pytest.importorskip("matplotlib")

    def document(*shares):
        arms = {
            name: {"flops": 1e9 * (k + 1), "micro": share, "interval": share and (share - 0.1, share + 0.1)}
            for k, (name, share) in enumerate(zip(("dense", "learned@0.5", "random@0.5"), shares, strict=True))
        }
        settings = {
            name: {"scorer": name.split("@")[0], "keep_ratio": 1.0 if name == "dense" else 0.5} for name in arms
        }
        return {"title": "a", "arms": arms, "config": {"arms": settings}, "is_demonstration": True}

    for number, shown in enumerate(
        [document(0.9, 0.8, 0.7), {"benchmarks": [document(0.9, 0.8, None), *[document(0.5, 0.5, 0.5)] * 3]}]
    ):
        path = tmp_path / f"{number}.png"
        plots.plot_accuracy(shown, str(path))
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
