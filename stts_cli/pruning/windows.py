"""Windows: the groups of patches that become one visual token, and that are scored and dropped together.

Comes before everything else in the pruned ViT: a fixed table per patch grid, (W, P) indices into a frame's N patches,
-1 in the empty slots of windows cut by the border. Source: arXiv 2603.18004, method, pooling windows. It holds no
features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def window_index(grid_h: int, grid_w: int, pool_h: int, pool_w: int) -> Tensor:
    """Group the patches of a frame, grid_h rows by grid_w columns, into pooling windows of pool_h by pool_w.

    A grid that the window does not divide is padded on both sides, the odd row or column at the end.

    Returns:
        int64 (W, P) with W = ceil(grid_h / pool_h) * ceil(grid_w / pool_w) and P = pool_h * pool_w: patch indices in
        [0, grid_h * grid_w), row by row; -1 marks an empty slot.

    Raises:
        ValueError: a size is not positive.

    Source: arXiv 2603.18004, pooling windows; the padding is split as Molmo2's processor splits it.
    """
    if min(grid_h, grid_w, pool_h, pool_w) < 1:
        raise ValueError(f"grid {grid_h}x{grid_w} with windows {pool_h}x{pool_w}: every size must be at least 1")
    rows, cols = -(-grid_h // pool_h), -(-grid_w // pool_w)
    top, left = (rows * pool_h - grid_h) // 2, (cols * pool_w - grid_w) // 2
    padded = torch.full((rows * pool_h, cols * pool_w), -1, dtype=torch.long)
    padded[top : top + grid_h, left : left + grid_w] = torch.arange(grid_h * grid_w).view(grid_h, grid_w)
    return padded.view(rows, pool_h, cols, pool_w).transpose(1, 2).reshape(rows * cols, pool_h * pool_w)


def patch_window(index: Tensor, num_patches: int) -> Tensor:
    """Return which window each of a frame's N patches belongs to, int64 (N,) in [0, W); inverts a table (W, P).

    Raises:
        ValueError: the table does not hold each of the N patches exactly once.
    """
    flat = index.reshape(-1)
    filled = flat >= 0
    owner = torch.arange(index.shape[0], device=index.device).repeat_interleave(index.shape[1])[filled]
    if owner.numel() != num_patches:
        raise ValueError(f"the windows hold {owner.numel()} patches, a frame has {num_patches}: they must agree")
    return torch.empty(num_patches, dtype=torch.long, device=index.device).index_copy_(0, flat[filled], owner)


def gather_windows(x_TND: Tensor, index: Tensor) -> Tensor:
    """Collect each window's patch vectors, (T, N, D) by a table (W, P) to (T, W, P, D), zeros in empty slots."""
    num_frames, _, width = x_TND.shape
    windows = x_TND.index_select(1, index.reshape(-1).clamp_min(0)).view(num_frames, *index.shape, width)
    if bool((index < 0).any()):
        windows = windows * (index >= 0).to(windows.dtype)[..., None]
    return windows


def first_frames(video_lengths: list[int], num_frames: int, device: torch.device | str | None = None) -> Tensor:
    """Mark the first frame of every video of a batch, bool (T,).

    Raises:
        ValueError: the lengths do not add up to T, or one is not positive.
    """
    if min(video_lengths, default=0) < 1 or sum(video_lengths) != num_frames:
        raise ValueError(
            f"video lengths {video_lengths} add up to {sum(video_lengths)}, the batch has {num_frames} frames: "
            "give one positive length a video"
        )
    mask = torch.zeros(num_frames, dtype=torch.bool)
    mask[torch.tensor([0, *video_lengths[:-1]]).cumsum(0)] = True
    return mask.to(device)
