"""The pruned ViT: dense blocks, score, one block with the soft bias, drop, packed blocks.

Comes between patch embedding and connector. In: embedded patches (T, N, D) of one or more videos. Out: the features of
kept patches only, (M, D * layers), with the table that pools them to visual tokens. Blocks 0..l see every patch (l is
`prune_layer`), the scorer reads block l's output, block l + 1 sees every patch with a bias on its keys, blocks l + 2..
see kept patches, each within its own frame; where a checkpoint was trained so, they see all patches of a frame that
packing into bins leaves alone, though only its kept ones go on. Source: arXiv 2603.18004, method. Training and
inference use this same function. Patch embedding, connector and language model are the family's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stts_cli.budget import check_keep_ratio, check_prune_layer, lone_frames, num_dropped
from stts_cli.pruning.attention import (
    BIAS_FLOOR,
    batched_attention,
    choose_kernel,
    group_frames,
    log_score_bias,
    varlen_attention,
)
from stts_cli.pruning.packing import PackedPatches, pack, pack_bins
from stts_cli.pruning.scorer import random_scores, reference_scores, temporal_scores
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.tome import merge_windows
from stts_cli.pruning.windows import patch_window

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
ApplyBlock = Callable[[nn.Module, Tensor, Attend], Tensor]


@dataclass
class VitOutput:
    """What the pruned ViT hands to the connector, and what training and reports want to know.

    Attributes:
        features: (M, D * number of feature layers) of kept patches, frame after frame.
        pool_index: int64 (V, P) rows of `features` that make each visual token, -1 in empty slots.
        keep_mask: bool (T, W), True = kept.
        scores: float32 (T, W), with gradient for the learned scorer; None where nothing was scored.
        scored_hidden: (T, N, D) output of block l, only with `return_hidden`.
        packed_patches: patches of each frame that the packed blocks run on: the kept ones, or all of a refilled frame.
        kernel: the attention kernel of the packed blocks, "dense" where nothing was dropped.
        kernel_reason: why that kernel, empty when there is nothing to say.
        seconds: time of "vit_dense", "score_select_pack" and "vit_packed".
    """

    features: Tensor
    pool_index: Tensor
    keep_mask: Tensor
    scores: Tensor | None
    scored_hidden: Tensor | None
    packed_patches: list[int]
    kernel: str
    kernel_reason: str
    seconds: dict[str, float] = field(default_factory=dict)


def prenorm_block(block: Any, hidden: Tensor, attend: Attend) -> Tensor:
    """Run a stock pre-norm ViT block with another attention between its projections.

    Args:
        block: a module with layer_norm1, self_attn.{q,k,v,o}_proj, self_attn.head_dim, layer_norm2 and mlp.
        hidden: (…, D).
        attend: maps q, k, v of shape (…, H, K) to (…, H, K).

    Returns:
        (…, D) of the same dtype.
    """
    attention = block.self_attn
    normed = block.layer_norm1(hidden)
    heads = (*hidden.shape[:-1], -1, attention.head_dim)
    out = attend(*(project(normed).view(heads) for project in (attention.q_proj, attention.k_proj, attention.v_proj)))
    hidden = hidden + attention.o_proj(out.flatten(-2))
    return hidden + block.mlp(block.layer_norm2(hidden))


class _Clock:
    """Add up wall time by stage; waits for the device so that no stage pays for another."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.last = device, 0.0
        self.seconds: dict[str, float] = {}
        self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        past, self.last = self.last, time.perf_counter()
        return self.last - past

    def lap(self, stage: str) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + self._now()


