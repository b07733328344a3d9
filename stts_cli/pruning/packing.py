"""Packing: turn the ragged frames that selection leaves into dense work.

Comes after block `prune_layer` + 1: (T, N, D) and a keep mask in; out the kept patches of all frames one after the
other, (M, D), with no padding at all. The paper puts whole frames first-fit-descending into rows of N slots with a
block-diagonal mask; for the same kept patches both give the same numbers (tests hold that). Source: arXiv 2603.18004,
packing. Attention over packed patches is attention.py's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Segments:
    """Patches of several frames in one row, segment after segment, each of which attends within itself.

    A segment is a frame, or a part of one; those that keep nothing are left out.
    """

    cu_seqlens: Tensor  # int32 (S + 1,) where each segment starts and ends
    max_seqlen: int  # the longest segment
    index: Tensor  # int64 (M,) each patch's place among the T * N flattened patches, ascending
    lengths: tuple[int, ...]  # patches of each of the S segments; plain, so that no kernel waits for the device

    def within(self, parts: Sequence[int]) -> Segments:
        """Return the same patches in parts of a frame, of so many patches each; they add up to N."""
        ends = torch.tensor(parts, device=self.index.device).cumsum(0)
        frame, place = self.index // int(ends[-1]), self.index % int(ends[-1])
        owner = frame * len(parts) + torch.bucketize(place, ends, right=True)
        return segments(torch.unique_consecutive(owner, return_counts=True)[1].tolist(), self.index)


@dataclass(frozen=True)
class PackedPatches(Segments):
    """Kept patches of several frames, one after the other; frames that keep nothing are left out."""

    tokens: Tensor  # (M, D)


def segments(lengths: Sequence[int], index: Tensor) -> Segments:
    """Return patches, int64 (M,) places, as segments of such lengths, each at least 1."""
    cu_seqlens = functional.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
    return Segments(cu_seqlens.to(index.device), max(lengths, default=0), index, tuple(lengths))


def pack(hidden_TND: Tensor, keep_TN: Tensor) -> PackedPatches:
    """Concatenate the kept patches of all frames.

    Args:
        hidden_TND: (T, N, D) any float dtype, with or without gradient.
        keep_TN: bool (T, N), True = kept.

    Returns:
        The packed patches; gradients pass back to `hidden_TND`.

    Raises:
        ValueError: mask and patches disagree in shape.
    """
    if keep_TN.shape != hidden_TND.shape[:2]:
        raise ValueError(f"keep mask {tuple(keep_TN.shape)} for patches {tuple(hidden_TND.shape[:2])}: they must agree")
    index = keep_TN.reshape(-1).nonzero().squeeze(1)
    found = segments([n for n in keep_TN.sum(1).tolist() if n], index)
    return PackedPatches(**vars(found), tokens=hidden_TND.flatten(0, 1).index_select(0, index))
