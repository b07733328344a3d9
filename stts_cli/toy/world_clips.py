"""Clips of the procedural world for training: a random scene, the times looked at, and questions these can answer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from stts_cli.shapes.clips import LONG_FPS, SHORT_FPS
from stts_cli.shapes.questions import MORE_WORDINGS, Question, ask, loosen, reword
from stts_cli.shapes.world import Scene, make_scene
from stts_cli.video import sample_indices


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


def _said_freely(question: Question, rng: np.random.Generator) -> Question:
    """Put a question in other words more often than not: people will ask in their own."""
    if rng.random() < 0.6:
        question = reword(question, rng, MORE_WORDINGS)
    return dataclasses.replace(question, text=loosen(str(question.text), rng))
