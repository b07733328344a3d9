"""First stage of the embedded model: the language model learns to read a clip from true window labels, without a ViT.

A linear layer turns each window's labels (`toy.labels`) and its place into what the connector will deliver later. A
frame costs next to nothing this way, so that direction, counting and order are learned over all frame counts. Windows
are dropped at random keep ratios from the start: the model never relies on seeing all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stts_cli.families.base import EncodedVideo, Family
from stts_cli.toy.labels import NUM_LABELS, NUM_WINDOWS, window_labels
from stts_cli.toy.world_clips import Length, StepClips, draw_clip
from stts_cli.training.clips import TrainingClip
from stts_cli.training.model import TrainingModel
from stts_cli.training.settings import FinetuneSettings

QUESTIONS = 8
FEW_FRAMES_STEPS = 600  # few frames first
# of a step
LENGTHS = (
    Length(1, 0.02, 24, False),
    Length(2, 0.04, 24, False),
    Length(4, 0.16, 24, False),
    Length(8, 0.46, 20, False),
    Length(16, 0.20, 14, False),
    Length(16, 0.03, 14, True),
    Length(32, 0.05, 8, True),
    Length(64, 0.03, 4, True),
    Length(128, 0.01, 2, True),
)
# how often a type of question is asked: those learned slowly more often
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
class LabelClip(TrainingClip):
    """A clip with float32 (T, W, L) labels in the place of pixels, and bool (T, W), the windows that are seen."""

    keep_mask: Tensor


class LabelClips(StepClips[LabelClip]):
    """A step's clips of the first stage."""

    def draw(self, step: int, rank: int) -> list[LabelClip]:
        """Draw clips, label them as a ViT would see them, and keep some of their windows."""
        rng = np.random.default_rng([self.seed, 11, step])
        progress = min(1.0, step / FEW_FRAMES_STEPS)
        shares = np.array([one.share * _growth(one.frames, progress) for one in LENGTHS])
        length = LENGTHS[int(rng.choice(len(LENGTHS), p=shares / shares.sum()))]
        if rank:
            rng = np.random.default_rng([self.seed, 11, step, rank])
        drawn = [draw_clip(rng, length, QUESTIONS, ASK_WEIGHTS) for _ in range(max(1, length.clips // self.world))]
        labels = [window_labels(clip.scene, clip.times_s) for clip in drawn]
        keeps = [draw_keep(rng, one, 1.0 if rng.random() < 0.25 else rng.uniform(0.25, 0.75)) for one in labels]
        blurred = [one * (rng.random(one.shape[:2]) > 0.01)[..., None] for one in labels]  # the ViT will err at times
        noisy = [(one + rng.normal(size=one.shape) * 0.05).astype(np.float32) for one in blurred]
        return [
            LabelClip(torch.from_numpy(one), *clip.described(), torch.from_numpy(keep))
            for clip, one, keep in zip(drawn, noisy, keeps, strict=True)
        ]


def _growth(frames: int, progress: float) -> float:
    """Return a factor on a length's share: 4 frames come four times as often at first, long clips not at all."""
    return progress**2 if frames > 8 else 4 - 3 * progress if frames == 4 else 1.0


class LabelEmbedding(nn.Module):
    """Stand-in for a family's ViT and connector: labels (..., W, L) and the window's place -> (..., W, D)."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        width = family.model.config.text_config.hidden_size
        # a thing's place is strong and only where a thing is, so that even a plain mean over windows shows it
        spread = torch.full((NUM_LABELS,), 0.3)
        spread[-2:] = 0.8
        self.label_weight = nn.Parameter(torch.randn(width, NUM_LABELS) * spread)
        self.label_place = nn.Parameter(torch.randn(NUM_WINDOWS, width) * 0.1)
        self.to(family.model.device, family.model.dtype)

    def forward(self, labels: Tensor) -> Tensor:
        """Return the features of every window."""
        return functional.linear(labels.to(self.label_weight.dtype), self.label_weight) + self.label_place


class LanguageModel(TrainingModel):
    """The language model behind the stand-in; nothing else is trained."""

    def __init__(self, family: Family) -> None:
        super().__init__(family, FinetuneSettings(train="full", scorer="none"))
        self.stand_in = LabelEmbedding(family)
        for name, parameter in self.stock.named_parameters():
            parameter.requires_grad_(name.startswith(("model.language_model.", "lm_head.")))

    def _encode(self, clips: Sequence[TrainingClip], keep_ratio: float, scorer: str, seed: int) -> EncodedVideo:
        device = self.stand_in.label_weight.device
        keep_mask = torch.cat([clip.keep_mask for clip in clips if isinstance(clip, LabelClip)]).to(device)
        visual = self.stand_in(torch.cat([clip.frames for clip in clips]).to(device))[keep_mask]
        return EncodedVideo(visual, keep_mask, self.family.layout, {}, scorer="none", kernel="dense")


def draw_keep(rng: np.random.Generator, labels: np.ndarray, keep_ratio: float) -> np.ndarray:
    """Return a keep mask (T, W) that mostly keeps what changes, then what shows something; the first frame stays."""
    num_frames, num_windows = labels.shape[:2]
    keep = np.ones((num_frames, num_windows), dtype=bool)
    dropped = int((1 - keep_ratio) * num_windows * num_frames)
    if num_frames < 2 or not dropped:
        return keep
    change = np.abs(np.diff(labels, axis=0)).sum(-1) > 0.15
    busy = labels[1:, :, :-2].any(-1)
    score = change * rng.uniform(0.5, 3) + busy * rng.uniform(0, 1.5) + rng.random(change.shape) * rng.uniform(0.3, 2)
    order = np.argsort(score, axis=None)[: min(dropped, score.size)]
    keep[1:].reshape(-1)[order] = False
    return keep
