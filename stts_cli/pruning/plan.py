"""The plan: which windows of one or more videos stay, made once from the features after block `prune_layer`.

In: features (T, N, D) of every patch. Out: a `Plan`: what goes on, what the packed blocks still see, and what happens
in between (the soft bias of the learned scorer, or ToMe's merging). No token is moved here. Source: arXiv 2603.18004.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.losses import temporal_target
from stts_cli.pruning.own_scorer import load_scorer
from stts_cli.pruning.scorer import random_scores, reference_scores
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.tome import merge_windows
from stts_cli.pruning.windows import patch_window
from stts_cli.settings import Layout, Pruning, lone_frames

# features (T, N, D), window table (W, P) and frames of each video -> scores (T, W), high = keep
Scorer = Callable[[Tensor, Tensor, list[int]], Tensor]


@dataclass(frozen=True)
class Plan:
    """What stays of T frames.

    Attributes:
        keep_mask: bool (T, W), True = kept: becomes a visual token.
        kept_patches: bool (T, N), the patches of kept windows.
        present_patches: bool (T, N), what the packed blocks run on: the kept patches, and all of a refilled frame.
        scores: float32 (T, W), with gradient for the learned scorer; None where nothing was scored.
        bias: float32 (T, N) on the attention keys of block `prune_layer` + 1, or None.
        merge: maps (T', N, D) of a slice of the frames to the same with merged windows as their means; or None.
    """

    keep_mask: Tensor
    kept_patches: Tensor
    present_patches: Tensor
    scores: Tensor | None = None
    bias: Tensor | None = None
    merge: Callable[[Tensor, slice], Tensor] | None = None


def make_plan(
    hidden_TND: Tensor,
    pruning: Pruning,
    layout: Layout,
    window_index: Tensor,
    video_lengths: list[int],
    learned: nn.Module | None,
) -> Plan:
    """Score and select, or merge, by features (T, N, D) after block `prune_layer`; the rest as in `prune_and_encode`.

    Raises:
        ValueError: the learned scorer is asked for and not there.
        InputError: a scorer of the user's own that cannot be used.
    """
    dropped = [pruning.num_dropped(length, layout.num_windows) for length in video_lengths]
    owner = patch_window(window_index, layout.num_patches)
    if pruning.merges:
        keep_TW, merge = merge_windows(hidden_TND, window_index, dropped, video_lengths)
        keep_TN = keep_TW.index_select(1, owner)
        return Plan(keep_TW, keep_TN, keep_TN, merge=merge)
    scores = choose_scorer(pruning, layout, dropped, learned)(hidden_TND, window_index, video_lengths)
    keep_TW = select_windows(scores, dropped, video_lengths)
    keep_TN = present_TN = keep_TW.index_select(1, owner)
    if pruning.refill_lone_frames:
        present_TN = keep_TN.clone()
        present_TN[lone_frames(keep_TN.sum(1).tolist(), layout.num_patches)] = True
    bias = None
    if pruning.scorer == "learned" and pruning.bias_rescale != "off":
        prunes = torch.tensor(dropped).repeat_interleave(torch.tensor(video_lengths)).gt(0).to(scores.device)
        rescale, floor = pruning.bias_rescale, pruning.bias_floor
        bias = log_score_bias(scores, window_index, layout, video_lengths, rescale, floor) * prunes[:, None]
    return Plan(keep_TW, keep_TN, present_TN, scores, bias)


def choose_scorer(pruning: Pruning, layout: Layout, dropped: list[int], learned: nn.Module | None) -> Scorer:
    """Return the scorer that `pruning` names; `dropped` is how many windows each video drops."""
    scorers: dict[str, Scorer | None] = {
        "learned": learned,
        "temporal": temporal_target,
        "reference": partial(reference_scores, dropped=dropped),
        "random": partial(random_scores, seed=pruning.seed),
    }
    scorer = scorers[pruning.scorer] if pruning.scorer in scorers else load_scorer(pruning.scorer, layout)
    if scorer is None:
        raise ValueError("there is no learned scorer")
    return scorer
