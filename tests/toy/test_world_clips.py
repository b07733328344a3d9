"""Clips of the procedural world for training: drawn from their seeds, of like length in an item, held out apart."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from stts_cli.errors import InputError
from stts_cli.evaluation.benchmarks.shapes import DEFAULT_VIDEOS
from stts_cli.toy import world_clips
from stts_cli.toy.render import render
from stts_cli.toy.world import make_scene
from stts_cli.toy.world_clips import ASK_WEIGHTS, LENGTHS, MAX_NOISE, HeldOutShapes, ShapesClips
from stts_cli.training.clips import collate
from stts_cli.training.settings import FinetuneSettings
from tests.training.test_clips import SIZE, same


def shapes(steps=50, *, size=SIZE, world=1, **settings):
    settings = {"seed": 3, "frames": 8, "shapes_mix": "all", **settings}
    return ShapesClips(FinetuneSettings(data="shapes", steps=steps, **settings), size, world)


def test_an_item_is_a_function_of_seed_and_index():
    one, other = shapes(), shapes(10_000)
    for index in (7, 0, 7):
        assert len(one[index]) == len(other[index])
        assert all(same(a, b) for a, b in zip(one[index], other[index], strict=True))
    assert not same(one[0][0], one[1][0])
    assert not same(one[0][0], shapes(seed=4)[0][0])
    assert len(one) == 50
    with pytest.raises(IndexError):
        one[50]


def test_clips_of_an_item_are_of_like_length_and_within_the_limit():
    dataset = shapes(frames=16, shapes_mix="short")
    for index in range(12):
        item = dataset[index]
        assert len(item) == {1: 16, 2: 16, 4: 14, 8: 10, 16: 7}[min(n for n, *_ in LENGTHS if n >= _longest(item))]
        for clip in item:
            assert clip.frames.shape == (len(clip.timestamps_s), *SIZE, 3)
            assert clip.frames.dtype == torch.uint8
            assert clip.name.startswith("shapes:train/")
            assert 1 <= len(clip.conversations) <= 8
            assert all(c.group in ASK_WEIGHTS and len(c.turns) == 1 for c in clip.conversations)
            assert list(clip.timestamps_s) == sorted(set(clip.timestamps_s))


def _longest(item):
    return max(len(clip.frames) for clip in item)


@pytest.mark.parametrize(
    ("mix", "limit", "expected"),
    [
        ("all", 128, [(n, long) for n, _, _, long in LENGTHS]),
        ("short", 128, [(1, False), (2, False), (4, False), (8, False), (16, False)]),
        ("long", 64, [(16, True), (32, True), (64, True)]),
        ("long", 24, [(16, True), (24, True)]),
        ("all", 8, [(1, False), (2, False), (4, False), (8, False)]),
        ("short", 1, [(1, False)]),
    ],
)
def test_the_limit_and_the_mix_choose_the_lengths(mix, limit, expected):
    dataset = shapes(shapes_mix=mix, frames=limit)
    assert [(frames, long) for frames, _, _, long in dataset.lengths] == expected


def test_long_clips_last_longer():
    assert all(clip.timestamps_s[-1] > 30 for clip in shapes(shapes_mix="long", frames=16)[0])
    assert all(clip.timestamps_s[-1] <= 8 for clip in shapes(shapes_mix="short", frames=16)[0])


def test_the_batch_size_multiplies_the_clips_of_an_item_and_nothing_else_the_items():
    one, three = shapes(), shapes(batch_size=3, accumulate=2, scorer_warmup=5)
    assert (len(one), len(three)) == (50, 2 * 55)
    for index in (4, 11):  # small ones
        assert len(three[index]) == 3 * len(one[index])


def test_items_that_are_taken_at_the_same_time_are_alike(monkeypatch):
    monkeypatch.setattr(world_clips, "LENGTHS", [length._replace(clips=1) for length in LENGTHS])
    dataset = shapes(10, world=4, frames=16, shapes_mix="short", max_questions=1)
    assert len(dataset) == 40
    limits = [min(n for n, *_ in LENGTHS if n >= _longest(dataset[k])) for k in range(40)]
    assert all(len(set(limits[k : k + 4])) == 1 for k in range(0, 40, 4))
    assert len(set(limits)) > 2
    assert not same(dataset[0][0], dataset[1][0])


def test_training_clips_are_the_scene_with_some_noise():
    (item,) = [shapes(shapes_mix="short", frames=16)[0]]
    errors = []
    for clip in item:
        scene = make_scene("train", int(clip.name.split("/")[1]))
        clean = render(scene, np.array(clip.timestamps_s), SIZE[0]).astype(float)
        errors.append(float(np.abs(clip.frames.numpy() - clean).mean()))
    assert len({round(error, 3) for error in errors}) == len(item)  # each with its own strength
    assert all(0 < error < MAX_NOISE for error in errors)


def test_fewer_questions_where_fewer_are_wanted():
    assert {len(clip.conversations) for clip in shapes(max_questions=2)[0]} == {2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shapes_mix": "shrt"}, r"^--shapes-mix shrt: is unknown; did you mean 'short'\?"),
        ({"shapes_mix": "long", "frames": 8}, "^--frames 8: must be at least 9 for --shapes-mix long\\.$"),
        ({"size": (48, 64)}, "^--data shapes: has square frames only, the model takes 48x64; "),
    ],
)
def test_shapes_that_cannot_be_drawn_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        shapes(**settings)


def test_shapes_come_out_of_workers_as_they_are():
    dataset = shapes(4)
    batches = list(DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collate))
    alone = [clip for k in range(4) for clip in dataset[k]]
    assert len(batches) == 2
    assert all(same(a, b) for a, b in zip([c for b in batches for c in b["clips"]], alone, strict=True))


def held_out(eval_videos, frames=16, **settings):
    return HeldOutShapes(FinetuneSettings(data="shapes", eval_videos=eval_videos, frames=frames, **settings), SIZE)


def test_held_out_shapes_ask_everything_that_their_frames_can_answer():
    dataset = held_out(60)
    assert len(dataset) == 60
    groups = {c.group for k in range(60) for c in dataset[k][0].conversations}
    assert groups == set(ASK_WEIGHTS)
    (clip,) = dataset[5]
    scene, times, questions = vars(dataset.clips[5]).values()
    assert len(clip.conversations) == len(questions)
    assert all(question.answerable(times) for question in questions)
    assert np.array_equal(clip.frames.numpy(), render(scene, times, SIZE[0]))  # without noise
    assert same(clip, held_out(60)[5][0])


def test_held_out_shapes_are_neither_trained_on_nor_evaluated():
    names = [held_out(20, seed=s, frames=8)[0][0].name for s in range(3)]
    assert len(set(names)) == 3
    for name in names:
        split, index = name.removeprefix("shapes:").split("/")
        assert split == "test"
        assert int(index) > DEFAULT_VIDEOS


def test_long_held_out_shapes_are_long():
    (clip,) = held_out(1, shapes_mix="long")[0]
    assert clip.frames.shape[0] == 16
    assert clip.timestamps_s[-1] > 30
