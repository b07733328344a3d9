"""Scorers: how much each window of a clip is worth keeping, (T, N, D) features in, (T, W) scores out, high = keep.

Runs once, on the output of ViT block `prune_layer`. `TokenScorer` is the paper's learned scorer (arXiv 2603.18004,
token scorer); `reference_scores` (change since the frame in which that position last changed) and `random_scores` need
no training and exist to compare with, as does the target of the temporal loss taken as the score (losses.py). No text
is seen by any of them. plan.py chooses among them, selection.py chooses windows by them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stts_cli.pruning.windows import first_frames, gather_windows

_PROJECTION_STD = 0.02
_CHANGED_BELOW, _STEP = 0.85, 0.05  # cosine to the reference, and how much it falls at a time


class WindowPool(nn.Module):
    """Pool each window to one vector by attention; the query is the mean of the window's patches.

    Source: arXiv 2603.18004, token scorer: the same kind of attention as a ViT block. Normal init with std 0.02, zero
    biases.
    """

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim or hidden_size // num_heads
        inner = num_heads * self.head_dim
        self.q_proj = nn.Linear(hidden_size, inner)
        self.k_proj = nn.Linear(hidden_size, inner)
        self.v_proj = nn.Linear(hidden_size, inner)
        self.o_proj = nn.Linear(inner, hidden_size)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            nn.init.normal_(linear.weight, std=_PROJECTION_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, x_TND: Tensor, window_index: Tensor) -> Tensor:
        """Pool the windows of every frame, (T, N, D) features to (T, W, D); the table is int64 (W, P)."""
        filled = window_index >= 0
        x_TWPD = gather_windows(x_TND, window_index)
        mean = x_TWPD.sum(2) / filled.sum(1, keepdim=True).to(x_TND.dtype)
        # One query a window: projecting it by the keys' weights, and the mixed patches by the values', costs a P-th of
        # projecting every patch, and is the same sum in another order.
        heads = (self.num_heads, self.head_dim)
        q_TWHK = self.q_proj(mean).view(*mean.shape[:2], *heads)
        q_TWHD = torch.einsum("twhk,hkd->twhd", q_TWHK, self.k_proj.weight.view(*heads, -1))
        # equal for all keys, so it cancels out in the softmax; with it, the keys' bias has its gradient, 0
        offset = (q_TWHK * self.k_proj.bias.view(heads)).sum(-1, keepdim=True)
        logits = (q_TWHD @ x_TWPD.transpose(2, 3) + offset) * self.head_dim**-0.5
        weights = logits.masked_fill(~filled[:, None], float("-inf")).softmax(-1, dtype=torch.float32)
        mixed_TWHD = weights.to(x_TWPD.dtype) @ x_TWPD
        v_TWHK = torch.einsum("twhd,hkd->twhk", mixed_TWHD, self.v_proj.weight.view(*heads, -1))
        pooled: Tensor = self.o_proj(v_TWHK.flatten(-2) + self.v_proj.bias)
        return pooled


class ScoreMlp(nn.Module):
    """Three linear layers with SiLU between them, (…, in_size) -> (…, 1).

    Source: arXiv 2603.18004, token scorer. Truncated normal init with std sqrt(1 / fan_in), zero biases.
    """

    def __init__(self, in_size: int, mlp_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_size, mlp_size)
        self.fc2 = nn.Linear(mlp_size, mlp_size)
        self.fc3 = nn.Linear(mlp_size, 1)
        for linear in (self.fc1, self.fc2, self.fc3):
            nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in_size) to (…, 1) logits of the same dtype."""
        logits: Tensor = self.fc3(functional.silu(self.fc2(functional.silu(self.fc1(x)))))
        return logits


class TokenScorer(nn.Module):
    """The learned scorer: a pooled window's predecessor one frame before and itself, through an MLP, to a score.

    Args:
        hidden_size: ViT width D.
        num_heads: the ViT's number of heads.
        mlp_size: the ViT's MLP width.
        head_dim: the ViT's head dim; D / heads when not given.

    Source: arXiv 2603.18004, token scorer. The order [previous, current] is that of the published weights.
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_size: int, head_dim: int | None = None) -> None:
        super().__init__()
        self.pool = WindowPool(hidden_size, num_heads, head_dim)
        self.mlp = ScoreMlp(2 * hidden_size, mlp_size)

    def forward(self, x_TND: Tensor, window_index: Tensor, video_lengths: list[int]) -> Tensor:
        """Score every window of every frame.

        Args:
            x_TND: (T, N, D) output of ViT block `prune_layer`.
            window_index: int64 (W, P) window table on the same device.
            video_lengths: frames of each video; they add up to T. A first frame sees zeros as its predecessor.

        Returns:
            float32 (T, W) in (0, 1).

        Raises:
            ValueError: the lengths do not add up to T.
        """
        pooled = self.pool(x_TND, window_index)
        later = ~first_frames(video_lengths, x_TND.shape[0], x_TND.device)
        previous = torch.cat([torch.zeros_like(pooled[:1]), pooled[:-1]]) * later[:, None, None].to(pooled.dtype)
        logits: Tensor = self.mlp(torch.cat([previous, pooled], -1))
        return logits.squeeze(-1).float().sigmoid()


def random_scores(x_TND: Tensor, window_index: Tensor, video_lengths: list[int], *, seed: int) -> Tensor:
    """Score windows by seeded noise, float32 (T, W) in [0, 1); a seed means the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(x_TND), len(window_index), generator=generator).to(x_TND.device)


def reference_scores(x_TND: Tensor, window_index: Tensor, video_lengths: list[int], *, dropped: list[int]) -> Tensor:
    """Score windows by change since the frame in which their position last changed, without training.

    A window whose cosine to its position's reference is below 0.85 has changed, and becomes the new reference. The
    threshold falls by 0.05 until no more windows have changed than the budget keeps; the unchanged ones follow in the
    order of their change, so that selection meets the budget exactly.

    Args:
        x_TND: (T, N, D) features.
        window_index: int64 (W, P) window table.
        video_lengths: frames of each video; they add up to T.
        dropped: windows that each video drops.

    Returns:
        float32 (T, W) in [0, 2]: above 1 for changed windows, at most 1 for the others. No gradient.

    Source: arXiv 2603.18004, baselines (similarity to a reference frame).
    """
    parts = []
    for x, number in zip(torch.split(x_TND.detach(), video_lengths), dropped, strict=True):
        windows = gather_windows(x, window_index).flatten(2)
        num_kept, limit = len(x) * len(window_index) - number, _CHANGED_BELOW
        changed, change = _changes(windows, limit)
        while int(changed.sum()) > num_kept:  # ends at -1, where only the first frame is left, which is kept whole
            limit -= _STEP
            changed, change = _changes(windows, limit)
        parts.append(change / 2 + changed)
    return torch.cat(parts)


def _changes(windows_TWX: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Walk one video: (changed (T, W) bool, 1 - cosine to the reference (T, W) float32)."""
    change = torch.ones(windows_TWX.shape[:2], device=windows_TWX.device)
    changed = torch.ones_like(change, dtype=torch.bool)
    reference = functional.normalize(windows_TWX[0].float(), dim=1)
    for t in range(1, len(windows_TWX)):
        current = functional.normalize(windows_TWX[t].float(), dim=1)
        cosine = (current * reference).sum(1).clamp(-1, 1)
        changed[t], change[t] = cosine < threshold, 1 - cosine
        reference = torch.where(changed[t, :, None], current, reference)
    return changed, change
