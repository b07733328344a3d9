"""Selection: how many windows of a clip are dropped, and which.

Comes after scoring and before packing: scores (T, W) in, keep mask (T, W) out. The budget is counted over a whole
video, not per frame, so a lively frame may keep all its windows and a still one none. Source: arXiv 2603.18004, token
selection. No tensor of features is touched here, and no gradient passes: the scorer learns through the log-score bias
and the temporal loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_keep_ratio(keep_ratio: float) -> None:
    """Refuse a keep ratio that means nothing.

    Args:
        keep_ratio: fraction of windows kept.

    Raises:
        ValueError: it is not in (0, 1].
    """
    if not (isinstance(keep_ratio, int | float) and math.isfinite(keep_ratio) and 0.0 < keep_ratio <= 1.0):
        raise ValueError(f"keep ratio {keep_ratio} -> it must be above 0 and at most 1 -> 0.5 keeps half, 1 keeps all")


def num_dropped(num_frames: int, num_windows: int, keep_ratio: float, prune_from_frame: int = 0) -> int:
    """Count the windows that one video drops.

    The product is taken in float32 and truncated, as the published models were trained.

    Args:
        num_frames: T of this video, >= 1.
        num_windows: W a frame.
        keep_ratio: fraction of windows kept, in (0, 1].
        prune_from_frame: frames before this one take no part in the budget and are kept, >= 0.

    Returns:
        Windows to drop, 0 for a single frame; never more than the prunable frames hold.

    Raises:
        ValueError: keep_ratio is outside (0, 1], or so small that even dropping every prunable frame misses it.

    Source: arXiv 2603.18004, token selection: the lowest int(r * W * max(0, T - prune_from_frame)) with r = 1 -
    keep_ratio.
    """
    check_keep_ratio(keep_ratio)
    if num_frames == 1:
        return 0
    prunable = num_windows * max(0, num_frames - prune_from_frame)
    dropped = int(torch.tensor(1.0 - keep_ratio, dtype=torch.float32) * prunable)
    droppable = num_windows * max(0, num_frames - max(1, prune_from_frame))
    if dropped > droppable:
        raise ValueError(
            f"keep ratio {keep_ratio:g} drops {dropped} of {prunable} windows but the first of {num_frames} frames "
            f"always stays, so at most {droppable} can go -> keep at least 1/{num_frames}, or sample more frames"
        )
    return dropped


def select_windows(scores_TW: Tensor, keep_ratio: float, video_lengths: list[int], prune_from_frame: int = 0) -> Tensor:
    """Choose the windows that stay: in each video, all but the lowest scores.

    Args:
        scores_TW: (T, W) floats, high = keep; gradients are ignored.
        keep_ratio: fraction of windows kept, in (0, 1].
        video_lengths: frames of each video; they add up to T.
        prune_from_frame: frames before this one are kept whole; the first frame always is.

    Returns:
        bool (T, W), True = kept. Equal scores are dropped in order, earliest first.

    Raises:
        ValueError: the lengths do not add up to T, or keep_ratio cannot be honoured (see `num_dropped`).

    Source: arXiv 2603.18004, token selection.
    """
    num_frames, num_windows = scores_TW.shape
    if sum(video_lengths) != num_frames:
        raise ValueError(f"video lengths add up to {sum(video_lengths)}, scores have {num_frames}: must agree")
    keep = torch.ones(num_frames, num_windows, dtype=torch.bool, device=scores_TW.device)
    scores_TW = scores_TW.detach()
    protected = max(1, prune_from_frame)
    start = 0
    for length in video_lengths:
        dropped = num_dropped(length, num_windows, keep_ratio, prune_from_frame)
        if dropped:
            candidates = scores_TW[start + protected : start + length].reshape(-1)
            lowest = torch.sort(candidates, stable=True).indices[:dropped]
            keep[start + protected : start + length].view(-1)[lowest] = False
        start += length
    return keep
