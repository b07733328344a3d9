"""The picture of a profile; drawn for real where matplotlib is installed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from stts_cli.config.architectures import load_architecture
from stts_cli.cost import estimate
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.report import plots
from tests.report.test_profile import make_document, make_point


def test_a_target_that_cannot_be_drawn_is_refused_first(tmp_path, monkeypatch):
    for path in (tmp_path / "x.pdf", tmp_path):
        with pytest.raises(InputError, match=r"^--plot .*: must be a file that ends in \.png\."):
            plots.check_target(str(path), "--plot")
    with pytest.raises(EnvironmentFailure, match=r"^--plot .*nowhere/x.png: cannot be written"):
        plots.check_target(str(tmp_path / "nowhere" / "x.png"), "--plot")
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match=r"pip install '\.\[plot\]'") as error:
        plots.check_target(str(tmp_path / "x.png"), "--plot")
    assert error.value.exit_code == 3


def test_bars_hold_the_stages_and_the_dense_arm_once():
    bars = plots._bars([make_point(64), {**make_point(64), "keep_ratio": 0.3}])
    assert list(bars) == ["64\ndense", "64\nlearned 0.5", "64\nlearned 0.3"]
    assert bars["64\ndense"]["LLM prefill"] == 1.0
    assert bars["64\nlearned 0.5"]["score, select, pack"] == 0.02


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    counted = estimate.analytic(architecture=load_architecture("nano"), frames=[8, 16], keep_ratios=[0.5, 0.7])
    for name, document in {
        "one": make_document(make_point()),
        "sweep": make_document(make_point(16), make_point(32)),
        "counted": counted,
    }.items():
        path = tmp_path / f"{name}.png"
        plots.plot_profile(document, str(path))
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


def test_arms_of_one_scorer_make_a_line():
    names = ["dense", "learned@0.5", "learned@0.3", "dense@4f", "runs/mine@0.5", "named", "runs/mine@1"]
    assert plots._series(names) == {
        "dense": ["dense"],
        "learned": ["learned@0.5", "learned@0.3"],
        "dense@4f": ["dense@4f"],
        "runs/mine": ["runs/mine@0.5", "runs/mine@1"],
        "named": ["named"],
    }


def evaluated(*shares):
    arms = {
        name: {"flops": 1e9 * (k + 1), "micro": share, "interval": share and (share - 0.1, share + 0.1)}
        for k, (name, share) in enumerate(zip(("dense", "learned@0.5", "random@0.5"), shares, strict=True))
    }
    settings = {name: {"scorer": name.split("@")[0], "keep_ratio": 1.0 if name == "dense" else 0.5} for name in arms}
    return {"title": "a $b$ <c>", "arms": arms, "config": {"arms": settings}, "is_demonstration": True}


def suite(*documents, **averages):
    return {"suite": "all of them", "benchmarks": list(documents), "averages": {"all": averages}}


def test_a_picture_of_accuracy(tmp_path):
    pytest.importorskip("matplotlib")
    for number, shown in enumerate(
        [evaluated(0.9, 0.8, 0.7), suite(evaluated(0.9, 0.8, None), *[evaluated(0.5, 0.5, 0.5)] * 3)]
    ):
        path = tmp_path / f"{number}.png"
        plots.plot_accuracy(shown, str(path))
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


def words_of(path):
    return {
        "".join(node.itertext()).strip() for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    }


def test_an_svg_of_one_benchmark_has_its_words_and_is_the_same_every_time(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        plots.plot_means(evaluated(0.9, 0.8, None), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert {"a $b$ <c>", "GFLOPs a question", "dense", "learned", "random", "0.5"} <= words_of(tmp_path / "one.svg")


def test_a_suite_has_one_panel_of_means(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(plots, "_draw_arms", lambda axes, title, points, settings: drawn.append((title, points)))
    documents = evaluated(0.9, 0.8, 0.7), evaluated(0.7, 0.6, 0.5)
    documents[1]["arms"]["dense"]["flops"] = 4e9
    plots.plot_means(suite(*documents, dense=0.8, **{"random@0.5": 0.6}), tmp_path / "x.svg")
    assert drawn == [
        ("all of them", {"dense": (2.5, 80.0, 80.0, 80.0), "random@0.5": pytest.approx((3.0, 60.0, 60.0, 60.0))})
    ]


def test_where_matplotlib_is_missing_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match=r"matplotlib is not installed; .*pip install '\.\[plot\]'\.$"):
        plots.plot_means(evaluated(0.9, 0.8, 0.7), tmp_path / "x.svg")
    assert not (tmp_path / "x.svg").exists()


def test_every_folder_of_a_suites_results_gets_its_picture(tmp_path):
    pytest.importorskip("matplotlib")
    documents = [evaluated(0.9, 0.8, 0.7) | {"bench": name, "title": name} for name in ("one", "two")]
    for each in documents:
        (tmp_path / each["bench"]).mkdir()
    plots.plot_results(suite(*documents, dense=0.8), tmp_path)
    assert "all of them" in words_of(tmp_path / "plot.svg")
    assert [name in words_of(tmp_path / name / "plot.svg") for name in ("one", "two")] == [True, True]


def test_results_without_matplotlib_are_whole_but_for_the_picture_and_say_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    plots.plot_results(suite(evaluated(0.9, 0.8, 0.7) | {"bench": "one"}, dense=0.8), tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{tmp_path}/plot.svg: not drawn, matplotlib is not installed; in a clone of stts: pip install" in said
    assert list(tmp_path.iterdir()) == []
