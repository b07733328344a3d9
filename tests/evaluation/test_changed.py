"""Which questions arms answer differently, and which of them are looked at again."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stts_cli.config.presets import presets_folder
from stts_cli.config.suites import Suite
from stts_cli.errors import InputError
from stts_cli.evaluation import changed
from stts_cli.evaluation.runner import RunSettings
from stts_cli.evaluation.suite import DataSource, run_benchmarks
from stts_cli.media.source import ReadRequest, Source
from stts_cli.settings import Arm


def rows(*verdicts):
    """Return rows of arms a, b, c: a word of 1, 0 or - each question."""
    letters = {"1": 1, "0": 0, "-": None}
    return [
        {"id": f"q{number}", "arm": arm, "correct": letters[letter]}
        for number, word in enumerate(verdicts)
        for arm, letter in zip("abc", word, strict=False)
    ]


def test_a_question_changed_where_one_arm_is_right_and_another_wrong():
    found = changed.changed_questions(rows("11", "10", "00", "01", "1-", "--", "-0"))
    assert list(found) == ["q1", "q3"]
    assert found["q3"]["b"]["correct"] == 1


@pytest.mark.parametrize("most", [1, 2, 3, 50])
def test_no_group_shows_more_than_its_number(most, monkeypatch):
    monkeypatch.setattr(changed, "MOST_SHOWN", most)
    words = ["101", "100", "110", "011", "010", "001", "000", "111"] * 4
    found = changed.changed_questions(rows(*words))
    shown = changed.choose_shown(found, "abc")
    assert len(set(shown)) == len(shown)
    groups = Counter(
        (one, other)
        for question in shown
        for one, other in itertools.permutations("abc", 2)
        if (found[question][one]["correct"], found[question][other]["correct"]) == (1, 0)
    )
    assert max(groups.values()) <= most
    assert groups["a", "b"] == min(most, 8), "right under a, wrong under b: 2 of 8 words, four times"
    if most == 50:
        assert set(shown) == set(found)
        monkeypatch.setattr(changed, "MOST_IN_ALL", 5)
        assert changed.choose_shown(found, "abc") == shown[:5]


def test_what_cannot_be_seen_again_is_passed_over(clip_file):
    """A file that is gone by now, and an arm that cannot encode what it reads."""
    looked = []

    class Model:
        def __init__(self, name, failing):
            self.arm, self.failing = SimpleNamespace(name=name), failing

        def request(self, source):
            return ReadRequest(source, 3, 2.0, (32, 32))

        def encode(self, clip):
            if self.failing:
                raise InputError("too long")
            return clip.timestamps_s

    sources = Source(clip_file.with_name("gone.mp4")), Source(clip_file)
    items = [SimpleNamespace(id=f"q{number}", source=source) for number, source in enumerate(sources)]
    questions = SimpleNamespace(items=items, benchmark=SimpleNamespace(name="x"))
    run = SimpleNamespace(questions=questions, num_workers=0, timeout_s=9.0)
    models = [Model("a", failing=False), Model("b", failing=True)]
    changed.look_again(run, models, rows("10", "01"), lambda *what: looked.append(what), lambda *_: None)
    ((bench, names, videos),) = looked
    assert (bench, names, list(videos)) == ("x", ["q1"], ["a"])
    assert videos["a"][1].shape == (3, 96, 128, 3)


@pytest.mark.slow
def test_the_clips_of_changed_questions_are_seen_again_as_every_arm_saw_them(tmp_path: Path):
    nano = str(presets_folder() / "nano")
    arms = [
        Arm("dense", nano, 8, keep_ratio=1.0, scorer="none"),
        Arm("random", nano, 8, keep_ratio=0.1, scorer="random"),
    ]
    looked = []
    document = run_benchmarks(
        Suite(bench="shapes", videos=3),
        arms,
        DataSource(),
        RunSettings(tmp_path, workers=0),
        look=lambda *what: looked.append(what),
    )
    found = changed.changed_questions(document["samples"])
    assert found, "a tenth of the windows by chance must change an answer, or this test shows nothing"
    assert {bench for bench, _, _ in looked} == {"shapes"}
    assert sorted(name for _, names, _ in looked for name in names) == sorted(found)
    for _, names, videos in looked:
        assert list(videos) == ["dense", "random"]
        assert videos["dense"][1] is videos["random"][1]
        for arm, (video, frames) in videos.items():
            assert frames.shape[1:] == (changed.LONGEST, changed.LONGEST, 3), "the file has 288 pixels, the model 96"
            assert len(frames) == len(video.timestamps_s)
            row = found[names[0]][arm]
            assert int(np.asarray(video.keep_mask).sum()) == row["visual_tokens"], dataclasses.asdict(video.pruning)
