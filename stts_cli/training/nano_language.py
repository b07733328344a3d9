"""Stage 1 of the embedded model: the language model learns to read a clip from true window labels, without a ViT.

A linear layer turns each window's labels (`shapes.labels`) and its place into what the connector will deliver later. A
frame
costs next to nothing this way, so that direction, counting and order are learned over all frame counts. Windows are
dropped at random keep ratios from the start: the model never relies on seeing all of them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stts_cli.shapes.labels import NUM_LABELS, window_labels
from stts_cli.training import checkpoints, lean
from stts_cli.training.optim import MasterOptimizer
from stts_cli.training.world_batches import ASK_WEIGHTS, Clip, PromptWriter, TextBatch, draw_clip

NUM_WINDOWS = 16
# (frames, share of batches, videos a batch, long clips)
LENGTHS = (
    (1, 0.02, 24, False),
    (2, 0.04, 24, False),
    (4, 0.16, 24, False),
    (8, 0.46, 20, False),
    (16, 0.20, 14, False),
    (16, 0.03, 14, True),
    (32, 0.05, 8, True),
    (64, 0.03, 4, True),
    (128, 0.01, 2, True),
)


class LabelEmbedding(nn.Module):
    """Stand-in for ViT and connector: labels (..., W, L) and the window's place -> (..., W, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # a thing's place is strong and only where a thing is, so that even a plain mean over windows tells of it
        spread = torch.full((NUM_LABELS,), 0.3)
        spread[-2:] = 0.8
        self.label_weight = nn.Parameter(torch.randn(width, NUM_LABELS) * spread)
        self.label_place = nn.Parameter(torch.randn(NUM_WINDOWS, width) * 0.1)

    def forward(self, labels: Tensor) -> Tensor:
        """Return the features of every window."""
        return functional.linear(labels, self.label_weight) + self.label_place


def draw_keep(rng: np.random.Generator, labels: np.ndarray, keep_ratio: float) -> np.ndarray:
    """Return a keep mask (T, W) that mostly keeps what changes, then what shows something; the first frame stays.

    Args:
        rng: source of the noise.
        labels: (T, W, L).
        keep_ratio: kept share of all windows.
    """
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


def embed(model: Any, batch: TextBatch, visual: Tensor) -> Tensor:
    """Return input embeddings (B, L, D) with visual tokens (V, D) added onto their placeholders."""
    hidden = model.model.language_model.embed_tokens(batch.input_ids)
    place = batch.is_placeholder[..., None].expand_as(hidden)
    return hidden.masked_scatter(place, hidden[batch.is_placeholder] + visual)


