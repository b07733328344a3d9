"""Clips of the procedural world for training: a random scene, the times looked at, and questions these can answer.

An item of a data set is a list of clips of like length that are encoded together. It depends on its index alone, so
that a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from stts_cli.data.conversations import Conversation
from stts_cli.errors import InputError, suggest
from stts_cli.media.video import sample_indices
from stts_cli.toy.clips import LONG_FPS, SHORT_FPS
from stts_cli.toy.questions import MORE_WORDINGS, Question, ask, loosen, reword
from stts_cli.toy.render import render
from stts_cli.toy.world import Scene, make_scene
from stts_cli.training.clips import TrainingClip

# frames, share of items, clips an item, long clips
LENGTHS = (
    (1, 0.02, 16, False),
    (2, 0.04, 16, False),
    (4, 0.10, 14, False),
    (8, 0.42, 10, False),
    (16, 0.28, 7, False),
    (16, 0.03, 7, True),
    (32, 0.06, 4, True),
    (64, 0.04, 2, True),
    (128, 0.01, 1, True),
)
# how often a family is asked: what is learned last is asked most
ASK_WEIGHTS = {
    "color": 0.7,
    "shape": 0.5,
    "existence": 1.0,
    "turned_into": 2.5,
    "first_last": 2.5,
    "count": 2.5,
    "direction": 1.5,
    "position": 0.8,
    "happened": 1.5,
    "brief": 1.5,
}
MIXES = {"short": (False,), "long": (True,), "all": (False, True)}
MAX_NOISE = 6.0  # grey levels: the strongest sensor noise of a training clip
FIRST_HELD_OUT = 2_000_000  # scene index; `stts eval` measures those from 0 on
_WORLD_FPS = 2.0  # frames a second that are looked at, at most


@dataclass(frozen=True)
class Clip:
    """One training video: its scene, its sampled times and the questions asked about it."""

    scene: Scene
    times_s: np.ndarray
    questions: tuple[Question, ...]


def draw_clip(
    rng: np.random.Generator,
    split: str,
    num_frames: int,
    num_questions: int,
    long: bool,
    ask_weights: dict[str, float],
) -> Clip:
    """Draw a random clip of `split` with at most `num_frames` frames and questions that these frames can answer."""
    while True:
        scene = make_scene(split, int(rng.integers(2**40)), long)
        fps = LONG_FPS if long else SHORT_FPS
        file_times = np.arange(max(1, round(scene.duration_s * fps))) / fps
        times = file_times[sample_indices(file_times, num_frames, 2.0)]
        pool = [q for q in ask(scene, stream=0) if q.answerable(times)]
        if not pool:
            continue
        sizes: dict[str, int] = {}
        for q in pool:
            sizes[q.family] = sizes.get(q.family, 0) + 1
        weights = np.array([ask_weights[q.family] / sizes[q.family] ** 0.5 for q in pool])
        order = np.argsort(-np.log(weights) + np.log(rng.exponential(size=len(pool))))
        return Clip(scene, times, tuple(_said_freely(pool[k], rng) for k in order[:num_questions]))


class ShapesClips(Dataset[list[TrainingClip]]):
    """Clips of the procedural world, drawn from seeds: as many items as one likes, each a function of (seed, index).

    Args:
        num_items: length of the data set.
        seed: of everything in it.
        num_frames: the most frames of a clip.
        mix: a key of `MIXES`: "short" clips of 4-8 s, "long" ones of 1-3 min, or "all".
        questions: the most questions about a clip.
        frame_size: (height, width) in pixels, square.
        scale: multiplies the number of clips of an item.
        alike: so many items in a row have clips of like length; give it the number of processes that each take one of
            them at the same time, and none waits for longer clips.
    """

    def __init__(
        self,
        num_items: int,
        *,
        seed: int,
        num_frames: int = 128,
        mix: str = "all",
        questions: int = 8,
        frame_size: tuple[int, int],
        scale: float = 1.0,
        alike: int = 1,
    ) -> None:
        if mix not in MIXES:
            raise InputError(f"no mix '{mix}' of shapes{suggest(mix, MIXES)}")
        # a length above the limit is cut to it, unless a shorter one stands for it already
        self.lengths = [
            (min(frames, num_frames), share, max(1, round(clips * scale)), long)
            for frames, share, clips, long in LENGTHS
            if long in MIXES[mix] and frames < 2 * num_frames
        ]
        if not self.lengths:
            least = min(frames for frames, _, _, long in LENGTHS if long in MIXES[mix]) // 2 + 1
            raise InputError(f"{num_frames} frames of {mix} shapes -> at least {least} -> raise --frames")
        self.num_items, self.seed, self.questions, self.alike = num_items, seed, questions, alike
        self.side = _square(frame_size)

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> list[TrainingClip]:
        if not 0 <= index < self.num_items:
            raise IndexError(index)
        shares = np.array([share for _, share, _, _ in self.lengths])
        shared = np.random.default_rng([self.seed, 40, index // self.alike])
        frames, _, clips, long = self.lengths[int(shared.choice(len(shares), p=shares / shares.sum()))]
        rng = np.random.default_rng([self.seed, 41, index])
        drawn = [draw_clip(rng, "train", frames, self.questions, long, ASK_WEIGHTS) for _ in range(clips)]
        return [
            _drawn(
                c.scene, c.times_s, c.questions, self.side, float(rng.uniform(0, MAX_NOISE)), int(rng.integers(2**31))
            )
            for c in drawn
        ]


class HeldOutShapes(Dataset[list[TrainingClip]]):
    """Scenes that nothing is trained on, one an item, with every question that their frames can answer; see below."""

    def __init__(self, scenes: list[tuple[Scene, np.ndarray, tuple[Question, ...]]], side: int) -> None:
        self.scenes, self.side = scenes, side

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> list[TrainingClip]:
        return [_drawn(*self.scenes[index], self.side)]


def shapes_held_out(
    num_videos: int, *, seed: int, frames: int, frame_size: tuple[int, int], long: bool = False, split: str = "test"
) -> HeldOutShapes:
    """Return held-out clips of the procedural world; none of them is one that `stts eval` measures.

    Args:
        num_videos: how many.
        seed: which ones.
        frames: the most frames of a clip.
        frame_size: (height, width) in pixels, square.
        long: clips of 1-3 min instead of 4-8 s.
        split: "test" or "validation".

    Returns:
        The data set; a question's group is its family.
    """
    side = _square(frame_size)
    scenes: list[tuple[Scene, np.ndarray, tuple[Question, ...]]] = []
    index = FIRST_HELD_OUT + seed * 100_000
    while len(scenes) < num_videos:
        scene = make_scene(split, index, long)
        index += 1
        fps = LONG_FPS if long else SHORT_FPS
        times = np.arange(max(1, round(scene.duration_s * fps))) / fps
        times = times[sample_indices(times, frames, _WORLD_FPS)]
        questions = tuple(question for question in ask(scene) if question.answerable(times))
        if questions:
            scenes.append((scene, times, questions))
    return HeldOutShapes(scenes, side)


def _drawn(
    scene: Scene,
    times_s: np.ndarray,
    questions: Sequence[Question],
    side: int,
    noise: float = 0.0,
    noise_seed: int = 0,
) -> TrainingClip:
    frames = render(scene, times_s, side, noise=noise, noise_seed=noise_seed)
    times = tuple(round(float(time), 4) for time in times_s)
    asked = tuple(Conversation(((q.text, q.answer),), q.family) for q in questions)
    return TrainingClip(torch.from_numpy(frames), times, asked, f"shapes:{scene.split}/{scene.index}")


def _square(frame_size: tuple[int, int]) -> int:
    height, width = frame_size
    if height != width:
        raise InputError(f"shapes for frames of {height}x{width} px -> square frames only -> train on a file of videos")
    return height


def _said_freely(question: Question, rng: np.random.Generator) -> Question:
    """Put a question in other words more often than not: people will ask in their own."""
    if rng.random() < 0.6:
        question = reword(question, rng, MORE_WORDINGS)
    return dataclasses.replace(question, text=loosen(str(question.text), rng))
