"""Stage 2 of the embedded model: ViT and connector learn to tell what stands in each window, from single frames.

The patch embedding starts as a PCA whitening of real patches; a probe that is thrown away later reads the window
labels off
the connector's gated hidden features. `fit_connector` then solves, in closed form, for the connector's last matrix
that turns those
features into what the language model learned to read in stage 1.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stts_cli.shapes.labels import NUM_BINARY, NUM_PAIRS, window_labels
from stts_cli.shapes.render import render
from stts_cli.shapes.world import COLORS, SHAPES, make_scene
from stts_cli.training import checkpoints, lean
from stts_cli.training.nano_model import FRAME_SIZE, PATCH_SIZE, POOL
from stts_cli.training.optim import MasterOptimizer

GRID = FRAME_SIZE // PATCH_SIZE


def patchify(frames: np.ndarray, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return patches (T, N, patch * patch * 3) of uint8 frames (T, S, S, 3), normalised and laid out as stock."""
    T = frames.shape[0]
    pixels = (torch.from_numpy(frames).to(torch.float32) / 127.5 - 1).to(dtype)
    pixels = pixels.view(T, GRID, PATCH_SIZE, GRID, PATCH_SIZE, 3).transpose(2, 3)
    return pixels.reshape(T, GRID * GRID, PATCH_SIZE * PATCH_SIZE * 3)


def windows(hidden: Tensor) -> Tensor:
    """Gather (T, N, D) patches into full windows (T, W, P, D), row by row."""
    T, _, D = hidden.shape
    side = GRID // POOL
    return hidden.view(T, side, POOL, side, POOL, D).transpose(2, 3).reshape(T, side * side, POOL * POOL, D)


def vit_features(model: Any, patches: Tensor) -> Tensor:
    """Return the dense ViT features that the connector reads, (T, N, D * layers)."""
    tower = model.model.vision_tower
    hidden = tower.patch_embedding(patches) + tower.positional_embedding
    outputs = []
    for block in tower.layers:
        hidden = lean.vit_block(block, hidden, lean.attend_frames)
        outputs.append(hidden)
    return torch.cat([outputs[k] for k in model.config.adapter_config.vision_feature_layer], dim=-1)


def gated_features(model: Any, windows_VPD: Tensor) -> Tensor:
    """Return the connector's hidden features before its last matrix, (V, I), of full windows (V, P, D)."""
    adapter = model.model.multi_modal_projector
    pool, mlp = adapter.image_pooling_2d, adapter.image_projector
    V, P, _ = windows_VPD.shape
    heads, size = pool.q_proj.out_features // pool.head_dim, pool.head_dim
    q = pool.q_proj(windows_VPD.mean(1, keepdim=True)).view(V, 1, heads, size).transpose(1, 2)
    k = pool.k_proj(windows_VPD).view(V, P, heads, size).transpose(1, 2)
    v = pool.v_proj(windows_VPD).view(V, P, heads, size).transpose(1, 2)
    pooled = pool.o_proj(lean.attend(q, k, v, pool.scaling).transpose(1, 2).reshape(V, heads * size))
    return functional.silu(mlp.gate_proj(pooled)) * mlp.up_proj(pooled)


class WindowProbe(nn.Module):
    """Read window labels, and the window's place, off connector features (V, I)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.flags = nn.Linear(width, NUM_BINARY)
        self.color = nn.Linear(width, len(COLORS))
        self.shape = nn.Linear(width, len(SHAPES))
        self.offset = nn.Linear(width, 2)
        self.place = nn.Linear(width, (GRID // POOL) ** 2)
        for layer in (self.flags, self.color, self.shape, self.offset, self.place):
            nn.init.zeros_(layer.weight)
        with torch.no_grad():  # the labels' own rates, or the first steps diverge
            self.flags.bias[:NUM_PAIRS] = -5.5
            self.flags.bias[NUM_PAIRS:] = -3.0

    def loss(self, features: Tensor, labels: Tensor, places: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the summed loss and what it reads right, from (V, I) features, (V, L) labels and (V,) places."""
        h = self.norm(features)
        flags = self.flags(h).float()
        loss = (
            functional.binary_cross_entropy_with_logits(flags, labels[:, :NUM_BINARY], reduction="none").sum(1).mean()
        )
        loss = loss + 0.1 * functional.cross_entropy(self.place(h).float(), places)
        here = labels[:, :NUM_PAIRS].sum(1) == 1
        pair = labels[here, :NUM_PAIRS].argmax(1)
        color, shape = self.color(h[here]).float(), self.shape(h[here]).float()
        color_is, shape_is = pair // len(SHAPES), pair % len(SHAPES)
        loss = loss + functional.cross_entropy(color, color_is) + functional.cross_entropy(shape, shape_is)
        offset_error = functional.l1_loss(self.offset(h[here]).float(), labels[here, NUM_BINARY:])
        found = (flags[:, :NUM_PAIRS] > 0).any(1)
        there = labels[:, :NUM_PAIRS].any(1)
        right = {
            "color": (color.argmax(1) == color_is).float().mean().item(),
            "shape": (shape.argmax(1) == shape_is).float().mean().item(),
            "found": (found & there).sum().item() / max(1, there.sum().item()),
            "false": (found & ~there).sum().item() / max(1, found.sum().item()),
            "pair": (flags[here, :NUM_PAIRS].argmax(1) == pair).float().mean().item(),
            "offset": offset_error.item(),
        }
        return loss + 2 * offset_error, right


