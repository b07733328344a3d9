"""Selection: how many windows of a clip are dropped, and which.

Comes after scoring and before packing: scores (T, W) in, keep mask (T, W) out. The budget is counted over a whole
video, not per frame, so a lively frame may keep all its windows and a still one none. Source: arXiv 2603.18004, token
selection. No tensor of features is touched here, and no gradient passes: the scorer learns through the log-score bias
and the temporal loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stts_cli.settings import num_dropped


def select_windows(scores_TW: Tensor, keep_ratio: float, video_lengths: list[int], prune_from_frame: int = 0) -> Tensor:
    """Choose the windows that stay: in each video, all but the lowest scores.

    Args:
        scores_TW: (T, W) floats, high = keep; gradients are ignored.
        keep_ratio: fraction of windows kept, in (0, 1].
        video_lengths: frames of each video; they add up to T.
        prune_from_frame: see `num_dropped`.

    Returns:
        bool (T, W), True = kept; each video's first frame always is. Equal scores are dropped in order, earliest first.

    Raises:
        ValueError: the lengths do not add up to T.
        InputError: keep_ratio is outside (0, 1].

    Source: arXiv 2603.18004, token selection.
    """
    num_frames, num_windows = scores_TW.shape
    if sum(video_lengths) != num_frames:
        raise ValueError(f"video lengths add up to {sum(video_lengths)}, scores have {num_frames}: must agree")
    keep = torch.ones(num_frames, num_windows, dtype=torch.bool, device=scores_TW.device)
    scores_TW = scores_TW.detach()
    start = 0
    for length in video_lengths:
        dropped = num_dropped(length, num_windows, keep_ratio, prune_from_frame)
        if dropped:
            candidates = scores_TW[start + 1 : start + length].reshape(-1)
            lowest = torch.sort(candidates, stable=True).indices[:dropped]
            keep[start + 1 : start + length].view(-1)[lowest] = False
        start += length
    return keep