def prune_and_encode(
    blocks: Sequence[nn.Module],
    hidden_TND: Tensor,
    *,
    scorer: nn.Module | str,
    keep_ratio: float,
    prune_layer: int,
    window_index: Tensor,
    grid: tuple[int, int],
    video_lengths: list[int],
    feature_layers: Sequence[int],
    bias_rescale: str | None = "row",
    bias_floor: float = BIAS_FLOOR,
    prune_from_frame: int = 0,
    seed: int | torch.Generator = 0,
    kernel: str = "auto",
    packing: str = "varlen",
    refill_lone_frames: bool = False,
    chunk_frames: int | None = None,
    return_hidden: bool = False,
    apply_block: ApplyBlock = prenorm_block,
    embed: Callable[[Tensor], Tensor] | None = None,
    checkpoint_blocks: bool = False,
) -> VitOutput:
    """Encode the frames of one or more videos, dropping low-scored windows on the way.

    Args:
        blocks: all ViT blocks in order; each maps (T, N, D) to (T, N, D) when called as `block(hidden,
            attention_mask=None)`.
        hidden_TND: (T, N, D) embedded patches of all frames of all videos.
        scorer: a `TokenScorer`, or "temporal", "reference", "random", "tome", or "none" for dense.
        keep_ratio: fraction of windows kept, in (0, 1]; at 1 the stock blocks run untouched.
        prune_layer: 0-based block after which windows are scored; see `check_prune_layer`.
        window_index: int64 (W, P) window table on the patches' device.
        grid: patch rows and columns of a frame.
        video_lengths: frames of each video; they add up to T. Selection is per video.
        feature_layers: blocks whose outputs are concatenated, negative ones from the end; none runs beyond the deepest.
        bias_rescale: "row" or "frame" for the soft bias, None for no bias. Only the learned scorer has one.
        bias_floor: what the lowest score is stretched to before the soft bias takes its logarithm, in (0, 1].
        prune_from_frame: see `num_dropped`.
        seed: for "random".
        kernel: attention kernel of the packed blocks, one of `KERNELS`.
        packing: "varlen", or "bins" as in the paper.
        refill_lone_frames: run the packed blocks on all patches of a frame that packing into bins would leave alone in
            its bin, whatever the layout. Which frames those are depends on all videos given; "tome" refills none.
        chunk_frames: run blocks on at most this many frames at a time, to bound memory; None = all at once. Scores and
            selection still span whole videos.
        return_hidden: also return block l's output, which the temporal loss needs.
        apply_block: runs one block with a given attention.
        embed: makes embedded patches of each chunk of `hidden_TND` as block 0 takes it, so that they are never held for
            a whole video; None where they are embedded already.
        checkpoint_blocks: keep no activations of a block; run it again in the backward pass.

    Returns:
        Features of kept patches, differentiable end to end.

    Raises:
        InputError: keep_ratio or prune_layer out of range.
        ValueError: scorer, packing or shapes that cannot be honoured.

    Source: arXiv 2603.18004, method.
    """
    num_frames, num_patches, _ = hidden_TND.shape
    check_keep_ratio(keep_ratio)
    if packing not in ("varlen", "bins"):
        raise ValueError(f"packing '{packing}' is unknown -> known: varlen, bins")
    if sum(video_lengths) != num_frames:
        raise ValueError(f"video lengths add up to {sum(video_lengths)}, not to {num_frames} frames: they must agree")
    layers = [layer % len(blocks) for layer in feature_layers]
    blocks = blocks[: max(layers) + 1]
    check_prune_layer(prune_layer, len(blocks))
    clock = _Clock(hidden_TND.device)
    run = _BlockRunner(blocks, apply_block, layers, chunk_frames or num_frames, kernel, embed, checkpoint_blocks)
    num_windows = len(window_index)
    merges = scorer == "tome"
    dropped = [num_dropped(n, num_windows, keep_ratio, prune_from_frame, merges=merges) for n in video_lengths]
    if scorer == "none" or not any(dropped):
        return _dense(run, hidden_TND, window_index, prune_layer, return_hidden, clock)

    hidden_TND, early = run.dense(hidden_TND, range(prune_layer + 1))
    clock.lap("vit_dense")
    scores, bias = None, None
    if merges:
        keep_TW, merge = merge_windows(hidden_TND, window_index, dropped, video_lengths)
    else:
        scores = _score(scorer, hidden_TND, window_index, video_lengths, keep_ratio, prune_from_frame, seed)
        keep_TW = select_windows(scores, keep_ratio, video_lengths, prune_from_frame)
        merge = None
        if isinstance(scorer, nn.Module) and bias_rescale is not None:
            prunes = torch.tensor(dropped).repeat_interleave(torch.tensor(video_lengths)).gt(0).to(scores.device)
            bias = log_score_bias(scores, window_index, grid, video_lengths, bias_rescale, bias_floor) * prunes[:, None]
    clock.lap("score_select_pack")
    scored = hidden_TND if return_hidden else None
    keep_TN = present_TN = keep_TW.index_select(1, patch_window(window_index, num_patches))
    refill = refill_lone_frames and merge is None
    if refill:
        present_TN = keep_TN.clone()
        present_TN[lone_frames(keep_TN.sum(1).tolist(), num_patches)] = True
    entry, after = prune_layer + 1, range(prune_layer + 2, len(blocks))
    name, reason = choose_kernel(kernel, hidden_TND.device, hidden_TND.dtype, _needs_grad(hidden_TND, blocks))
    late: dict[int, Tensor] = {}
    if packing == "varlen" and merge is None:
        packed = run.varlen(hidden_TND, keep_TN, present_TN, after, name, clock, entry, bias)
    else:
        hidden_TND, late = run.dense(hidden_TND, [entry], bias)
        clock.lap("vit_dense")
        if merge is not None:
            hidden_TND = merge(hidden_TND)
            late = {layer: merge(x) for layer, x in late.items()}
        if packing == "bins":
            name, reason = "sdpa", "bins carry a mask"
            packed = run.bins(hidden_TND, keep_TN, after, refill, clock)
        else:
            packed = run.varlen(hidden_TND, keep_TN, present_TN, after, name, clock)
    del hidden_TND
    index = keep_TN.reshape(-1).nonzero().squeeze(1)
    dense_features = {k: x.flatten(0, 1).index_select(0, index) for k, x in {**early, **late}.items()}
    features = torch.cat([{**dense_features, **packed}[layer] for layer in layers], -1)
    pool_index = _pool_index(window_index, keep_TW, index, num_patches)
    num_present = present_TN.sum(1).tolist()
    clock.lap("score_select_pack")
    return VitOutput(features, pool_index, keep_TW, scores, scored, num_present, name, reason, clock.seconds)


