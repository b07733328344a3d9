"""Second stage of the embedded model: ViT and connector learn to find what stands in each window of single frames.

The patch embedding starts as a PCA whitening of real patches; a probe that is thrown away later reads the window labels
off the connector's gated hidden features. `fit_connector` then solves, in closed form, for the connector's last matrix
that turns those features into what the language model learned to read in the first stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stts_cli.families.base import Family
from stts_cli.families.frames import FrameProcessor
from stts_cli.settings import Layout
from stts_cli.toy.labels import NUM_BINARY, NUM_PAIRS, window_labels
from stts_cli.toy.nano_model import FRAME_SIZE, PATCH_SIZE, POOL
from stts_cli.toy.render import render
from stts_cli.toy.world import COLORS, SHAPES, make_scene
from stts_cli.toy.world_clips import MAX_NOISE, StepClips
from stts_cli.training.clips import TrainingClip
from stts_cli.training.model import Step, TrainingModel
from stts_cli.training.settings import FinetuneSettings

FRAMES, WHITEN_FRAMES, FIT_FRAMES = 64, 600, 2000  # of a step, and of the two fits below


@dataclass(frozen=True)
class LabelledFrames(TrainingClip):
    """Frames of many scenes, and float32 (T, W, L), what stands in their windows."""

    labels: Tensor


class VisionFrames(StepClips[LabelledFrames]):
    """A step's frames of the second stage."""

    def draw(self, step: int, rank: int) -> list[LabelledFrames]:
        """Draw them."""
        rng = np.random.default_rng([self.seed, 21, step, *([rank] if rank else [])])
        frames, labels = draw_frames(rng, max(1, FRAMES // self.world))
        return [LabelledFrames(frames, (), (), f"shapes:{step}", labels)]


class WindowProbe(nn.Module):
    """Read window labels, and the window's place, off connector features (V, I)."""

    def __init__(self, width: int, num_windows: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.flags = nn.Linear(width, NUM_BINARY)
        self.color = nn.Linear(width, len(COLORS))
        self.shape = nn.Linear(width, len(SHAPES))
        self.offset = nn.Linear(width, 2)
        self.place = nn.Linear(width, num_windows)
        for layer in (self.flags, self.color, self.shape, self.offset, self.place):
            nn.init.zeros_(layer.weight)
        with torch.no_grad():  # the labels' own rates, or the first steps diverge
            self.flags.bias[:NUM_PAIRS] = -5.5
            self.flags.bias[NUM_PAIRS:] = -3.0

    def forward(self, features: Tensor, labels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and bool which of the windows with one thing are right.

        Takes features (V, I), labels (V, L) and places, int64 (V,), the windows' numbers.
        """
        h = self.norm(features)
        flags = self.flags(h).float()
        loss = functional.binary_cross_entropy_with_logits(flags, labels[:, :NUM_BINARY], reduction="none")
        total = loss.sum(1).mean() + 0.1 * functional.cross_entropy(self.place(h).float(), places)
        here = labels[:, :NUM_PAIRS].sum(1) == 1
        pair = labels[here, :NUM_PAIRS].argmax(1)
        total = total + functional.cross_entropy(self.color(h[here]).float(), pair // len(SHAPES))
        total = total + functional.cross_entropy(self.shape(h[here]).float(), pair % len(SHAPES))
        total = total + 2 * functional.l1_loss(self.offset(h[here]).float(), labels[here, NUM_BINARY:])
        return total, flags[here, :NUM_PAIRS].argmax(1) == pair


class VisionModel(TrainingModel):
    """ViT and connector, up to the probe in the place of the connector's last matrix; nothing else is trained."""

    def __init__(self, family: Family) -> None:
        super().__init__(family, FinetuneSettings(train="full", scorer="none"))
        width = family.model.config.adapter_config.intermediate_size
        self.probe = WindowProbe(width, family.layout.num_windows).to(family.model.device, family.model.dtype)
        for name, parameter in self.stock.named_parameters():
            seen = name.startswith(("model.vision_tower.", "model.multi_modal_projector."))
            parameter.requires_grad_(seen and "down_proj" not in name)

    def forward(self, clips: Sequence[TrainingClip], keep_ratio: float, **unused: object) -> Step:
        """Find what stands in every window of `LabelledFrames`, kept or not; see `TrainingModel.forward`."""
        frames = torch.cat([clip.frames for clip in clips])
        features = connector_features(self.family, frames)
        labels = torch.cat([clip.labels for clip in clips if isinstance(clip, LabelledFrames)]).to(features.device)
        keep_mask = torch.ones(labels.shape[:2], dtype=torch.bool)
        places = torch.arange(labels.shape[1], device=features.device).repeat(len(labels))
        loss, right = self.probe(features, labels.flatten(0, 1), places)
        nothing, count = loss.new_zeros(()), keep_mask.numel()
        return Step(loss * count, loss * count, count, nothing, 0, right, count, keep_mask)

    def count(self, clips: Sequence[TrainingClip]) -> tuple[float, int]:
        """Return (windows, 0): the loss is a mean over windows."""
        return sum(len(clip.frames) for clip in clips) * self.family.layout.num_windows, 0


def connector_features(family: Family, frames: Tensor) -> Tensor:
    """Return what the connector's last matrix reads, (V, I), of every window of frames (T, H, W, 3)."""
    seen: list[Tensor] = []
    last = family.model.model.multi_modal_projector.image_projector.down_proj
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        family.encode(family.preprocess(frames), family.settings.override(scorer="none"))
    finally:
        handle.remove()
    return torch.cat(seen)


def draw_frames(rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Return (frames uint8 (count, S, S, 3), labels float32 (count, W, L)) from random training scenes."""
    frames: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    while sum(len(f) for f in frames) < count:
        crowd = bool(rng.random() < 0.6)
        scene = make_scene("train", int(rng.integers(2**40)), crowd=crowd)
        times = np.sort(rng.uniform(0, scene.duration_s, size=1 if crowd else 2))
        noise = float(rng.uniform(0, MAX_NOISE))
        frames.append(render(scene, times, FRAME_SIZE, noise=noise, noise_seed=int(rng.integers(2**31))))
        labels.append(window_labels(scene, times))
    return torch.from_numpy(np.concatenate(frames)[:count]), torch.from_numpy(np.concatenate(labels)[:count])


@torch.no_grad()
def whiten_patch_embedding(model: Any, seed: int) -> None:
    """Start a fresh model's patch embedding at the whitened principal components of real patches."""
    frames, _ = draw_frames(np.random.default_rng([seed, 20]), WHITEN_FRAMES)
    side = FRAME_SIZE // PATCH_SIZE
    layout = Layout((FRAME_SIZE, FRAME_SIZE), (side, side), (POOL, POOL))
    patches = FrameProcessor()(frames, layout, torch.float32, torch.device("cpu")).flatten(0, 1).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    embedding = model.model.vision_tower.patch_embedding
    width = embedding.out_features
    spread = values[-width:].clamp_min(0).sqrt()[:, None]
    weight = vectors[:, -width:].T / (spread + 0.05)  # the floor keeps noise small
    embedding.weight.copy_(weight.float() * 0.5)
    embedding.bias.copy_(-(weight @ mean).float() * 0.5)


@torch.no_grad()
def fit_connector(family: Family, stand_in: Any, seed: int = 0) -> float:
    """Solve for the last matrix of a trained connector so that windows look as a trained `LabelEmbedding` made them.

    Returns the share of variance explained, in (-inf, 1]; `seed` is of the frames that it is solved on.
    """
    rng = np.random.default_rng([seed, 30])
    inputs, targets = [], []
    for _ in range(FIT_FRAMES // 100):
        frames, labels = draw_frames(rng, 100)
        inputs.append(connector_features(family, frames).double())
        targets.append(stand_in(labels.to(inputs[0].device)).flatten(0, 1).double())
    x, y = torch.cat(inputs), torch.cat(targets)
    gram = x.T @ x
    ridge = 1e-3 * gram.diagonal().mean()  # against the features' mean square
    gram += ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram, x.T @ y)
    family.model.model.multi_modal_projector.image_projector.down_proj.weight.copy_(weight.T)
    return float(1 - (x @ weight - y).square().sum() / (y - y.mean(0)).square().sum())