def answer_logits(model: Any, batch: TextBatch, visual: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits at the answer tokens (A, V) and what they should be (A,)."""
    hidden = embed(model, batch, visual)
    bias = lean.attention_bias(batch.block_ids, batch.is_visual, hidden.dtype)
    hidden = lean.language_model(model.model.language_model, hidden, batch.position_ids, bias)
    wanted = batch.labels >= 0
    return model.lm_head(hidden[wanted]).float(), batch.labels[wanted]


def exact_matches(logits: Tensor, batch: TextBatch, clips: list[Clip]) -> list[tuple[str, bool]]:
    """Return (family, right) of every question: right when greedy decoding would give the answer word for word."""
    good = torch.zeros_like(batch.labels, dtype=torch.bool)
    wanted = batch.labels >= 0
    good[wanted] = logits.argmax(-1) == batch.labels[wanted]
    results = []
    for row, clip in enumerate(clips):
        for block, question in enumerate(clip.questions, start=1):
            here = (batch.block_ids[row] == block) & wanted[row]
            results.append((question.family, bool(good[row][here].all())))
    return results


def by_family(results: list[tuple[str, bool]]) -> dict[str, float]:
    """Return the share of right answers of each family and over all ("all")."""
    table = {f: [ok for name, ok in results if name == f] for f in ASK_WEIGHTS}
    accuracy = {f: round(sum(oks) / len(oks), 3) for f, oks in table.items() if oks}
    return accuracy | {"all": round(sum(ok for _, ok in results) / max(1, len(results)), 3)}


def train_language(model: Any, tokenizer: Any, out: Path, steps: int, seed: int = 0) -> LabelEmbedding:
    """Train the language model on true labels; resume from `out` when it holds a checkpoint.

    Args:
        model: bfloat16 Molmo2ForConditionalGeneration; its language model and head are trained in place.
        tokenizer: the embedded tokenizer.
        out: folder for checkpoints and the log.
        steps: optimizer steps.
        seed: of data and initialisation.

    Returns:
        The trained stand-in embedding.
    """
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    stand_in = LabelEmbedding(model.config.text_config.hidden_size).to(torch.bfloat16)
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(("model.language_model", "lm_head"))]
    named += list(stand_in.named_parameters())
    optimizer = MasterOptimizer(named, muon_lr=0.012, adam_lr=2e-3)
    writer, first = PromptWriter(tokenizer), 0
    checkpoint = out / "language.pt"
    if saved := checkpoints.load(checkpoint):
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    shares = np.array([share for _, share, _, _ in LENGTHS])
    begin, recent = time.time(), []
    for step in range(first, steps):
        rng = np.random.default_rng([seed, 11, step])
        progress = min(1.0, step / 600)  # few frames first
        weights = shares * np.array(
            [(4 - 3 * progress if frames == 4 else 1.0) if frames <= 8 else progress**2 for frames, *_ in LENGTHS]
        )
        frames, _, videos, long = LENGTHS[int(rng.choice(len(LENGTHS), p=weights / weights.sum()))]
        clips, batch, visual = _draw_batch(rng, "train", writer, stand_in, frames, videos, long)
        logits, wanted = answer_logits(model, batch, visual)
        loss = functional.cross_entropy(logits, wanted)
        loss.backward()
        factor = min(1.0, (step + 1) / 50) * min(1.0, max(0.03, (steps - step) / (0.3 * steps)))
        optimizer.step(factor)
        if frames <= 16 and not long:
            recent += exact_matches(logits, batch, clips)
        if (step + 1) % 50 == 0:
            line = {
                "step": step + 1,
                "minutes": round((time.time() - begin) / 60, 1),
                "loss": round(loss.item(), 3),
                "train": by_family(recent),
            }
            checkpoints.log(out / "language.jsonl", line)
            recent = []
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "stand_in": stand_in.state_dict(),
                "model": model.state_dict(),
            }
            checkpoints.save(checkpoint, state)
    return stand_in


def _draw_batch(
    rng: np.random.Generator,
    split: str,
    writer: PromptWriter,
    stand_in: LabelEmbedding,
    frames: int,
    videos: int,
    long: bool,
) -> tuple[list[Clip], TextBatch, Tensor]:
    """Draw clips, keep some of their windows and stand in for the ViT; visual tokens are (V, D)."""
    clips = [draw_clip(rng, split, frames, 8, long) for _ in range(videos)]
    labels = [window_labels(c.scene, c.times_s) for c in clips]
    keeps = [draw_keep(rng, one, 1.0 if rng.random() < 0.25 else rng.uniform(0.25, 0.75)) for one in labels]
    batch = writer.batch(clips, [k.sum(1) for k in keeps])
    blurred = [one * (rng.random(one.shape[:2]) > 0.01)[..., None] for one in labels]  # the ViT will err now and then
    kept = np.concatenate([(one + rng.normal(size=one.shape) * 0.05)[k] for one, k in zip(blurred, keeps, strict=True)])
    places = torch.from_numpy(np.concatenate([np.nonzero(k)[1] for k in keeps]))
    flags = torch.from_numpy(kept).to(torch.bfloat16)
    visual = functional.linear(flags, stand_in.label_weight) + stand_in.label_place[places]
    return clips, batch, visual