class _BlockRunner:
    """Run ranges of blocks over frames, a chunk at a time, remembering the outputs that are features."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        apply_block: ApplyBlock,
        layers: list[int],
        chunk_frames: int,
        kernel: str,
        embed: Callable[[Tensor], Tensor] | None,
        checkpointed: bool,
    ) -> None:
        self.blocks, self.apply_block, self.layers, self.checkpointed = blocks, apply_block, layers, checkpointed
        self.chunk_frames, self.kernel, self.embed = chunk_frames, kernel, embed

    def apply(self, block: nn.Module, hidden: Tensor, attend: Attend) -> Tensor:
        if self.checkpointed:
            return checkpoint(self.apply_block, block, hidden, attend, use_reentrant=False)
        return self.apply_block(block, hidden, attend)

    def stock(self, block: nn.Module, hidden: Tensor) -> Tensor:
        if self.checkpointed:
            return checkpoint(block, hidden, attention_mask=None, use_reentrant=False)
        return block(hidden, attention_mask=None)

    def dense(
        self, hidden: Tensor, which: Sequence[int], bias_TN: Tensor | None = None, features_only: bool = False
    ) -> tuple[Tensor, dict[int, Tensor]]:
        outputs: list[Tensor] = []
        features: dict[int, list[Tensor]] = {i: [] for i in which if i in self.layers}
        explicit = hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16 and _needs_grad(hidden, self.blocks)
        for start in range(0, len(hidden), self.chunk_frames):
            x = hidden[start : start + self.chunk_frames]
            if self.embed is not None and which[0] == 0:
                x = self.embed(x)
            key_bias = None if bias_TN is None else bias_TN[start : start + self.chunk_frames, None, None]
            for i in which:
                block = self.blocks[i]
                if key_bias is None and not explicit:
                    x = self.stock(block, x)
                else:
                    x = self.apply(block, x, _dense_attend(key_bias, explicit or self.kernel == "eager"))
                if i in features:
                    features[i].append(x)
            if not features_only:
                outputs.append(x)
        return (hidden if features_only else _cat(outputs)), {i: _cat(parts) for i, parts in features.items()}

    def varlen(
        self,
        hidden_TND: Tensor,
        keep_TN: Tensor,
        present_TN: Tensor,
        which: Sequence[int],
        kernel: str,
        clock: _Clock,
        entry: int | None = None,
        bias_TN: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """Run blocks on present patches, chunk by chunk, before them block `entry` on all; features of kept ones."""
        features: dict[int, list[Tensor]] = {i: [] for i in (entry, *which) if i in self.layers}
        for start in range(0, len(hidden_TND), self.chunk_frames):
            chunk = slice(start, start + self.chunk_frames)
            x = hidden_TND[chunk]
            if entry is not None:
                x, _ = self.dense(x, [entry], None if bias_TN is None else bias_TN[chunk])
                clock.lap("vit_dense")
            packed = pack(x, present_TN[chunk])
            del x
            if not packed.lengths:
                continue
            kept = None
            if present_TN is not keep_TN:
                kept = keep_TN[chunk].reshape(-1)[packed.index].nonzero().squeeze(1)
            tokens, attend = packed.tokens, _packed_attend(packed, kernel)
            if entry in features:
                features[entry].append(tokens if kept is None else tokens.index_select(0, kept))
            clock.lap("score_select_pack")
            for i in which:
                tokens = self.apply(self.blocks[i], tokens, attend)
                if i in features:
                    features[i].append(tokens if kept is None else tokens.index_select(0, kept))
            clock.lap("vit_packed")
        return {i: _cat(parts) for i, parts in features.items()}

    def bins(
        self, hidden_TND: Tensor, keep_TN: Tensor, which: Sequence[int], refill: bool, clock: _Clock
    ) -> dict[int, Tensor]:
        binned = pack_bins(hidden_TND, keep_TN, refill)
        mask = (binned.segment[:, None, :, None] == binned.segment[:, None, None, :]).contiguous()
        clock.lap("score_select_pack")
        features, x = {}, binned.tokens
        for i in which:
            x = self.apply(self.blocks[i], x, _dense_attend(mask, False))
            if i in self.layers:
                features[i] = x.flatten(0, 1).index_select(0, binned.kept_slot)
        clock.lap("vit_packed")
        return features


def _packed_attend(packed: PackedPatches, kernel: str) -> Attend:
    groups = group_frames(packed.lengths, packed.tokens.device) if kernel in ("sdpa", "eager") else None

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        return varlen_attention(q, k, v, packed.cu_seqlens, packed.max_seqlen, scale, kernel, groups)

    return attend


def _dense_attend(key_bias: Tensor | None, explicit: bool) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
        return batched_attention(q, k, v, q.shape[-1] ** -0.5, key_bias, explicit).transpose(-3, -2)

    return attend


def _dense(
    run: _BlockRunner, hidden: Tensor, window_index: Tensor, prune_layer: int, return_hidden: bool, clock: _Clock
) -> VitOutput:
    """Run every block as it is and keep every window."""
    num_frames, num_patches, _ = hidden.shape
    scored = None
    if return_hidden:
        scored, early = run.dense(hidden, range(prune_layer + 1))
        hidden, features = run.dense(scored, range(prune_layer + 1, len(run.blocks)))
        features = {**early, **features}
    else:
        _, features = run.dense(hidden, range(max(run.layers) + 1), features_only=True)
    keep_TW = torch.ones(num_frames, len(window_index), dtype=torch.bool, device=hidden.device)
    flat = torch.cat([features[layer] for layer in run.layers], -1).flatten(0, 1)
    offset = torch.arange(num_frames, device=hidden.device)[:, None, None] * num_patches
    pool_index = torch.where(window_index >= 0, window_index + offset, -1).flatten(0, 1)
    clock.lap("vit_dense")
    seconds = {"score_select_pack": 0.0, "vit_packed": 0.0, **clock.seconds}
    return VitOutput(flat, pool_index, keep_TW, None, scored, [num_patches] * num_frames, "dense", "", seconds)


def _score(
    scorer: nn.Module | str,
    hidden: Tensor,
    window_index: Tensor,
    video_lengths: list[int],
    keep_ratio: float,
    prune_from_frame: int,
    seed: int | torch.Generator,
) -> Tensor:
    if isinstance(scorer, nn.Module):
        return scorer(hidden, window_index, video_lengths)
    if scorer == "temporal":
        return temporal_scores(hidden, window_index, video_lengths)
    if scorer == "reference":
        return reference_scores(hidden, window_index, video_lengths, keep_ratio, prune_from_frame)
    if scorer == "random":
        return random_scores(len(hidden), len(window_index), seed).to(hidden.device)
    raise ValueError(f"scorer '{scorer}' is unknown -> a TokenScorer, temporal, reference, random, tome or none")


def _pool_index(window_index: Tensor, keep_TW: Tensor, index: Tensor, num_patches: int) -> Tensor:
    """Point each kept window's slots at rows of the packed features."""
    row_of = torch.empty(keep_TW.shape[0] * num_patches, dtype=torch.long, device=index.device)
    row_of[index] = torch.arange(len(index), device=index.device)
    frame, window = keep_TW.nonzero(as_tuple=True)
    slots = window_index[window]
    return torch.where(slots >= 0, row_of[slots.clamp_min(0) + frame[:, None] * num_patches], -1)


def _needs_grad(hidden: Tensor, blocks: Sequence[nn.Module]) -> bool:
    return torch.is_grad_enabled() and (hidden.requires_grad or any(p.requires_grad for p in blocks[0].parameters()))


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
