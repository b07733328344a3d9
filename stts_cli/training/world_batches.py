"""Batches of the procedural world: several questions behind one video, as token ids with masks.

Out: `Clips` (what a batch shows) and `TextBatch` (what the language model reads). The prompt is the family's own
(a test compares it with `Molmo2Family.build_prompt`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stts_cli.shapes.clips import LONG_FPS, SHORT_FPS
from stts_cli.shapes.questions import Question, ask
from stts_cli.shapes.world import Scene, make_scene
from stts_cli.video import sample_indices

# how often a family is asked in training: the slow learners more often
ASK_WEIGHTS = {
    "color": 1.0,
    "shape": 1.0,
    "existence": 1.2,
    "turned_into": 1.5,
    "first_last": 1.5,
    "count": 2.0,
    "direction": 2.5,
    "position": 1.5,
    "happened": 1.2,
    "brief": 1.2,
}


@dataclass(frozen=True)
class Clip:
    """One training video: its scene, its sampled times and the questions asked about it."""

    scene: Scene
    times_s: np.ndarray
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class TextBatch:
    """What the language model reads; B videos, L tokens (right-padded).

    Attributes:
        input_ids: (B, L).
        position_ids: (B, L); every question continues from the end of its prefix.
        block_ids: (B, L); 0 prefix, 1.. questions, -1 padding.
        is_visual: bool (B, L).
        is_placeholder: bool (B, L), True for the tokens that carry a window.
        labels: (B, L) the token that should follow, -100 where no loss is taken.
    """

    input_ids: Tensor
    position_ids: Tensor
    block_ids: Tensor
    is_visual: Tensor
    is_placeholder: Tensor
    labels: Tensor


def draw_clip(
    rng: np.random.Generator,
    split: str,
    num_frames: int,
    num_questions: int,
    long: bool,
    ask_weights: dict[str, float] = ASK_WEIGHTS,
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
        return Clip(scene, times, tuple(pool[k] for k in order[:num_questions]))


class PromptWriter:
    """Turn clips and keep masks into token ids, with caches for the pieces that repeat."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.placeholder = tokenizer.convert_tokens_to_ids("<im_patch>")
        self.frame_start = tokenizer.convert_tokens_to_ids("<frame_start>")
        self.frame_end = tokenizer.convert_tokens_to_ids("<frame_end>")
        self.bos = tokenizer.bos_token_id
        self.ids = lru_cache(maxsize=200_000)(self._ids)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def prefix(self, times_s: np.ndarray, kept_per_frame: np.ndarray) -> list[int]:
        """Return BOS and the frames: timestamp, frame start, one placeholder a kept window, frame end."""
        ids = [self.bos]
        for k, (time, kept) in enumerate(zip(times_s, kept_per_frame, strict=True)):
            ids += self.ids(f"{' ' if k else ''}{time:.1f} ")
            ids += [self.frame_start, *[self.placeholder] * int(kept), self.frame_end]
        return ids

    def batch(self, clips: list[Clip], kept: list[np.ndarray]) -> TextBatch:
        """Write one batch.

        Args:
            clips: B videos with their questions.
            kept: per video, (T,) kept windows a frame.

        Returns:
            The batch, padded to its longest row.
        """
        rows = [self._row(clip, counts) for clip, counts in zip(clips, kept, strict=True)]
        width = max(len(row[0]) for row in rows)
        columns = []
        for column, pad in zip(range(4), (self.tokenizer.pad_token_id, 0, -1, -100), strict=True):
            columns.append(torch.tensor([row[column] + [pad] * (width - len(row[column])) for row in rows]))
        ids, positions, blocks, labels = columns
        placeholder = (ids == self.placeholder) & (blocks == 0)
        visual = placeholder | (((ids == self.frame_start) | (ids == self.frame_end)) & (blocks == 0))
        return TextBatch(ids, positions, blocks, visual, placeholder, labels)

    def _row(self, clip: Clip, kept: np.ndarray) -> tuple[list[int], list[int], list[int], list[int]]:
        ids = self.prefix(clip.times_s, kept)
        start = len(ids)
        positions, blocks, labels = list(range(start)), [0] * start, [-100] * start
        for block, q in enumerate(clip.questions, start=1):
            asked = self.ids(f"<|im_start|>user\n{q.text}<|im_end|>\n<|im_start|>assistant\n")
            answer = self.ids(f"{q.answer}<|im_end|>")
            length = len(asked) + len(answer) - 1
            ids += [*asked, *answer[:-1]]
            positions += range(start, start + length)
            blocks += [block] * length
            labels += [-100] * (len(asked) - 1) + list(answer)
        return ids, positions, blocks, labels
