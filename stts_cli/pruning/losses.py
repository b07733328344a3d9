"""The temporal loss: what the scorer learns beside the language model.

Used while training, after block `prune_layer`: scores (T, W) and the features they came from (T, N, D) in, a scalar
out. A window that looks as it did one frame before should score low. Source: arXiv 2603.18004, temporal learning. The
language-model loss reaches the scorer elsewhere, through the log-score bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stts_cli.pruning.windows import first_frames, patch_window

_FRAMES_AT_ONCE = 64


def temporal_target(x_TND: Tensor, window_index: Tensor, video_lengths: list[int], *, gradient: bool = False) -> Tensor:
    """Measure how much each window changed since the previous frame.

    A window's vector is all its patches flattened; empty slots count nothing.

    Args:
        x_TND: (T, N, D) features, any float dtype.
        window_index: int64 (W, P) window table.
        video_lengths: frames of each video; they add up to T.
        gradient: pass gradient on into the features, as the reference does; a float32 copy of them is then held.

    Returns:
        float32 (T, W): 1 - cosine to the same window one frame before, in [0, 2]; 1 for the first frame of a video,
        which has nothing to compare with.

    Source: arXiv 2603.18004, temporal learning.
    """
    num_frames, num_patches, _ = x_TND.shape
    starts = first_frames(video_lengths, num_frames, x_TND.device)
    owner = patch_window(window_index, num_patches)
    with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
        dots = x_TND.new_zeros(num_frames, num_patches, dtype=torch.float32)
        squares = torch.empty_like(dots)
        for start in range(0, num_frames, _FRAMES_AT_ONCE):
            stop = min(start + _FRAMES_AT_ONCE, num_frames)
            x = x_TND[max(start - 1, 0) : stop].float()
            squares[start:stop] = x[-(stop - start) :].square().sum(-1)
            dots[stop - len(x) + 1 : stop] = (x[1:] * x[:-1]).sum(-1)
        zeros = dots.new_zeros(num_frames, window_index.shape[0])
        dots_TW = zeros.index_add(1, owner, dots)
        norms_TW = zeros.index_add(1, owner, squares).clamp_min(1e-24).sqrt()  # at 0 a root has no gradient
        cosine = dots_TW[1:] / (norms_TW[1:] * norms_TW[:-1]).clamp_min(1e-12)
        target = torch.ones_like(dots_TW)
        target[1:] = (1 - cosine).clamp(0, 2)
        target[starts] = 1.0
    return target


def temporal_loss(
    scores_TW: Tensor,
    x_TND: Tensor,
    window_index: Tensor,
    video_lengths: list[int],
    *,
    target_gradient: bool = False,
) -> Tensor:
    """Return the mean squared error between scores and how much the windows changed.

    Args:
        scores_TW: (T, W) scores in (0, 1), with gradient.
        x_TND: (T, N, D) the features that were scored.
        window_index: as for `temporal_target`.
        video_lengths: as for `temporal_target`.
        target_gradient: pass gradient on into the features, as the reference does; else the target is a constant.

    Returns:
        float32 scalar, the mean over all windows of all frames that are not the first of their video; 0 if there is
        none.

    Source: arXiv 2603.18004, temporal learning; the paper adds it to the language-model loss with weight 0.5.
    """
    later = ~first_frames(video_lengths, scores_TW.shape[0], scores_TW.device)
    target = temporal_target(x_TND, window_index, video_lengths, gradient=target_gradient)
    error = (scores_TW.float() - target).square()
    return (error * later[:, None]).sum() / max(1, (len(later) - len(video_lengths)) * scores_TW.shape[1])
