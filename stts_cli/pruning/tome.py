"""ToMe as a baseline: merge similar windows of a frame instead of dropping any.

Takes the place of scoring and selection: features after block `prune_layer` decide which windows merge (bipartite soft
matching on each window's mean vector, within its frame); after the next block the merged windows' patches become
size-weighted means, slot by slot, and only the windows merged into go on. Source: bipartite soft matching is arXiv
2210.09461; its use as a baseline is arXiv 2603.18004's. Attention is not weighted by size here. Gradients pass through
the means, not the matching.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from stts_cli.pruning.windows import gather_windows


def merge_windows(
    x_TND: Tensor, window_index: Tensor, dropped: list[int], video_lengths: list[int]
) -> tuple[Tensor, Callable[[Tensor, slice], Tensor]]:
    """Plan which windows merge into which.

    Each video's budget is spread evenly over its frames, the first left whole. A round of matching can merge
    at most half of a frame's windows, so larger budgets take several rounds.

    Args:
        x_TND: (T, N, D) features after block `prune_layer`.
        window_index: int64 (W, P) window table.
        dropped: windows to merge away in each video, at most W - 1 of each frame but the first.
        video_lengths: frames of each video; they add up to T.

    Returns:
        (keep mask bool (T, W), a function of features (T', N, D) and the slice of the T frames that they are of, which
        writes the size-weighted means into the windows that stay). At least one window of a frame stays.
    """
    num_frames, num_windows = len(x_TND), len(window_index)
    quota = _spread(dropped, video_lengths).to(x_TND.device)
    filled = (window_index >= 0).sum(1, keepdim=True)
    mean = (gather_windows(x_TND.detach(), window_index).sum(2) / filled).float()
    target = torch.arange(num_windows, device=x_TND.device).repeat(num_frames, 1)
    alive = torch.ones(num_frames, num_windows, dtype=torch.bool, device=x_TND.device)
    size = torch.ones_like(alive, dtype=torch.float32)
    while bool((quota > 0).any()):
        source, into = _match(mean, alive, quota)
        if not bool(source.any()):
            break
        quota = quota - source.sum(1)
        alive &= ~source
        weighted = mean * size[..., None]
        share = torch.where(source, into, torch.arange(num_windows, device=into.device))
        mean = torch.zeros_like(mean).scatter_add_(1, share[..., None].expand_as(mean), weighted)
        size = torch.zeros_like(size).scatter_add_(1, share, size)
        mean = mean / size.clamp_min(1)[..., None]
        target = share.gather(1, target)

    def merge(hidden_TND: Tensor, frames: slice = slice(None)) -> Tensor:
        return _average(hidden_TND, window_index, target[frames])

    return alive, merge


def _spread(dropped: list[int], video_lengths: list[int]) -> Tensor:
    """Share each video's budget out over its frames, (T,) counts."""
    quota = []
    for budget, length in zip(dropped, video_lengths, strict=True):
        each, rest = divmod(budget, max(1, length - 1))
        quota += [0] + [each + (i < rest) for i in range(length - 1)]
    return torch.tensor(quota)


def _match(mean_TWD: Tensor, alive_TW: Tensor, quota_T: Tensor) -> tuple[Tensor, Tensor]:
    """One round: (source mask (T, W) of windows to merge now, (T, W) the window each goes into)."""
    odd = alive_TW.cumsum(1) % 2 == 1  # the first, third, ... of those that stay
    is_a, is_b = alive_TW & odd, alive_TW & ~odd
    unit = functional.normalize(mean_TWD, dim=-1)
    similarity = (unit @ unit.transpose(1, 2)).masked_fill(~(is_a[..., None] & is_b[:, None]), float("-inf"))
    best, into = similarity.max(-1)
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
    place = torch.empty_like(order).scatter_(1, order, ranks)
    return (place < quota_T[:, None]) & torch.isfinite(best), into


def _average(hidden_TND: Tensor, window_index: Tensor, target_TW: Tensor) -> Tensor:
    """Write each window's mean over those that merge into it, slot by slot, into its patches; zeros if none does."""
    num_frames, num_patches, width = hidden_TND.shape
    windows = gather_windows(hidden_TND, window_index)
    filled = (window_index >= 0).to(windows.dtype).expand(num_frames, -1, -1)
    into = target_TW[..., None, None].expand_as(windows)
    total = torch.zeros_like(windows).scatter_add(1, into, windows)
    count = torch.zeros_like(filled).scatter_add(1, target_TW[..., None].expand_as(filled), filled)
    mean = total / count.clamp_min(1)[..., None]
    slots = window_index.reshape(-1)
    patches = slots[slots >= 0]
    rows = mean.flatten(1, 2)[:, slots >= 0]
    return torch.empty_like(hidden_TND).index_copy(1, patches, rows).view(num_frames, num_patches, width)
