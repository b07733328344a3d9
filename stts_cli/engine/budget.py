"""Test-time scaling: how many frames the savings of pruning pay for (arXiv 2603.18004, long video)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stts_cli.cost.estimate import QUESTION, SECONDS_APART, spread
from stts_cli.cost.savings import count
from stts_cli.errors import InputError
from stts_cli.settings import Arm, FixedLayout, HeldLayout, LayoutRule, Pruning

if TYPE_CHECKING:
    from stts_cli.families.base import Family

FRAME_SIZE = (720, 1280)  # height and width of the video that FLOPs are counted for, where they depend on it


def layout_rule(family: Family, arm: Arm) -> LayoutRule:
    """Return how an arm's videos are cut: as the family does, or with frames as large as `Arm.frames` would be."""
    rule = family.layout_rule
    if not arm.spend_savings or arm.spend_pixels == "total" or isinstance(rule, FixedLayout):
        return rule
    return HeldLayout(rule, arm.frames)


def spend(family: Family, pruning: Pruning, arm: Arm) -> int:
    """Return as many frames as cost, pruned, about what `Arm.frames` cost dense, in `Arm.spend_by`.

    By tokens that is frames / keep ratio; by FLOPs, of the encoder and the prefill, the largest number that costs no
    more.

    Raises:
        InputError: FLOPs are to say how many frames, and more frames cost no more.
    """
    by_tokens = round(arm.frames / pruning.keep_ratio)
    if arm.spend_by == "tokens" or pruning.scorer == "none":
        return by_tokens
    if arm.spend_pixels == "total" and not isinstance(family.layout_rule, FixedLayout):
        raise InputError(
            "--budget-by flops: cannot say how many frames with --budget-pixels total, where more frames cost no more; "
            "use frame, or tokens."
        )
    rule = layout_rule(family, arm)
    budget = _flops(family, rule, pruning.override(scorer="none", keep_ratio=1.0), arm.frames)
    low, high = arm.frames, max(2 * by_tokens, arm.frames + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _flops(family, rule, pruning, middle) <= budget else (low, middle)
    return low


def _flops(family: Family, rule: LayoutRule, pruning: Pruning, num_frames: int) -> int:
    """Count a short question about frames of which all but the first keep the same number of windows."""
    layout = rule(*FRAME_SIZE, num_frames)
    units, windows = layout.num_units(num_frames), layout.num_windows
    kept = spread(units, windows, pruning.num_dropped(units, windows))
    mask = torch.arange(windows)[None] < torch.tensor(kept)[:, None]
    times = [SECONDS_APART * index for index in range(num_frames)]
    prompt = family.build_prompt(times, QUESTION, mask, layout=layout)
    lengths = (prompt.dense_length, len(prompt.input_ids[0]))
    saved = count(family.shape(layout), kept, lengths, pruning.prune_layer, scorer=pruning.scorer)
    return saved.total[1]
