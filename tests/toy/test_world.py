"""The procedural world: the same scene from the same seed, and answers that the drawn frames bear out."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from stts_cli.media.video import read_clip
from stts_cli.toy.clips import main, write_clip
from stts_cli.toy.labels import NUM_BINARY, NUM_LABELS, NUM_PAIRS, window_labels
from stts_cli.toy.questions import MORE_WORDINGS, UNSEEN_WORDINGS, WORDINGS, as_typed, ask
from stts_cli.toy.render import render
from stts_cli.toy.world import COLORS, SHAPES, make_scene
from stts_cli.toy.world_clips import ASK_WEIGHTS

SCENES = [make_scene("test", k) for k in range(60)] + [make_scene("test", k, long=True) for k in range(10)]


def test_same_arguments_same_scene():
    assert make_scene("test", 5) == make_scene("test", 5)
    assert ask(make_scene("test", 5)) == ask(make_scene("test", 5))


def test_splits_and_lengths_do_not_share_scenes():
    drawn = [
        make_scene(split, k, long).things
        for split in ("train", "validation", "test")
        for long in (False, True)
        for k in range(30)
    ]
    assert len(set(drawn)) == len(drawn)


def test_lengths_and_events():
    for scene in SCENES:
        low, high = (60, 180) if scene.long else (4, 8)
        assert low <= scene.duration_s <= high
        brief = [t for t in scene.things if t.action == "brief"]
        assert len(brief) <= 1
        for thing in brief:
            assert 1.0 <= thing.visible_s[1] - thing.visible_s[0] <= 2.0


def test_colors_are_never_shared():
    for scene in SCENES:
        used = [c for t in scene.things for c in (t.color, t.turn_color) if c]
        assert len(used) == len(set(used))


def test_every_type_is_asked_with_its_answer_among_the_options():
    seen = Counter()
    for scene in SCENES:
        for question in ask(scene):
            seen[question.type] += 1
            assert question.answer in question.options
            assert len(set(question.options)) == len(question.options)
    assert set(seen) == set(ASK_WEIGHTS)


def _pixels(scene, time_s, color):
    """Return the mask of pixels nearest to a palette colour."""
    frame = render(scene, np.array([time_s]), 96)[0].astype(int)
    return np.abs(frame - np.array(COLORS[color])).sum(-1) < 40


def test_drawn_frames_bear_out_direction_and_visibility():
    checked = 0
    for scene in SCENES[:60]:
        for thing in scene.things:
            first, last = _pixels(scene, 0.0, thing.color), _pixels(scene, scene.duration_s, thing.color)
            assert bool(first.sum() > 12) == (thing.visible_s[0] == 0.0)
            if not thing.direction:
                continue
            (y0, x0), (y1, x1) = (np.argwhere(mask).mean(0) for mask in (first, last))
            moved = {"left": x0 - x1, "right": x1 - x0, "up": y0 - y1, "down": y1 - y0}
            assert max(moved, key=moved.get) == thing.direction
            assert moved[thing.direction] > 15
            checked += 1
    assert checked > 20


def test_turned_into_is_the_color_at_the_end():
    turned = [(s, t) for s in SCENES for t in s.things if t.turn_color]
    assert turned
    for scene, thing in turned:
        assert _pixels(scene, scene.duration_s, thing.turn_color).sum() > 12


def test_labels_say_where_things_are():
    scene = next(s for s in SCENES if len(s.things) >= 3)
    times = np.array([0.0, scene.duration_s])
    labels = window_labels(scene, times)
    assert labels.shape == (2, 16, NUM_LABELS)
    for t, time_s in enumerate(times):
        centres = set()
        for thing in scene.things:
            x, y, visible, turned = (v[0] for v in thing.at(np.array([time_s])))
            if visible:
                color = thing.turn_color if turned else thing.color
                centres.add(
                    (int(y * 4) * 4 + int(x * 4), list(COLORS).index(color) * len(SHAPES) + SHAPES.index(thing.shape))
                )
        assert {tuple(c) for c in np.argwhere(labels[t, :, :NUM_PAIRS] > 0).tolist()} == centres
        assert ((labels[t, :, NUM_BINARY:] != 0).any(-1) <= labels[t, :, :NUM_PAIRS].any(-1)).all()


def test_a_written_file_reads_back_as_the_drawn_frames(tmp_path):
    scene = make_scene("validation", 1)
    clip = read_clip(write_clip(scene, tmp_path / "clip.mp4"), num_frames=6, size=(96, 96))
    drawn = render(scene, np.array(clip.timestamps_s), 96)
    assert np.abs(np.asarray(clip.frames).astype(int) - drawn).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_fresh_clips_come_with_their_questions(tmp_path, capsys):
    main([str(tmp_path), "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("clip-0.mp4")
    questions = ask(make_scene("test", 1_000_000))
    assert len(lines) == 1 + len(questions)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert [(row["question"], row["answer"]) for row in rows] == [(q.text, q.answer) for q in questions]
    assert all((tmp_path / row["video"]).is_file() for row in rows)
    with pytest.raises(SystemExit, match="usage"):
        main([str(tmp_path), "many"])


def test_a_question_in_other_words_asks_the_same():
    assert set(MORE_WORDINGS) == set(UNSEEN_WORDINGS) == set(WORDINGS)
    for key, wordings in WORDINGS.items():
        named = "{0}" in wordings[0]
        for known in (MORE_WORDINGS[key], UNSEEN_WORDINGS[key]):
            assert len(set(known)) == len(known)
            assert all(("{0}" in wording) == named for wording in known)
    rng = np.random.default_rng(0)
    for index in range(20):
        for question in ask(make_scene("train", index)):
            other = question.reworded(rng, UNSEEN_WORDINGS)
            assert other.text != question.text
            assert dataclasses.replace(other, text=question.text) == question
            assert question.name in question.text
            assert question.name in other.text


def test_questions_as_typed_differ_in_their_manner_only():
    rng = np.random.default_rng(0)
    said = [as_typed("What is the red object?", rng) for _ in range(500)]
    assert said.count("What is the red object?") > 250
    for other in ("What is the red object", "what is the red object?", "In this video, what is the red object?"):
        assert other in said
    assert all("hat is the red object" in text for text in said)
