"""From timed passes to figures: medians and their spread, speed-ups beside what the FLOPs promise, the break-even."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from stts_cli.cost import estimate, savings
from stts_cli.cost.estimate import Plan
from stts_cli.cost.savings import ModelShape
from stts_cli.profiling.passes import STAGES, SUMS, TRAINING_STAGES, TRAINING_SUMS, Pass
from stts_cli.settings import PruneLayer

HEADLINE = {False: "vit_to_prefill", True: "step"}  # the span that speed-ups are about: of an answer, of training
# spans whose time the FLOPs account for; of a step all but the optimizer and the cutting of frames into patches
_WITH_IDEAL = ("vit_to_prefill", "forward_backward", "step", "step_cpu")


def point(
    shape: ModelShape,
    plan: Plan,
    dense: Sequence[Pass],
    pruned: Sequence[Pass],
    *,
    prune_layer: PruneLayer,
    held: Sequence[dict[str, int] | None],
    train: bool = False,
) -> dict[str, Any]:
    """Put both arms of a frame count and keep ratio side by side: one entry of the document's "points".

    Passes are timed ones, as many of either arm and in the same turns; `prune_layer` is the 0-based ViT block after
    which windows were scored; `held` is what `memory.peak_of_process` said of (dense, pruned), but passes that know
    their own peak win. Tokens and FLOPs are those of the windows that were really kept.
    """
    last = pruned[-1]
    common: dict[str, Any] = {"scorer": last.scorer, "packed_patches": last.packed_patches}
    run = (shape, last.kept_per_frame, last.prompt_tokens, prune_layer)
    if train:
        saved = savings.count_training(*run, answer_tokens=last.answer_tokens, **common)
    else:
        saved = savings.count(*run, **common)
    counted = estimate.counts(saved)
    arms = {"dense": dense, "pruned": pruned}
    seconds = {
        stage: {name: spread([p.seconds[stage] for p in passes]) for name, passes in arms.items()}
        for stage in (*STAGES, *TRAINING_STAGES, *SUMS, "decode_per_token", *TRAINING_SUMS, "step_cpu")
        if stage in last.seconds
    }
    if dense[0].peak_bytes is not None:
        held = [{"peak": max(p.peak_bytes or 0 for p in passes)} for passes in (dense, pruned)]
    spans = [name for name in (*SUMS, *TRAINING_SUMS, "step_cpu") if name in seconds]
    vit = sum(seconds[stage]["pruned"]["median"] for stage in ("vit_dense", "score_select_pack", "vit_packed"))
    return {
        "num_frames": plan.num_frames,
        "keep_ratio": plan.keep_ratio,
        "scorer": last.scorer,
        "kernel": last.kernel,
        "kernel_reason": last.kernel_reason,
        "kept_per_frame": last.kept_per_frame,
        **counted,
        "headline": HEADLINE[train],
        "seconds": seconds,
        "speedup": {name: _speedup(dense, pruned, name, counted["ideal_speedup"]) for name in spans},
        "score_select_pack_share_of_vit": seconds["score_select_pack"]["pruned"]["median"] / vit,
        "peak_bytes": {name: row and row["peak"] for name, row in zip(arms, held, strict=True)},
        "baseline_bytes": next((row["baseline"] for row in held if row and "baseline" in row), None),
        "memory_estimate_bytes": plan.memory,
    }


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """Return median, lowest, highest and all of some samples, by those names; at least one sample."""
    median = statistics.median(samples)
    return {"median": median, "low": min(samples), "high": max(samples), "samples": list(samples)}


def _speedup(dense: Sequence[Pass], pruned: Sequence[Pass], name: str, ideal: float) -> dict[str, float | None]:
    """Dense over pruned: the ratio of the medians, and the lowest and highest of the turns."""
    slow, fast = ([p.seconds[name] for p in passes] for passes in (dense, pruned))
    turns = [a / b for a, b in zip(slow, fast, strict=True)]
    achieved = statistics.median(slow) / statistics.median(fast)
    whole = name in _WITH_IDEAL
    return {
        "achieved": achieved,
        "low": min(turns),
        "high": max(turns),
        "ideal": ideal if whole else None,
        "achieved_of_ideal": achieved / ideal if whole else None,
    }


def break_even(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Find from how many frames on pruning takes less time than it costs, for each keep ratio and scorer.

    "frames" is interpolated between the last count without a gain and the next; the lowest count where all gain, with
    "is_bound" True, as the true number may be lower; None where the largest has no gain. Those measured at one count
    are left out.
    """
    found = []
    for keep_ratio, scorer in dict.fromkeys((p["keep_ratio"], p["scorer"]) for p in points):
        rows = [p for p in points if (p["keep_ratio"], p["scorer"]) == (keep_ratio, scorer)]
        rows.sort(key=lambda p: p["num_frames"])
        if len(rows) < 2:
            continue
        gains = [
            (p["num_frames"], row["dense"]["median"] - row["pruned"]["median"])
            for p, row in ((p, p["seconds"][p["headline"]]) for p in rows)
        ]
        losing = [i for i, (_, gain) in enumerate(gains) if gain <= 0]
        frames: float | None
        if not losing:
            frames = gains[0][0]
        elif losing[-1] == len(gains) - 1:
            frames = None
        else:
            (left, loss), (right, gain) = gains[losing[-1]], gains[losing[-1] + 1]
            frames = left + (right - left) * -loss / (gain - loss)
        found.append({"keep_ratio": keep_ratio, "scorer": scorer, "frames": frames, "is_bound": not losing})
    return found