def draw_frames(rng: np.random.Generator, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (frames uint8 (count, S, S, 3), labels float32 (count, W, L)) from random scenes."""
    frames: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    while sum(len(f) for f in frames) < count:
        crowd = bool(rng.random() < 0.6)
        scene = make_scene(split, int(rng.integers(2**40)), crowd=crowd)
        times = np.sort(rng.uniform(0, scene.duration_s, size=1 if crowd else 2))
        frames.append(
            render(scene, times, FRAME_SIZE, noise=float(rng.uniform(0, 6)), noise_seed=int(rng.integers(2**31)))
        )
        labels.append(window_labels(scene, times))
    return np.concatenate(frames)[:count], np.concatenate(labels)[:count]


def whiten_patch_embedding(model: Any, rng: np.random.Generator) -> None:
    """Start the patch embedding at the whitened principal components of real patches."""
    frames, _ = draw_frames(rng, "train", 600)
    patches = patchify(frames, torch.float32).flatten(0, 1).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    tower = model.model.vision_tower
    width = tower.patch_embedding.out_features
    spread = values[-width:].clamp_min(0).sqrt()[:, None]
    weight = vectors[:, -width:].T / (spread + 0.05)  # the floor keeps noise small
    with torch.no_grad():
        tower.patch_embedding.weight.copy_(weight.float() * 0.5)
        tower.patch_embedding.bias.copy_(-(weight @ mean).float() * 0.5)


def train_vision(model: Any, out: Path, steps: int, batch: int = 64, seed: int = 0) -> None:
    """Train ViT and connector on window labels, in place; resume from `out` when it holds a checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    whiten_patch_embedding(model, np.random.default_rng([seed, 20]))
    probe = WindowProbe(model.config.adapter_config.intermediate_size).to(torch.bfloat16)
    named = [
        (n, p)
        for n, p in model.named_parameters()
        if n.startswith(("model.vision_tower", "model.multi_modal")) and "down_proj" not in n
    ]
    named += [(f"probe.{n}", p) for n, p in probe.named_parameters()]
    # the ViT has no q/k norm: without decay of weights and rate its attention saturates after a thousand steps
    optimizer = MasterOptimizer(named, muon_lr=0.01, adam_lr=1e-3, weight_decay=0.1)
    checkpoint, first = out / "vision.pt", 0
    if saved := checkpoints.load(checkpoint):
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    side = (GRID // POOL) ** 2
    places = torch.arange(side).repeat(batch)
    begin, recent = time.time(), []
    for step in range(first, steps):
        rng = np.random.default_rng([seed, 21, step])
        frames, labels = draw_frames(rng, "train", batch)
        hidden = gated_features(model, windows(vit_features(model, patchify(frames))).flatten(0, 1))
        loss, right = probe.loss(hidden, torch.from_numpy(labels).flatten(0, 1), places)
        loss.backward()
        optimizer.step(min(1.0, (step + 1) / 50) * min(1.0, max(0.03, (steps - step) / (0.75 * steps))))
        recent.append(right | {"loss": loss.item()})
        if (step + 1) % 100 == 0:
            line = {"step": step + 1, "minutes": round((time.time() - begin) / 60, 1)}
            line |= {k: round(float(np.mean([r[k] for r in recent])), 3) for k in recent[0]}
            checkpoints.log(out / "vision.jsonl", line)
            recent = []
        if (step + 1) % 500 == 0 or step + 1 == steps:
            torch.save(
                {"optimizer": optimizer.state_dict(), "step": step + 1, "model": model.state_dict()},
                checkpoint.with_suffix(".tmp"),
            )
            checkpoint.with_suffix(".tmp").replace(checkpoint)


@torch.no_grad()
def fit_connector(model: Any, stand_in: Any, seed: int = 0, num_frames: int = 2000, ridge: float = 1e-3) -> float:
    """Solve for the connector's last matrix so that windows look to the language model as in stage 1.

    Args:
        model: the model with trained ViT, connector and language model.
        stand_in: stage 1's `LabelEmbedding`.
        seed: of the frames.
        num_frames: frames to fit on.
        ridge: strength relative to the features' mean square.

    Returns:
        The share of variance explained.
    """
    rng = np.random.default_rng([seed, 30])
    inputs, targets = [], []
    for _ in range(num_frames // 100):
        frames, labels = draw_frames(rng, "train", 100)
        hidden = gated_features(model, windows(vit_features(model, patchify(frames))).flatten(0, 1))
        inputs.append(hidden.double())
        targets.append(stand_in(torch.from_numpy(labels).to(torch.bfloat16)).flatten(0, 1).double())
    x, y = torch.cat(inputs), torch.cat(targets)
    gram = x.T @ x
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, x.T @ y)
    model.model.multi_modal_projector.image_projector.down_proj.weight.copy_(weight.T.to(torch.bfloat16))
    return float(1 - (x @ weight - y).square().sum() / (y - y.mean(0)).square().sum())
