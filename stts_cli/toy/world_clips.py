"""Clips of the procedural world for training: a random scene, the times looked at, and questions these can answer.

An item of a data set is a list of clips of like length that are encoded together. It depends on its index alone, so
that a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from stts_cli.data.conversations import Conversation
from stts_cli.errors import InputError, suggest
from stts_cli.media.sampling import sample_indices
from stts_cli.toy.nano_model import FRAME_SIZE
from stts_cli.toy.questions import MORE_WORDINGS, Question, as_typed, ask
from stts_cli.toy.render import render
from stts_cli.toy.world import Scene, make_scene
from stts_cli.training.clips import TrainingClip
from stts_cli.training.settings import FinetuneSettings

DRAWN_SIDE = FRAME_SIZE  # of a frame in pixels, where a family's rule does not want another


class Length(NamedTuple):
    """One length of clips that is trained on."""

    frames: int  # the most of a clip
    share: float  # of all items, or steps
    clips: int  # in an item, or a step
    long: bool  # clips of 1-3 min, not of 4-8 s


LENGTHS = (
    Length(1, 0.02, 16, False),
    Length(2, 0.04, 16, False),
    Length(4, 0.10, 14, False),
    Length(8, 0.42, 10, False),
    Length(16, 0.28, 7, False),
    Length(16, 0.03, 7, True),
    Length(32, 0.06, 4, True),
    Length(64, 0.04, 2, True),
    Length(128, 0.01, 1, True),
)
# how often a type of question is asked: what is learned last is asked most
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
_MAX_FPS = 2.0


@dataclass(frozen=True)
class Clip:
    """One video before it is drawn: its scene, its sampled times (T,) and the questions asked about it."""

    scene: Scene
    times_s: np.ndarray
    questions: tuple[Question, ...]

    def described(self) -> tuple[tuple[float, ...], tuple[Conversation, ...], str]:
        """Return times, conversations and name, as a `TrainingClip` takes them."""
        times = tuple(round(float(time), 4) for time in self.times_s)
        asked = tuple(Conversation(((q.text, q.answer),), q.type) for q in self.questions)
        return times, asked, f"shapes:{self.scene.split}/{self.scene.index}"

    def drawn(self, side: int, noise: float = 0.0, noise_seed: int = 0) -> TrainingClip:
        """Return the clip with its frames, `side` pixels wide and high; see `render`."""
        frames = render(self.scene, self.times_s, side, noise=noise, noise_seed=noise_seed)
        every = self.scene.frame_times()
        return TrainingClip(torch.from_numpy(frames), *self.described(), duration_s=float(every[-1] + every[1]))


def sample_clip(scene: Scene, num_frames: int) -> Clip:
    """Return a scene at the times that a reader would sample, with all questions that these can answer."""
    times = scene.frame_times()
    times = times[sample_indices(times, num_frames, _MAX_FPS)]
    return Clip(scene, times, tuple(question for question in ask(scene) if question.answerable(times)))


def draw_clip(rng: np.random.Generator, length: Length, num_questions: int, ask_weights: Mapping[str, float]) -> Clip:
    """Draw a random training clip that has questions, and choose at most `num_questions`, by their types' weights."""
    while True:
        clip = sample_clip(make_scene("train", int(rng.integers(2**40)), length.long), length.frames)
        if clip.questions:
            sizes = Counter(q.type for q in clip.questions)
            weights = np.array([ask_weights[q.type] / sizes[q.type] ** 0.5 for q in clip.questions])
            order = np.argsort(-np.log(weights) + np.log(rng.exponential(size=len(weights))))
            chosen = tuple(_vary(clip.questions[k], rng) for k in order[:num_questions])
            return dataclasses.replace(clip, questions=chosen)


def _vary(question: Question, rng: np.random.Generator) -> Question:
    """Put a question in other words more often than not: people will ask in their own."""
    if rng.random() < 0.6:
        question = question.reworded(rng, MORE_WORDINGS)
    return dataclasses.replace(question, text=as_typed(question.text, rng))


ClipT = TypeVar("ClipT", bound=TrainingClip)


class StepClips(Dataset[list[ClipT]]):
    """A step's clips an item, or a process's share of them; a function of (seed, step, rank) alone.

    Items of one step, as many as the `world` has processes, come one after the other.
    """

    def __init__(self, steps: int, *, seed: int, world: int = 1) -> None:
        self.steps, self.seed, self.world = steps, seed, world

    def __len__(self) -> int:
        return self.steps * self.world

    def __getitem__(self, index: int) -> list[ClipT]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.draw(*divmod(index, self.world))

    def draw(self, step: int, rank: int) -> list[ClipT]:
        """Draw what one process looks at in one step."""
        raise NotImplementedError


class ShapesClips(StepClips[TrainingClip]):
    """Clips of the procedural world for a whole run; in a step all processes get clips of like length.

    Each of the run's batches is a step here, and its batch_size multiplies the clips of an item.
    """

    def __init__(self, settings: FinetuneSettings, frame_size: tuple[int, int], world: int = 1) -> None:
        batches = (settings.steps + settings.scorer_warmup) * settings.accumulate
        super().__init__(batches, seed=settings.seed, world=world)
        self.questions, self.factor, self.side = settings.max_questions, settings.batch_size, _side(frame_size)
        mix, most = settings.shapes_mix, settings.frames
        if mix not in MIXES:
            raise InputError(f"--shapes-mix {mix}: is unknown{suggest(mix, MIXES)}")
        mixed = [length for length in LENGTHS if length.long in MIXES[mix]]
        # a length above the limit is cut to it, unless a shorter one stands for it already
        self.lengths = [one._replace(frames=min(one.frames, most)) for one in mixed if one.frames < 2 * most]
        if not self.lengths:
            least = min(length.frames for length in mixed) // 2 + 1
            raise InputError(f"--frames {most}: must be at least {least} for --shapes-mix {mix}.")

    def draw(self, step: int, rank: int) -> list[TrainingClip]:
        """Draw clips of a length that all processes draw, and their frames."""
        shares = np.array([length.share for length in self.lengths])
        shared = np.random.default_rng([self.seed, 40, step])
        length = self.lengths[int(shared.choice(len(shares), p=shares / shares.sum()))]
        rng = np.random.default_rng([self.seed, 41, step * self.world + rank])
        drawn = [draw_clip(rng, length, self.questions, ASK_WEIGHTS) for _ in range(length.clips * self.factor)]
        return [clip.drawn(self.side, float(rng.uniform(0, MAX_NOISE)), int(rng.integers(2**31))) for clip in drawn]


class HeldOutShapes(Dataset[list[TrainingClip]]):
    """Clips that nothing is trained on and `stts eval` does not measure, one an item, with all that they can answer."""

    def __init__(self, settings: FinetuneSettings, frame_size: tuple[int, int]) -> None:
        self.side = _side(frame_size)
        indices = itertools.count(FIRST_HELD_OUT + settings.seed * 100_000)
        scenes = (make_scene("test", index, settings.shapes_mix == "long") for index in indices)
        clips = (clip for scene in scenes if (clip := sample_clip(scene, settings.frames)).questions)
        self.clips = list(itertools.islice(clips, settings.eval_videos))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> list[TrainingClip]:
        return [self.clips[index].drawn(self.side)]


def _side(frame_size: tuple[int, int]) -> int:
    height, width = frame_size
    if height != width:
        raise InputError(f"--data shapes: has square frames only, the model takes {height}x{width}; give a file.")
    return height
