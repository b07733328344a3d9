"""Stages 3 and 4 of the embedded model: everything end to end on rendered clips, first dense, then with STTS.

Several processes share the work, one core each: every one draws its own clips, gradients are averaged. In stage 4 the
loss is the answers' cross-entropy plus `TEMPORAL_WEIGHT` times the temporal loss, and the forward pass is
`prune_and_encode`, the same function that `stts ask` runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from stts_cli.families.molmo2 import scorer_sizes
from stts_cli.pruning.losses import temporal_loss
from stts_cli.pruning.pruned_vit import prune_and_encode
from stts_cli.pruning.scorer import TokenScorer
from stts_cli.pruning.windows import window_index
from stts_cli.shapes.render import render
from stts_cli.training import checkpoints, lean
from stts_cli.training.nano_language import answer_logits, by_family, exact_matches
from stts_cli.training.nano_model import FRAME_SIZE, POOL
from stts_cli.training.nano_vision import GRID, gated_features, patchify
from stts_cli.training.optim import MasterOptimizer
from stts_cli.training.world_batches import Clip, PromptWriter, draw_clip

PRUNE_LAYER = 3
TEMPORAL_WEIGHT = 0.5
SCORER_STEPS = 500  # on the temporal loss alone, before stage 4
# (frames, share of batches, videos a process, long clips)
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
# what stage 1 leaves weakest is asked most
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
# stage 4 mostly trains the advertised ratio, and the others often enough to serve them
KEEP_RATIOS = (0.5, 1.0, 0.7, 0.3)
KEEP_SHARES = (0.6, 0.2, 0.1, 0.1)


def new_scorer(config: Any) -> TokenScorer:
    """Return a fresh scorer for a Molmo2 vision configuration."""
    return TokenScorer(**scorer_sizes(config))


def encode(
    model: Any, scorer: TokenScorer | None, clips: list[Clip], keep_ratio: float, rng: np.random.Generator
) -> tuple[Tensor, list[np.ndarray], Tensor]:
    """Render clips and encode them.

    Returns:
        Visual tokens (V, D) of all clips, per clip the kept windows of each frame (T,), and the temporal loss.
    """
    frames = [
        render(c.scene, c.times_s, FRAME_SIZE, noise=float(rng.uniform(0, 6)), noise_seed=int(rng.integers(2**31)))
        for c in clips
    ]
    lengths = [len(f) for f in frames]
    tower = model.model.vision_tower
    hidden = tower.patch_embedding(patchify(np.concatenate(frames))) + tower.positional_embedding
    table = window_index(GRID, GRID, POOL, POOL)
    output = prune_and_encode(
        tower.layers,
        hidden,
        scorer=scorer if scorer is not None and keep_ratio < 1 else "none",
        keep_ratio=keep_ratio,
        prune_layer=PRUNE_LAYER,
        window_index=table,
        grid=(GRID, GRID),
        video_lengths=lengths,
        feature_layers=model.config.adapter_config.vision_feature_layer,
        return_hidden=True,
        apply_block=lean.vit_block,
    )
    gated = gated_features(model, output.features[output.pool_index])
    visual = model.model.multi_modal_projector.image_projector.down_proj(gated)
    auxiliary = torch.zeros(())
    if output.scores is not None:
        assert output.scored_hidden is not None
        if output.scores.requires_grad:
            # where a row's scores hardly differ, the min-max of the soft bias blows its gradient up a thousandfold and
            # saturates the scorer; no window may pull harder than the temporal loss can
            limit = 1 / output.scores.numel()
            output.scores.register_hook(lambda gradient: gradient.clamp(-limit, limit))
        auxiliary = temporal_loss(output.scores, output.scored_hidden, table, lengths)
    counts = output.keep_mask.sum(1).numpy()
    return visual, np.split(counts, np.cumsum(lengths)[:-1]), auxiliary


def warm_up_scorer(model: Any, scorer: TokenScorer, steps: int, seed: int) -> float:
    """Train a fresh scorer on the temporal loss alone, the ViT frozen; return the last loss.

    A scorer that starts at random would drop at random and, through the soft bias, disturb a trained ViT.
    """
    named = [(f"scorer.{n}", p) for n, p in scorer.named_parameters()]
    optimizer = MasterOptimizer(named, muon_lr=0.0, adam_lr=1e-4)
    tower, table, loss = model.model.vision_tower, window_index(GRID, GRID, POOL, POOL), torch.zeros(())
    for step in range(steps):
        rng = np.random.default_rng([seed, 42, step])
        clips = [draw_clip(rng, "train", 12, 1, False) for _ in range(6)]
        frames = [render(c.scene, c.times_s, FRAME_SIZE, noise=float(rng.uniform(0, 6))) for c in clips]
        lengths = [len(f) for f in frames]
        with torch.no_grad():
            hidden = tower.patch_embedding(patchify(np.concatenate(frames))) + tower.positional_embedding
            for block in tower.layers[: PRUNE_LAYER + 1]:
                hidden = lean.vit_block(block, hidden, lean.attend_frames)
        loss = temporal_loss(scorer(hidden, table, lengths), hidden, table, lengths)
        loss.backward()
        optimizer.step(min(1.0, (step + 1) / 20) * (1 - step / steps))
    return loss.item()


def train_joint(
    model: Any,
    scorer: TokenScorer | None,
    tokenizer: Any,
    out: Path,
    steps: int,
    *,
    lr: float = 0.006,
    seed: int = 0,
    decay: float = 0.4,
) -> None:
    """Train ViT, connector, language model (and scorer) end to end, in place; resume from `out`.

    Args:
        model: bfloat16 Molmo2ForConditionalGeneration.
        scorer: None for the dense stage; else bfloat16, trained with the rest.
        tokenizer: the embedded tokenizer.
        out: folder for checkpoints and the log.
        steps: optimizer steps.
        lr: Muon's rate; the ViT gets 0.4 of it, AdamW a tenth.
        seed: of the data.
        decay: share of the steps over which the rate falls.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    out.mkdir(parents=True, exist_ok=True)
    named = list(model.named_parameters()) + [
        (f"scorer.{n}", p) for n, p in (scorer.named_parameters() if scorer else ())
    ]
    optimizer = MasterOptimizer(
        named, muon_lr=lr, adam_lr=lr / 10, muon_scale={"model.vision_tower": 0.4}, adam_scale={"scorer": 0.2}
    )
    checkpoint, first = out / "joint.pt", 0
    if saved := checkpoints.load(checkpoint):
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    elif scorer is not None:
        warm_up_scorer(model, scorer, SCORER_STEPS, seed)
        optimizer.reload()
    writer = PromptWriter(tokenizer)
    shares = np.array([share for _, share, _, _ in LENGTHS])
    begin, recent, losses = time.time(), [], []
    for step in range(first, steps):
        shared = np.random.default_rng([seed, 40, step])  # the same everywhere: no process waits for longer clips
        frames, _, videos, long = LENGTHS[int(shared.choice(len(LENGTHS), p=shares / shares.sum()))]
        keep_ratio = float(shared.choice(KEEP_RATIOS, p=KEEP_SHARES)) if scorer else 1.0
        rng = np.random.default_rng([seed, 41, step, rank])
        clips = [draw_clip(rng, "train", frames, 8, long, ASK_WEIGHTS) for _ in range(videos)]
        keep_ratio = max(keep_ratio, 1 / min(len(c.times_s) for c in clips))  # the first frame always stays
        visual, kept, auxiliary = encode(model, scorer, clips, keep_ratio, rng)
        batch = writer.batch(clips, kept)
        logits, wanted = answer_logits(model, batch, visual)
        loss = functional.cross_entropy(logits, wanted)
        (loss + TEMPORAL_WEIGHT * auxiliary).backward()
        if world > 1:
            flat = optimizer.gradients()
            dist.all_reduce(flat)
            optimizer.set_gradients(flat / world)
        optimizer.step(min(1.0, (step + 1) / 40) * min(1.0, max(0.02, (steps - step) / (decay * steps))))
        losses.append((loss.item(), auxiliary.item()))
        if 4 < frames <= 16 and not long and keep_ratio == (0.5 if scorer else 1.0):
            recent += exact_matches(logits, batch, clips)
        last = step + 1 == steps
        if rank == 0 and ((step + 1) % 50 == 0 or last):
            line = {
                "step": step + 1,
                "minutes": round((time.time() - begin) / 60, 1),
                "loss": round(float(np.mean([a for a, _ in losses])), 4),
                "temporal": round(float(np.mean([b for _, b in losses])), 4),
                "train": by_family(recent),
            }
            checkpoints.log(out / "joint.jsonl", line)
            recent, losses = [], []
        if rank == 0 and ((step + 1) % 200 == 0 or last):
            state = {"optimizer": optimizer.state_dict(), "step": step + 1, "model": model.state_dict()}
            if scorer is not None:
                state["scorer"] = scorer.state_dict()
            checkpoints.save(checkpoint, state)
