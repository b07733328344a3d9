"""Oracles of packing: the way back, and the paper's layout, whole frames first-fit-descending in rows of N slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stts_cli.pruning.packing import PackedPatches
from stts_cli.settings import first_fit_descending, lone_frames


@dataclass(frozen=True)
class BinnedPatches:
    """Frames put into bins of N slots, whole frames only.

    Attributes:
        tokens: (B, N, D), zeros in slots left over.
        segment: int64 (B, N) the frame of each slot, -1 where none: slots attend within their segment only.
        kept_slot: int64 (M,) flattened slot of each kept patch, in the order of `index`.
        index: int64 (M,) each kept patch's place among the T * N flattened patches, ascending.
    """

    tokens: Tensor
    segment: Tensor
    kept_slot: Tensor
    index: Tensor


def pack_bins(hidden_TND: Tensor, keep_TN: Tensor, refill_lone_frames: bool = False) -> BinnedPatches:
    """Put the kept patches of whole frames into bins of N slots.

    Args:
        hidden_TND: (T, N, D) any float dtype.
        keep_TN: bool (T, N), True = kept.
        refill_lone_frames: give a frame that is alone in its bin all its N patches as context; only its kept ones go
            on.

    Returns:
        The bins; gradients pass back to `hidden_TND`.

    Source: arXiv 2603.18004, packing; the published code refills always.
    """
    num_frames, num_patches, width = hidden_TND.shape
    device = hidden_TND.device
    present = keep_TN.clone()
    lengths = keep_TN.sum(1).tolist()
    bins = first_fit_descending(lengths, num_patches)
    if refill_lone_frames:
        present[lone_frames(lengths, num_patches)] = True
    counts = present.sum(1).tolist()
    offset = torch.zeros(num_frames, dtype=torch.long)
    for row, frames in enumerate(bins):
        used = 0
        for frame in frames:
            offset[frame] = row * num_patches + used
            used += counts[frame]
    patches = present.reshape(-1).nonzero().squeeze(1)
    frame_of = patches // num_patches
    within = (present.cumsum(1) - 1).reshape(-1)[patches]
    slot = offset.to(device)[frame_of] + within
    num_slots = len(bins) * num_patches
    rows = hidden_TND.flatten(0, 1).index_select(0, patches)
    tokens = hidden_TND.new_zeros(num_slots, width).index_copy(0, slot, rows)
    segment = torch.full((num_slots,), -1, dtype=torch.long, device=device).index_copy_(0, slot, frame_of)
    kept = keep_TN.reshape(-1)[patches]
    shape = (len(bins), num_patches)
    return BinnedPatches(tokens.view(*shape, width), segment.view(shape), slot[kept], patches[kept])


def unpack(packed: PackedPatches, num_frames: int, num_patches: int, fill: float = 0.0) -> Tensor:
    """Put packed patches back in their frames.

    Args:
        packed: what `pack` made, its tokens perhaps changed since.
        num_frames: T.
        num_patches: N.
        fill: value of patches that were not kept.

    Returns:
        (T, N, D) of the tokens' dtype.
    """
    flat = packed.tokens.new_full((num_frames * num_patches, packed.tokens.shape[1]), fill)
    return flat.index_copy(0, packed.index, packed.tokens).view(num_frames, num_patches, -1)
