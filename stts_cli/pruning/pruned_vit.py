"""The pruned ViT: dense blocks, score, one block with the soft bias, drop, packed blocks.

Comes between a family's patches and its connector. In: patches of the frames of one or more videos. Out: the features
of kept patches only, with the table that pools them to visual tokens. Blocks 0..l see every patch (l is `prune_layer`),
the plan is made from block l's output, block l + 1 sees every patch with a bias on its keys, blocks l + 2.. see kept
patches, each within its own frame; where a checkpoint was trained so, they see all patches of a frame that packing into
bins would leave alone, though only its kept ones go on. Class tokens, which some models put before a frame's patches,
are in no window: they stay with a frame that keeps anything, and the connector does not read them. With "last" every
block sees every patch, and only what follows is spared: the arm to compare with methods that prune behind the encoder.
Source: arXiv 2603.18004, method. Training and inference use this same function, and the blocks are always the stock
model's own: only what they attend over changes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from stts_cli.pruning.attention import Attention, attention_over, choose_kernel
from stts_cli.pruning.packing import pack
from stts_cli.pruning.plan import Plan, make_plan
from stts_cli.pruning.stopwatch import Stopwatch
from stts_cli.settings import LAST, Execution, Layout, Pruning, check_prune_layer, scored_block

Taps = dict[int, Tensor]  # number of a block -> its output


class Vit(Protocol):
    """What the method needs of a model's vision encoder. Its attention must ask `current_attention`.

    N of what its blocks take and return is the patches of a frame behind the layout's class tokens.
    """

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

    def parts(self, number: int) -> Sequence[int]:
        """Return the parts of a frame that attend within themselves in a block, as patches of each, in their order.

        They add up to N and are the same in all blocks that have some; none where a frame's patches all see each other.
        """


@dataclass
class VitOutput:
    """What the connector reads, and what training and reports want to know.

    Attributes:
        features: (M, D * number of taps) of kept patches, frame after frame.
        pool_index: int64 (V, P) rows of `features` that make each visual token, -1 in empty slots.
        plan: what was kept, and by which scores; of a dense pass everything is.
        scored_hidden: (T, N, D) output of block l, only with `Execution.keep_scored`.
        kernel: the attention kernel of the packed blocks, "dense" where nothing was dropped, "none" where none ran.
        kernel_reason: why that kernel, empty when there is nothing to say.
        seconds: time of "vit_dense", "score_select_pack" and "vit_packed".
        parts: patches of each part of a frame that a block attends within, (N,) of most models.
    """

    features: Tensor
    pool_index: Tensor
    plan: Plan
    scored_hidden: Tensor | None
    kernel: str
    kernel_reason: str
    seconds: dict[str, float]
    parts: list[int]

    @property
    def packed_patches(self) -> list[int]:
        """Patches of each frame that the packed blocks ran on: the kept ones, or all of a refilled frame.

        Of models whose blocks attend within parts of a frame, those of each part, frame after frame.
        """
        present = self.plan.present_patches
        counts: list[int] = torch.stack([x.sum(1) for x in torch.split(present, self.parts, 1)], 1).flatten().tolist()
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
        InputError: a prune layer, kernel or scorer that cannot be honoured.
        ValueError: the lengths do not add up to T, or there is no learned scorer where one is asked for.

    Source: arXiv 2603.18004, method.
    """
    if sum(video_lengths) != len(patches):
        raise ValueError(f"video lengths add up to {sum(video_lengths)}, not to {len(patches)} frames: they must agree")
    num_blocks = len(vit.vit_blocks)
    check_prune_layer(pruning.prune_layer, num_blocks)
    scored = scored_block(pruning.prune_layer, num_blocks)
    first = layout.num_class_tokens
    run = _Run(vit, execution or Execution(), scored, patches, first)
    if not any(pruning.num_dropped(length, layout.num_windows) for length in video_lengths):
        every_TN = torch.ones(len(patches), layout.num_patches, dtype=torch.bool, device=patches.device)
        plan = Plan(every_TN[:, : layout.num_windows].clone(), every_TN, every_TN)
        taps = {i: x[:, first:] for i, x in run.dense(num_blocks).items()}
        return run.output(plan, {i: x.flatten(0, 1) for i, x in taps.items()}, taps.get(scored), window_index)
    taps = run.dense(scored + 1)
    hidden = taps[scored]
    run.watch.lap("vit_dense")
    taps = {i: x[:, first:] for i, x in taps.items()}
    scored_hidden = taps[scored]
    plan = make_plan(scored_hidden, pruning, layout, window_index, video_lengths, learned)
    if pruning.prune_layer == LAST and plan.merge is not None:
        taps = {i: plan.merge(x, slice(None)) for i, x in taps.items()}
    kept = plan.kept_patches.reshape(-1).nonzero().squeeze(1)
    taps = {i: x.flatten(0, 1).index_select(0, kept) for i, x in taps.items() if i in vit.taps}
    run.choose_kernel(hidden)
    run.watch.lap("score_select_pack")
    if pruning.prune_layer != LAST:
        taps |= _join([run.pruned(hidden[chunk], plan, chunk) for chunk in run.chunks])
    return run.output(plan, taps, scored_hidden, window_index)


