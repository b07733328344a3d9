"""--times: nothing of ours runs beside the arm that is timed, the arms change places, and only whole clips count."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from stts_cli.engine.model import VideoModel
from stts_cli.engine.results import Video
from stts_cli.errors import InputError
from stts_cli.evaluation.gather import gather
from stts_cli.evaluation.metrics import summarize_times
from stts_cli.evaluation.ranks import Ranks
from stts_cli.evaluation.runner import Run, evaluate
from stts_cli.media import reader
from stts_cli.report import evaluate as report_eval
from stts_cli.report.evaluation_page import markdown

CLIPS = 5
# seconds of every clip's two questions together; the first clip is slow for whoever comes first
DENSE, PRUNED = [99.0, 1.0, 2.0, 4.0, 5.0], [50.0, 0.5, 1.5, 1.0, 4.0]


@pytest.fixture
def five_clips(tmp_path, write_video):
    rows = []
    for number in range(CLIPS):
        shutil.copy(write_video("times.mp4", num_frames=20), tmp_path / f"{number}.mp4")
        for letter in "ab":
            row = {"id": f"{number}{letter}", "video": f"{number}.mp4", "question": letter, "answer": 0}
            rows.append(row | {"options": ["a dog", "a cat"]})
    path = tmp_path / "five.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def events(monkeypatch):
    """What happens, in order: a read of a clip, or an arm on the clip read last; both faked, with seconds as above."""
    log = []

    class Worker:
        """Reads in this process, at once."""

        def __init__(self):
            self.pipe, self._other = reader.multiprocessing.Pipe()
            self.index, self.started, self.is_ready = None, 0.0, True

        def start(self, index, request):
            self.index, self.started = index, reader.time.monotonic()
            log.append(f"read {request.source.path.stem}")
            self._other.send(reader._attempt(request))

        def ends(self, timeout_s):
            return reader._End(self.started + timeout_s, "late", False)

        def close(self):
            pass

    class Looked:
        """What an arm saw of a clip: half its seconds are its first question's."""

        def __init__(self, arm, clip):
            turn = log.count(arm)
            log.append(arm)
            self.share = (DENSE if arm == "dense" else PRUNED)[turn] / 2
            self.clip, self.timestamps_s, self.keep_mask = clip, clip.timestamps_s, torch.ones(1, 4, dtype=torch.bool)
            self.seconds, self.prefill_s = {}, 0.0

        costs = Video.costs

    def encode(model, clip, **given):
        return Looked("dense" if model.is_dense else "pruned", clip)

    def ask(model, video, question, **given):
        if "b" in question.split("\n")[0] and log[0] == "fail":
            log[0] = "failed"
            raise InputError("too long")
        return SimpleNamespace(
            question=question, text="A", finished=True, num_prompt_tokens=9, savings=SimpleNamespace(total=(2.0, 1.0)),
            peak_bytes=7, seconds={"llm": video.share},
        )  # fmt: skip

    log.append("start")
    monkeypatch.setattr(reader, "_Worker", Worker)
    monkeypatch.setattr(VideoModel, "encode", encode)
    monkeypatch.setattr(VideoModel, "ask", ask)
    return log


def run(path, arms, **settings):
    questions = gather(str(path))
    wanted = {"arms": arms, "workers": 2, "max_new_tokens": 2, "times": True, **settings}
    return evaluate(Run(questions=questions, **wanted))


def test_nothing_is_read_while_an_arm_runs_and_arms_take_turns(five_clips, arms, events):
    document = run(five_clips, arms)
    assert events[1:] == [
        "read 0", "dense", "pruned",
        "read 1", "pruned", "dense",
        "read 2", "dense", "pruned",
        "read 3", "pruned", "dense",
        "read 4", "dense", "pruned",
    ]  # fmt: skip
    assert document["times"]["clips"] == [
        {"dense": dense, "pruned": pruned} for dense, pruned in zip(DENSE[1:], PRUNED[1:], strict=True)
    ], "without the first, which warms up"
    assert document["times"]["arms"] == {
        "dense": {"seconds": 3.0, "ratio": None},
        "pruned": {"seconds": 1.25, "ratio": 0.625},
    }, "the ratio is the median of 0.5, 0.75, 0.25, 0.8, not that of two medians"
    assert "medians over 4 of 5 clips, arms in changing order" in document["times"]["how"]


