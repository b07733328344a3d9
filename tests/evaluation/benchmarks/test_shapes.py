"""The procedural world as a benchmark: held-out clips, every arm on the same questions, honest sums."""

import json

import pytest
from typer.testing import CliRunner

from stts_cli import cli
from stts_cli.errors import InputError
from stts_cli.evaluation.benchmarks.shapes import make_items
from stts_cli.evaluation.gather import gather
from stts_cli.toy.questions import ask
from stts_cli.toy.world import make_scene


def test_items_are_the_test_scenes_and_files_are_made_once(tmp_path):
    items = make_items(False, "test", 2, tmp_path)
    asked = [question for index in range(2) for question in ask(make_scene("test", index))]
    assert [(item.question, item.answer) for item in items] == [(q.text, q.answer) for q in asked]
    assert len({item.id for item in items}) == len(items)
    sources = list(dict.fromkeys(item.source for item in items))
    assert not sources[0].path.exists(), "nothing is written before it is read"
    sources[0].prepare()
    written = sources[0].path.stat().st_mtime_ns
    sources[0].prepare()
    assert sources[0].path.stat().st_mtime_ns == written


def test_arms_answer_the_same_questions_and_the_sums_are_theirs(run_shapes):
    document = run_shapes()
    rows, arms = document["samples"], document["arms"]
    asked = [question for index in range(2) for question in ask(make_scene("test", index))]
    windows = 9
    for name, arm in arms.items():
        mine = [row for row in rows if row["arm"] == name]
        assert [row["question"] for row in mine] == [question.text for question in asked]
        assert arm["micro"] == arm["accuracy"] == sum(row["correct"] for row in mine) / len(mine)
        assert all(row["correct"] == (row["text"] == row["answer"]) for row in mine)
        family = arm["groups"]["family"]
        assert sum(score["n"] for score in family.values()) == arm["n"] == len(asked)
        assert family["color"]["chance"] == pytest.approx(1 / 8)
    assert arms["dense"]["visual_tokens"] == 4 * windows
    assert arms["pruned"]["visual_tokens"] == 4 * windows / 2
    assert arms["pruned"]["flops"] < arms["dense"]["flops"]
    (comparison,) = document["comparisons"]
    assert (comparison["arm"], comparison["against"], comparison["n"]) == ("pruned", "dense", len(asked))
    assert comparison["flops_ratio"] == pytest.approx(arms["pruned"]["flops"] / arms["dense"]["flops"])


def test_the_command_prints_a_table_or_json(tiny_checkpoint):
    words = ["eval", "--bench", "shapes", "--videos", "1", "--frames", "2", "--model", str(tiny_checkpoint)]
    table = CliRunner().invoke(cli.app, [*words, "--workers", "0"])
    assert table.exit_code == 0, table.output
    assert "demonstration model" in table.stdout
    assert "existence" in table.stdout
    printed = CliRunner().invoke(cli.app, [*words, "--workers", "0", "--json"])
    assert json.loads(printed.stdout)["arms"]["pruned"]["videos"] == 1


def test_compare_alone_means_dense(tiny_checkpoint, capsys):
    words = ["eval", "--bench", "shapes", "--limit", "3", "--compare", "--model", str(tiny_checkpoint)]
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--frames", "2", "--workers", "0", "--json"])
    assert end.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert {name: arm["n"] for name, arm in document["arms"].items()} == {"pruned": 3, "dense": 3}


@pytest.mark.parametrize(
    ("bench", "videos", "message"),
    [
        ("shape", 1, "--bench shape: is neither .*; did you mean 'shapes'"),
        ("shapes", 0, "--videos 0: must be at least 1"),
    ],
)
def test_bad_input_is_refused(bench, videos, message):
    with pytest.raises(InputError, match=message):
        gather(bench, videos=videos)


def test_reworded_asks_the_same_of_the_same_clips_in_words_of_no_training(tmp_path):
    from stts_cli.toy.questions import MORE_WORDINGS, UNSEEN_WORDINGS, WORDINGS

    for long in (False, True):
        plain, other = (make_items(long, split, 3, tmp_path) for split in ("test", "reworded"))
        assert [item.source for item in plain] == [item.source for item in other]
        assert [item.answer for item in plain] == [item.answer for item in other]
        assert not {item.question for item in plain} & {item.question for item in other}
        assert not {item.id for item in plain} & {item.id for item in other}
        assert [item.question for item in other] == [i.question for i in make_items(long, "reworded", 3, tmp_path)]
    for key, wordings in UNSEEN_WORDINGS.items():
        assert not set(wordings) & {*WORDINGS[key], *MORE_WORDINGS[key]}
