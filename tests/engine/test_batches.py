"""Answers that are decoded together are those that are decoded one by one."""

import json

import pytest
import torch

from stts_cli import cli
from stts_cli.engine.model import VideoModel
from stts_cli.errors import InputError
from stts_cli.evaluation.runner import RunSettings
from stts_cli.families import load_family
from stts_cli.media.reader import read_source
from stts_cli.media.source import Source
from stts_cli.settings import Answering, Arm
from tests.families.registry import TINY

QUESTIONS = ["Why?", "What color is the circle, and where does it go?", "Who is it?"]


def model_of(name, tiny_checkpoint, folder, **how):
    saved = TINY[name].save(folder, scorer=True) if name in TINY else tiny_checkpoint
    return VideoModel(load_family(saved), Arm("", str(saved), frames=6, seed=0), max_new_tokens=9, **how)


@pytest.mark.parametrize("how", [Answering(), Answering(temperature=1.5, stop=("e", "a"))], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ["molmo2", *TINY])
def test_together_as_one_by_one(name, how, tiny_checkpoint, tmp_path, clip_file):
    model = model_of(name, tiny_checkpoint, tmp_path / "tiny", answering=how)
    if not model.is_joined:
        pytest.skip("its cache cannot be joined")
    clip = read_source(model.request(Source(clip_file)))
    videos = [model.encode(clip.first(count), keep_ratio=ratio) for count, ratio in ((6, 0.5), (3, 0.3), (1, 1.0))]
    asked = [(video, question) for video in videos for question in QUESTIONS]
    alone = [model.ask(video, question) for video, question in asked]
    begun = [model.begin(video, question) for video, question in asked]
    assert len({each.state.prefix.cache.get_seq_length() for each in begun}) > 4, "padding is needed"
    together = model.finish(begun, max_new_tokens=9)
    assert [each.text for each in together] == [each.text for each in alone]
    assert [(each.finished, each.num_new_tokens) for each in together] == [
        (each.finished, each.num_new_tokens) for each in alone
    ]
    assert [each.savings for each in together] == [each.savings for each in alone]
    assert [model.ask(video, question).text for video, question in asked[:2]] == [each.text for each in alone[:2]]


@pytest.mark.parametrize("size", [2, 3, 50])
def test_ask_answers_about_several_videos_as_one_by_one(
    size, tiny_checkpoint, clip_file, write_video, tmp_path, capsys
):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    other = write_video("short.mp4", num_frames=9)
    runs = []
    for number in (1, size):
        words = ["ask", str(clip_file), str(broken), str(other), *QUESTIONS, "--model", str(tiny_checkpoint), "--json"]
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--max-new-tokens", "7", "--frames", "5", "--compare", "--batch-size", str(number)])
        assert ended.value.code == 2, "for the broken one"
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["video"]["path"] for line in lines] == [str(clip_file), str(broken), str(other)]
        kept = ("question", "text", "finished", "num_new_tokens", "num_prompt_tokens", "savings")
        runs.append(
            [
                [{name: answer[name] for name in kept} for arm in line.get("arms", ()) for answer in arm["answers"]]
                for line in lines
            ]
        )
    assert runs[0] == runs[1]
    assert [len(line) for line in runs[0]] == [6, 0, 6]


def test_what_cannot_be_asked_so_is_one_line(clip_file, capsys):
    for words, line in (
        (["--batch-size", "0"], "--batch-size 0: must be at least 1."),
        (
            ["--batch-size", "2", "--chat"],
            "--batch-size 2: a conversation has one answer at a time; leave it out with --chat.",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["ask", str(clip_file), "?", *words])
        assert ended.value.code == 2
        assert " ".join(capsys.readouterr().err.split()).endswith(line)


@pytest.mark.parametrize("size", [2, 5])
def test_eval_answers_as_one_by_one(size, tiny_checkpoint, tmp_path, capsys):
    rows = []
    for number in (1, size):
        out = tmp_path / str(number)
        words = ["eval", "--bench", "shapes", "--limit", "7", "--frames", "4", "--model", str(tiny_checkpoint)]
        words += ["--workers", "0", "--output", str(out), "--batch-size", str(number), "--compare", "dense"]
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0, capsys.readouterr().err
        lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        rows.append([{**row, "peak_bytes": 0} for row in lines if "config" not in row])
        assert lines[0]["config"].get("batch_size") == (None if number == 1 else number)
    assert rows[0] == rows[1]
    assert len(rows[0]) == 14


def test_a_model_that_cannot_is_named(tmp_path, capsys):
    folder = TINY["gemma4"].save(tmp_path / "tiny")
    words = ["eval", "--bench", "shapes", "--limit", "2", "--frames", "2", "--model", str(folder), "--workers", "0"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--batch-size", "2", "--json"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert any(note.startswith("--batch-size 2: no effect on tiny, whose") for note in document["notes"])
    assert all(row["text"] is not None for row in document["samples"])


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"^--batch-size 0: must be at least 1\.$"):
        RunSettings(batch_size=0)
    with pytest.raises(InputError, match=r"^--times: times every question alone; it cannot stand with --batch-size\.$"):
        RunSettings(batch_size=2, times=True)


def test_a_question_that_is_too_long_costs_itself_alone(tiny_checkpoint, clip_file, tmp_path):
    model = model_of("molmo2", tiny_checkpoint, tmp_path)
    video = model.encode(str(clip_file))
    with pytest.raises(InputError, match="the prompt: has"):
        model.begin(video, "Why? " * 5000)
    assert torch.equal(video.keep_mask, model.encode(str(clip_file)).keep_mask)