def test_without_times_videos_are_read_ahead_and_nothing_is_timed(five_clips, arms, events, capsys):
    document = run(five_clips, arms, times=False)
    assert events[1:].index("dense") >= 3, "at least three clips were handed out before the first arm ran"
    assert [event for event in events[1:] if "read" not in event] == ["dense", "pruned"] * CLIPS
    report_eval.show_evaluation(document, json_only=False)
    text = json.dumps(document) + "\n".join(markdown(document))
    assert "seconds" not in text
    assert '_s"' not in text.replace("max_fps", "")
    said = capsys.readouterr().out
    assert "time a clip" not in said
    assert "times:" not in said


def test_times_are_in_the_table_and_on_the_page_where_they_were_asked_for(five_clips, arms, events, capsys):
    document = run(five_clips, arms)
    report_eval.show_evaluation(document, json_only=False)
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("pruned") and "1.25 s" in line]
    assert "1.25 s   0.62 x" in line
    assert document["times"]["how"] in said
    page = "\n".join(markdown(document))
    assert "| time a clip | ratio | peak memory |" in page
    assert "| 1.25 s | 0.62 x | 0 MiB |" in page
    assert document["times"]["how"] in page


def test_a_resumed_run_times_only_what_it_answers_in_full(five_clips, arms, events, tmp_path):
    out = tmp_path / "out"
    run(five_clips, arms, output=out)
    samples = (out / "samples.jsonl").read_text().splitlines(keepends=True)
    # clip 1 lacks one question, clips 2 to 4 lack everything
    left = [line for line in samples if "config" in line or '"id": "0' in line or '"id": "1a' in line]
    (out / "samples.jsonl").write_text("".join(left))
    events[1:] = []
    document = run(five_clips, arms, output=out)
    asked = [event for event in events[1:] if "read" not in event]
    assert asked == ["dense", "pruned", "pruned", "dense"] * 2
    assert len(document["times"]["clips"]) == 2, "three whole clips, the first of which warms up"
    again = run(five_clips, arms, output=out)["times"]
    assert (again["arms"], again["clips"]) == ({}, [])
    assert "medians over 0 of 5 clips" in again["how"]


def test_a_clip_with_a_failed_question_is_not_timed(five_clips, arms, events):
    events[0] = "fail"
    document = run(five_clips, arms)
    assert document["arms"]["dense"]["n_errors"] == 1
    assert len(document["times"]["clips"]) == 3, "clip 0 failed under one arm, clip 1 warms up"


def test_every_process_warms_up_and_several_are_said(five_clips, arms, events, monkeypatch):
    monkeypatch.setattr(
        Ranks, "collect", lambda self, own: [own, own and (own[0], [{"dense": 7.0, "pruned": 7.0}] * 3)]
    )
    document = run(five_clips, arms)
    assert len(document["times"]["clips"]) == 4 + 2
    said = summarize_times(document["times"]["clips"], CLIPS, 2)["how"]
    assert "2 processes ran at once" in said
    assert "processes" not in document["times"]["how"]


def test_the_times_of_a_single_clip():
    assert summarize_times([{"a": 2.0, "b": 1.0}], 2, 1)["arms"] == {
        "a": {"seconds": 2.0, "ratio": None},
        "b": {"seconds": 1.0, "ratio": 0.5},
    }
    for processes, said in ((1, ", are not timed)"), (2, ", are not timed; 2 processes ran at once)")):
        assert summarize_times([], 2, processes)["how"].endswith(said)
