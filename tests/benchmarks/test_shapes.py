"""The procedural world as a benchmark: held-out clips, every arm on the same questions, honest sums."""

import json

import pytest
from typer.testing import CliRunner

from stts_cli import cli
from stts_cli.benchmarks.runner import evaluate
from stts_cli.benchmarks.shapes import items
from stts_cli.errors import InputError
from stts_cli.shapes.questions import ask
from stts_cli.shapes.world import make_scene


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from stts_cli.training.nano_export import export_nano
    from stts_cli.training.nano_joint import new_scorer
    from stts_cli.training.nano_model import build_nano
    from stts_cli.training.nano_tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("random-nano")
    tokenizer = build_tokenizer()
    model = build_nano(tokenizer)
    scorer = new_scorer(model.config.vision_config)
    export_nano(model, scorer, tokenizer, folder, keep_ratio=0.5, prune_layer=3, training={})
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_items_are_the_test_scenes_and_files_are_made_once(tmp_path):
    first = list(items("shapes", 2, folder=tmp_path))
    written = [item.path.stat().st_mtime_ns for item in first]
    again = list(items("shapes", 2, folder=tmp_path))
    assert [item.path.stat().st_mtime_ns for item in again] == written
    assert again[1].questions == tuple(ask(make_scene("test", 1)))
    assert len({item.id for item in again}) == 2


def test_arms_answer_the_same_questions_and_the_sums_are_theirs(checkpoint):
    document = evaluate("shapes", model=str(checkpoint), videos=2, frames=4, max_fps=2, compare=True, max_new_tokens=2)
    samples, arms = document["samples"], document["arms"]
    assert len(samples) == sum(len(ask(make_scene("test", k))) for k in range(2))
    assert arms["dense"]["visual_tokens"] == 4 * 16
    assert arms["pruned"]["visual_tokens"] == 4 * 16 / 2
    assert arms["pruned"]["flops"] < arms["dense"]["flops"]
    for name, arm in arms.items():
        right = [row for row in samples if row[name] == row["answer"]]
        assert arm["accuracy"] == len(right) / len(samples)
        assert sum(family["n"] for family in arm["families"].values()) == arm["n"] == len(samples)
    color = [row for row in samples if row["family"] == "color"]
    assert arms["pruned"]["families"]["color"]["chance"] == pytest.approx(1 / 8)
    assert arms["pruned"]["families"]["color"]["n"] == len(color)


def test_the_command_prints_a_table_or_json(checkpoint):
    words = ["eval", "--bench", "shapes", "--videos", "1", "--frames", "2", "--model", str(checkpoint)]
    table = CliRunner().invoke(cli.app, words)
    assert table.exit_code == 0, table.output
    assert "demonstration model" in table.stdout
    assert "existence" in table.stdout
    printed = CliRunner().invoke(cli.app, [*words, "--json"])
    assert json.loads(printed.stdout)["arms"]["pruned"]["videos"] == 1


@pytest.mark.parametrize(("bench", "videos"), [("shape", 1), ("shapes", 0)])
def test_bad_input_is_refused_before_loading(bench, videos):
    with pytest.raises(InputError, match="->"):
        evaluate(bench, model="/nowhere", videos=videos, frames=4, max_fps=2)