class _Run:
    """One pass: which chunks of frames go through together, what is noted on the way, kernel and times."""

    def __init__(self, vit: Vit, execution: Execution, scored: int, patches: Tensor, num_class_tokens: int) -> None:
        self.vit, self.execution, self.scored, self.patches = vit, execution, scored, patches
        self.num_class_tokens = num_class_tokens
        step = execution.chunk_frames or len(patches)
        self.chunks = [slice(start, start + step) for start in range(0, len(patches), step)]
        self.kernel, self.kernel_reason = "dense", ""
        self.watch = Stopwatch(patches.device, "vit_dense", "score_select_pack", "vit_packed")

    def dense(self, num_blocks: int) -> Taps:
        """Run the first blocks on every patch; returns outputs (T, N, D) of the last and of those that are read."""
        noted = {*self.vit.taps, num_blocks - 1, *([self.scored] if self.execution.keep_scored else [])}
        embedded = (self.vit.embed(self.patches[chunk]) for chunk in self.chunks)
        return _join([self.blocks(range(num_blocks), x_TND, noted)[1] for x_TND in embedded])

    def pruned(self, x_TND: Tensor, plan: Plan, chunk: slice) -> Taps:
        """Run what comes after scoring on a chunk of frames; returns the outputs (M, D) of kept patches."""
        kernel = "eager" if self._is_explicit(x_TND) else "sdpa"
        first = self.num_class_tokens
        biased = None if plan.bias is None else Attention(kernel, key_bias=pad(plan.bias[chunk], (first, 0)))
        x_TND, _ = self.blocks([self.scored + 1], x_TND, (), biased)
        self.watch.lap("vit_dense")
        if plan.merge is not None:
            x_TND = torch.cat([x_TND[:, :first], plan.merge(x_TND[:, first:], chunk)], 1)
        present = plan.present_patches[chunk]
        packed = pack(x_TND, torch.cat([present.any(1, keepdim=True).expand(-1, first), present], 1))
        if not packed.lengths:
            return {}
        self.watch.lap("score_select_pack")
        x, late = packed.tokens[None], range(self.scored + 2, len(self.vit.vit_blocks))
        _, taps = self.blocks(late, x, self.vit.taps, Attention(self.kernel, packed))
        if self.scored + 1 in self.vit.taps:
            taps[self.scored + 1] = x
        self.watch.lap("vit_packed")
        if plan.present_patches is plan.kept_patches and not first:
            return {number: x[0] for number, x in taps.items()}
        kept = pad(plan.kept_patches[chunk], (first, 0)).reshape(-1)[packed.index].nonzero().squeeze(1)
        return {number: x[0].index_select(0, kept) for number, x in taps.items()}

    def blocks(
        self, which: Sequence[int], x: Tensor, noted: Collection[int], attention: Attention | None = None
    ) -> tuple[Tensor, Taps]:
        """Run some blocks; returns their output and those of the noted ones among them."""
        if attention is None and self._is_explicit(x):
            attention = Attention("eager")
        parts = self._parts(which)
        narrow = attention.within(parts, x) if attention and parts else None

        def block(x: Tensor, number: int) -> Tensor:
            # inside, since a checkpoint runs it again, maybe in another thread
            with attention_over(narrow if self.vit.parts(number) else attention):
                return self.vit.run_block(number, x)

        taps = {}
        for number in which:
            again = self.execution.checkpoint
            x = checkpoint(block, x, number, use_reentrant=False) if again else block(x, number)
            if number in noted:
                taps[number] = x
        return x, taps

    def choose_kernel(self, hidden: Tensor) -> None:
        if self.scored == len(self.vit.vit_blocks) - 1:
            self.kernel, self.kernel_reason = "none", "every block sees every patch"
            return
        needs_grad = self._needs_grad(hidden)
        self.kernel, self.kernel_reason = choose_kernel(self.execution.kernel, hidden.device, hidden.dtype, needs_grad)

    def output(self, plan: Plan, taps: Taps, scored_hidden: Tensor | None, window_index: Tensor) -> VitOutput:
        features = torch.cat([taps[number] for number in self.vit.taps], -1)
        pool_index = _pool_index(window_index, plan)
        self.watch.lap("vit_dense" if self.kernel == "dense" else "score_select_pack")
        scored_hidden = scored_hidden if self.execution.keep_scored else None
        parts = self._parts(range(len(self.vit.vit_blocks))) or plan.present_patches.shape[1:]
        return VitOutput(
            features, pool_index, plan, scored_hidden, self.kernel, self.kernel_reason, self.watch.seconds, list(parts)
        )

    def _parts(self, which: Sequence[int]) -> Sequence[int]:
        """Return the parts of a frame of those blocks that have some."""
        return next(filter(None, map(self.vit.parts, which)), ())

    def _needs_grad(self, x: Tensor) -> bool:
        wants = x.requires_grad or any(p.requires_grad for p in self.vit.vit_blocks[0].parameters())
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


def _join(parts: Sequence[Taps]) -> Taps:
    """Put the chunks of each noted output together."""
    numbers = next(filter(None, parts), {})
    return {i: torch.cat([part[i] for part in parts if part]) if len(parts) > 1 else parts[0][i] for i in numbers}
