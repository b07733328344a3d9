"""Vision encoders of Qwen's kind: patches run through the frames of a unit, and are turned by their row and column.

The patches of a window stand one after the other, windows row by row. All units of a call stand in one row, so what a
block attends over is said by borders, and its rotary table has a row a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stts_cli.families.frames import FrameProcessor
from stts_cli.pruning import current_attention
from stts_cli.settings import Layout

_UNITS_AT_ONCE = 16


class UnitProcessor(FrameProcessor):
    """From pixels to patches through the frames of a unit, the patches of a window one after the other."""

    def __call__(self, frames: Tensor, layout: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Turn frames, uint8 (T, H, W, 3) with T at least 1, into (U, N, 3 * frames * side * side): colours first."""
        deep = layout.frames_per_unit
        if missing := -len(frames) % deep:
            frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
        (rows, cols), (merge, _) = layout.grid, layout.window
        side = layout.frame_size[0] // rows
        parts = []
        for x in self.normalized(frames, layout, device, _UNITS_AT_ONCE * deep):
            x = x.view(-1, deep, rows // merge, merge, side, cols // merge, merge, side, 3)
            x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
            parts.append(x.reshape(len(x), rows * cols, 3 * deep * side * side).to(dtype))
        return torch.cat(parts)


class UnitVit:
    """The ViT on units of one layout; see `pruning.Vit`. A family's own adds `embed`.

    Args:
        blocks: the stock blocks, up to the deepest that is read.
        taps: blocks whose outputs are read.
        rotation: cosines and sines, (N, head width) each, of the patches of a unit.
    """

    def __init__(self, blocks: Sequence[nn.Module], taps: Sequence[int], rotation: Sequence[Tensor]) -> None:
        self.vit_blocks, self.taps, self.rotation = blocks, taps, rotation
        self.num_patches = len(rotation[0])

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one stock block on units (U, N, D), or on the packed patches of several (1, M, D)."""
        attention, (batch, length) = current_attention(), hidden.shape[:2]
        borders = [0, batch * length]  # what is attended over is the context's affair
        if attention is not None and attention.packed is not None:
            rotation = tuple(part[attention.packed.index % self.num_patches] for part in self.rotation)
        else:
            rotation = tuple(part.repeat(batch, 1) for part in self.rotation)
            if attention is None or attention.key_bias is None:
                borders = list(range(0, batch * length + 1, length))
        ends = torch.tensor(borders, dtype=torch.int32)
        out: Tensor = self.vit_blocks[number](hidden.flatten(0, 1), cu_seqlens=ends, position_embeddings=rotation)
        return out.view(batch, length, -1)


def places(layout: Layout, device: Any) -> Tensor:
    """Return the row and the column of each patch of a unit, int64 (N, 2), in the order that `UnitProcessor` makes."""
    from transformers.vision_utils import get_vision_position_ids

    found: Tensor = get_vision_position_ids(torch.tensor([[1, *layout.grid]], device=device), layout.window[0])
    return found


def window_rows(layout: Layout, device: Any) -> Tensor:
    """Return the patches of each window, int64 (W, P): they stand one after the other."""
    return torch.arange(layout.num_patches, device=device).view(layout.num_windows, -1)
