"""The pruned ViT: dense blocks, score, one block with the soft bias, drop, packed blocks.

Comes between a family's patches and its connector. In: patches of the frames of one or more videos. Out: the features
of kept patches only, with the table that pools them to visual tokens. Blocks 0..l see every patch (l is `prune_layer`),
the plan is made from block l's output, block l + 1 sees every patch with a bias on its keys, blocks l + 2.. see kept
patches, each within its own frame; where a checkpoint was trained so, they see all patches of a frame that packing into
bins would leave alone, though only its kept ones go on. Source: arXiv 2603.18004, method. Training and inference use
this same function, and the blocks are always the stock model's own: only what they attend over changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stts_cli.pruning.attention import Attention, attention_over, choose_kernel
from stts_cli.pruning.packing import pack
from stts_cli.pruning.plan import Plan, make_plan
from stts_cli.pruning.stopwatch import Stopwatch
from stts_cli.settings import Execution, Layout, Pruning, check_prune_layer


class Vit(Protocol):
    """What the method needs of a model's vision encoder. Its attention must ask `current_attention`."""

    @property
    def vit_blocks(self) -> Sequence[nn.Module]:
        """Blocks in order, up to the deepest that is read."""

    @property
    def taps(self) -> Sequence[int]:
        """Blocks whose outputs the connector reads, 0-based, in its order; the deepest is the last block."""

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (T, N, patch_dim) into what block 0 takes, (T, N, D)."""

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one stock block on (B, S, D)."""


@dataclass
class VitOutput:
    """What the pruned ViT hands to the connector, and what training and reports want to know.

    Attributes:
        features: (M, D * number of taps) of kept patches, frame after frame.
        pool_index: int64 (V, P) rows of `features` that make each visual token, -1 in empty slots.
        plan: what was kept, and by which scores; of a dense pass everything is.
        scored_hidden: (T, N, D) output of block l, only with `Execution.keep_scored`.
        kernel: the attention kernel of the packed blocks, "dense" where nothing was dropped.
        kernel_reason: why that kernel, empty when there is nothing to say.
        seconds: time of "vit_dense", "score_select_pack" and "vit_packed".
    """

    features: Tensor
    pool_index: Tensor
    plan: Plan
    scored_hidden: Tensor | None
    kernel: str
    kernel_reason: str
    seconds: dict[str, float]

    @property
    def packed_patches(self) -> list[int]:
        """Patches of each frame that the packed blocks ran on: the kept ones, or all of a refilled frame."""
        counts: list[int] = self.plan.present_patches.sum(1).tolist()
        return counts


def prune_and_encode(
    vit: Vit,
    patches: Tensor,
    video_lengths: list[int],
    pruning: Pruning,
    layout: Layout,
    window_index: Tensor,
    *,
    learned: nn.Module | None = None,
    execution: Execution | None = None,
) -> VitOutput:
    """Encode the frames of one or more videos, dropping low-scored windows on the way.

    Args:
        vit: the stock vision encoder.
        patches: (T, N, patch_dim) of all frames of all videos.
        video_lengths: frames of each video; they add up to T. Selection is per video.
        pruning: who scores and how much stays; where no video drops anything the stock blocks run untouched.
        layout: how frames are cut.
        window_index: int64 (W, P) window table on the patches' device.
        learned: the scorer behind "learned".
        execution: how it runs.

    Returns:
        Features of kept patches, differentiable end to end.

    Raises:
        InputError: the prune layer is out of range.
        ValueError: lengths, kernel or scorer that cannot be honoured.

    Source: arXiv 2603.18004, method.
    """
    if sum(video_lengths) != len(patches):
        raise ValueError(f"video lengths add up to {sum(video_lengths)}, not to {len(patches)} frames: they must agree")
    execution, scored = execution or Execution(), pruning.prune_layer
    run = _Run(vit, execution, scored, patches.device)
    last = len(run.blocks)
    check_prune_layer(scored, last)
    step = execution.chunk_frames or len(patches)
    chunks = [slice(start, start + step) for start in range(0, len(patches), step)]
    if not any(pruning.num_dropped(length, layout.num_windows) for length in video_lengths):
        taps = _join([run(range(last), vit.embed(patches[chunk]))[1] for chunk in chunks])
        every_TN = torch.ones(len(patches), layout.num_patches, dtype=torch.bool, device=patches.device)
        plan = Plan(every_TN[:, : layout.num_windows].clone(), every_TN, every_TN)
        return run.output(plan, {i: x.flatten(0, 1) for i, x in taps.items()}, taps.get(scored), window_index)

    parts, seen = zip(*[run(range(scored + 1), vit.embed(patches[chunk])) for chunk in chunks], strict=True)
    hidden, dense_taps = _cat(parts), _join(seen)
    del parts, seen  # hidden is held once while it is scored
    run.watch.lap("vit_dense")
    plan = make_plan(hidden, pruning, layout, window_index, video_lengths, learned)
    kept = plan.kept_patches.reshape(-1)
    dense_taps = {i: x.flatten(0, 1).index_select(0, kept.nonzero().squeeze(1)) for i, x in dense_taps.items()}
    run.choose_kernel(hidden)
    run.watch.lap("score_select_pack")
    packed_taps = _join([run.late(hidden[chunk], plan, chunk) for chunk in chunks])
    return run.output(plan, {**dense_taps, **packed_taps}, hidden if execution.keep_scored else None, window_index)


