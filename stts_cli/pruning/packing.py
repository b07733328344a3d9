"""Packing: turn the ragged frames that selection leaves into dense work.

Comes after block `prune_layer` + 1: (T, N, D) and a keep mask in; out the kept patches of all frames one after the
other, (M, D), with no padding at all. The paper puts whole frames first-fit-descending into rows of N slots with a
block-diagonal mask; for the same kept patches both give the same numbers (tests hold that). Source: arXiv 2603.18004,
packing. Attention over packed patches is attention.py's work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class PackedPatches:
    """Kept patches of several frames, one after the other; frames that keep nothing are left out."""

    tokens: Tensor  # (M, D)
    cu_seqlens: Tensor  # int32 (T' + 1,) where each frame starts and ends
    max_seqlen: int  # the longest frame
    index: Tensor  # int64 (M,) each patch's place among the T * N flattened patches, ascending
    lengths: tuple[int, ...]  # patches of each of the T' frames; plain, so that no kernel waits for the device


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
    lengths = tuple(n for n in keep_TN.sum(1).tolist() if n)
    cu_seqlens = functional.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
    tokens = hidden_TND.flatten(0, 1).index_select(0, index)
    return PackedPatches(tokens, cu_seqlens.to(hidden_TND.device), max(lengths, default=0), index, lengths)
