"""Selection: which windows of a clip are dropped.

Comes after scoring and before packing: scores (T, W) in, keep mask (T, W) out. The budget is counted over a whole
video, not per frame, so a lively frame may keep all its windows and a still one none. Source: arXiv 2603.18004, token
selection. No tensor of features is touched here, and no gradient passes: the scorer learns through the log-score bias
and the temporal loss.
"""

from __future__ import annotations

import torch
from torch import Tensor


def select_windows(scores_TW: Tensor, dropped: list[int], video_lengths: list[int]) -> Tensor:
    """Choose the windows that stay: in each video, all but the lowest scores.

    Args:
        scores_TW: (T, W) floats, high = keep; gradients are ignored.
        dropped: windows that each video drops, none of its first frame.
        video_lengths: frames of each video; they add up to T.

    Returns:
        bool (T, W), True = kept; each video's first frame always is. Equal scores are dropped in order, earliest first.

    Source: arXiv 2603.18004, token selection.
    """
    keep_TW = torch.ones_like(scores_TW, dtype=torch.bool)
    videos = zip(
        torch.split(scores_TW.detach(), video_lengths), torch.split(keep_TW, video_lengths), dropped, strict=True
    )
    for scores, keep, number in videos:
        lowest = torch.sort(scores[1:].flatten(), stable=True).indices[:number]
        keep[1:].view(-1)[lowest] = False
    return keep_TW