class _Run:
    """Run blocks of one video encoder, and note what the connector reads, which kernel ran and how long it took."""

    def __init__(self, vit: Vit, execution: Execution, scored: int, device: torch.device) -> None:
        self.vit, self.execution, self.scored, self.blocks = vit, execution, scored, vit.vit_blocks
        self.noted = {*vit.taps, *([scored] if execution.keep_scored else [])}
        self.kernel, self.kernel_reason = "dense", ""
        self.watch = Stopwatch(device, "vit_dense", "score_select_pack", "vit_packed")

    def __call__(
        self, which: Sequence[int], x: Tensor, attention: Attention | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run some blocks; returns their output and those of the noted ones among them."""
        if attention is None and self._is_explicit(x):
            attention = Attention("eager")
        taps = {}
        for number in which:
            x = self._block(number, x, attention)
            if number in self.noted:
                taps[number] = x
        return x, taps

    def _block(self, number: int, x: Tensor, attention: Attention | None) -> Tensor:
        def block(x: Tensor) -> Tensor:
            with attention_over(attention):  # inside, since a checkpoint runs it again, maybe in another thread
                return self.vit.run_block(number, x)

        return checkpoint(block, x, use_reentrant=False) if self.execution.checkpoint else block(x)

    def late(self, x_TND: Tensor, plan: Plan, chunk: slice) -> dict[int, Tensor]:
        """Run what comes after scoring on a chunk of frames; returns the noted outputs of kept patches."""
        bias_TN = None if plan.bias is None else plan.bias[chunk]
        kernel = "eager" if self._is_explicit(x_TND) else "sdpa"
        biased = None if bias_TN is None else Attention(kernel, key_bias=bias_TN)
        x_TND, _ = self([self.scored + 1], x_TND, biased)
        self.watch.lap("vit_dense")
        if plan.merge is not None:
            x_TND = plan.merge(x_TND, chunk)
        packed = pack(x_TND, plan.present_patches[chunk])
        if not packed.lengths:
            return {}
        self.watch.lap("score_select_pack")
        attention = Attention(self.kernel, packed)
        _, taps = self(range(self.scored + 2, len(self.blocks)), packed.tokens[None], attention)
        if self.scored + 1 in self.noted:
            taps[self.scored + 1] = packed.tokens[None]
        self.watch.lap("vit_packed")
        if plan.present_patches is plan.kept_patches:
            return {number: x[0] for number, x in taps.items()}
        kept = plan.kept_patches[chunk].reshape(-1)[packed.index].nonzero().squeeze(1)
        return {number: x[0].index_select(0, kept) for number, x in taps.items()}

    def choose_kernel(self, hidden: Tensor) -> None:
        needs_grad = self._needs_grad(hidden)
        self.kernel, self.kernel_reason = choose_kernel(self.execution.kernel, hidden.device, hidden.dtype, needs_grad)

    def output(
        self, plan: Plan, taps: dict[int, Tensor], scored_hidden: Tensor | None, window_index: Tensor
    ) -> VitOutput:
        features = torch.cat([taps[number] for number in self.vit.taps], -1)
        pool_index = _pool_index(window_index, plan)
        self.watch.lap("vit_dense" if self.kernel == "dense" else "score_select_pack")
        return VitOutput(features, pool_index, plan, scored_hidden, self.kernel, self.kernel_reason, self.watch.seconds)

    def _needs_grad(self, x: Tensor) -> bool:
        wants = x.requires_grad or any(p.requires_grad for p in self.blocks[0].parameters())
        return torch.is_grad_enabled() and wants

    def _is_explicit(self, x: Tensor) -> bool:
        """Whether dense attention is two matrix products: as asked, or where SDPA has a slow backward pass."""
        slow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and self._needs_grad(x)
        return slow or self.execution.kernel == "eager"


def _pool_index(window_index: Tensor, plan: Plan) -> Tensor:
    """Point each kept window's slots at rows of the features of kept patches, (V, P)."""
    num_patches = plan.kept_patches.shape[1]
    row_of = plan.kept_patches.reshape(-1).cumsum(0) - 1
    frame, window = plan.keep_mask.nonzero(as_tuple=True)
    slots = window_index[window]
    return torch.where(slots >= 0, row_of[slots.clamp_min(0) + frame[:, None] * num_patches], -1)


def _join(parts: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
    """Put the chunks of each noted output together."""
    return {number: _cat([part[number] for part in parts if part]) for number in next(filter(None, parts), {})}


def _cat(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
