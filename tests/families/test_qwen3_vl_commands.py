"""Qwen3-VL through the commands: what differs there where frames have no size of their own."""

import json

import pytest

from stts_cli import cli
from tests.families.tiny_qwen3_vl import QUESTION, save_qwen3_vl
from tests.training.conftest import videos_jsonl  # noqa: F401


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"), scorer=True)


@pytest.fixture(scope="module")
def sideways(write_video):
    """A file of frames 96 px high and 128 wide that are shown turned by a quarter."""
    path = write_video("sideways.mp4", num_frames=12)
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44  # of the matrix, in a header of version 0
    for index, value in zip((0, 1, 3, 4), (0, 1, -1, 0), strict=True):
        data[place + 4 * index : place + 4 * index + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def run(folder, capsys):
    """Run a command on the checkpoint, and return its document."""

    def typed(command, *words):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, *map(str, words), "--model", str(folder), "--device", "cpu", "--json"])
        out = capsys.readouterr().out
        assert ended.value.code == 0
        return json.loads(out)

    return typed


@pytest.mark.slow
def test_ask_compares_arms_of_several_sizes(run, sideways, tmp_path):
    """Each arm has its own frames, upright and of the size that the rule gives so many."""
    page = tmp_path / "page.html"
    document = run("ask", sideways, QUESTION, "--frames", 2, "--max-fps", 10, "--compare", "dense@12f")
    few, many = ((arm["num_frames"], arm["frame_size"]) for arm in document["arms"])
    assert (few[0], many[0]) == (2, 12)
    assert few[1][0] > few[1][1], "upright"
    assert few[1][0] > many[1][0]
    document = run("ask", sideways, QUESTION, "--frames", 4, "--options", "red", "blue", "--report", page)
    assert {option["text"] for option in document["arms"][0]["answers"][0]["options"]} == {"red", "blue"}
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_ask_spends_a_budget(run, sideways):
    words = ("ask", sideways, QUESTION, "--budget", 4, "--max-fps", 10, "--prune-ratio", 0.5)
    pruned, dense = run(*words)["arms"]
    assert (pruned["num_frames"], dense["num_frames"]) == (8, 4)
    assert pruned["frame_size"] == dense["frame_size"]
    assert pruned["num_windows_kept"] == dense["num_windows"]
    document = run(*words, "--budget-pixels", "total")
    pruned, dense = document["arms"]
    assert pruned["frame_size"] < dense["frame_size"]
    assert any(note.startswith("--budget-pixels total: 8 frames of ") for note in document["notes"])


def test_eval_compares_arms(run):
    words = ("--bench", "shapes", "--limit", 4, "--frames", 4, "--workers", 0, "--compare", "random@0.6")
    document = run("eval", *words)
    assert len(document["arms"]) == 2
    assert not document["failed"]
    tokens = {(row["num_frames"], row["visual_tokens_dense"], row["visual_tokens"]) for row in document["samples"]}
    assert len(document["samples"]) == 8
    assert tokens == {(4, 72, 36), (4, 72, 72 - 28)}, "at keep ratio 0.5 and 0.6"


def test_profile_takes_the_size_that_a_users_video_is_shown_in(run, sideways):
    words = ("--video", sideways, "--frames", 12, "--keep-ratio", 0.5)
    counted = run("profile", *words, "--analytic")
    assert "12 frames: 24x32 px each, 12 tokens a unit of 2 frames" in counted["notes"]
    measured = run("profile", *words, "--repeats", 1, "--no-memory")
    for document in (counted, measured):
        assert document["points"][0]["tokens"]["visual tokens"] == {"dense": 72, "pruned": 36}


@pytest.mark.slow
def test_finetune_trains(run, videos_jsonl, tmp_path):  # noqa: F811
    words = ("--data", videos_jsonl, "--train", "full", "--steps", 2, "--frames", 4, "--eval-videos", 0)
    document = run("finetune", *words, "--output", tmp_path / "run")
    assert (document["train"], document["steps"]) == ("full", 2)
    assert (tmp_path / "run" / "stts.json").is_file()
