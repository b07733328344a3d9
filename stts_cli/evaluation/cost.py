"""What a suite will cost, before a model is loaded: FLOPs counted from configs, hours at an assumed rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stts_cli.config.shapes import Architecture
from stts_cli.cost import estimate
from stts_cli.cost.savings import Savings
from stts_cli.evaluation.gather import Questions
from stts_cli.families.random_model import read_architecture
from stts_cli.settings import Arm

ASSUMED = {True: 200e12, False: 50e9}  # FLOPs a second: a large GPU in half precision; two CPU cores in float32
QUESTION_TOKENS = 60  # of a question with its options; subtitles are not counted


def estimate_cost(
    gathered: Sequence[Questions], arms: Sequence[Arm], *, on_gpu: bool, max_new_tokens: int | None = None
) -> dict[str, Any]:
    """Count what every arm will cost at most, every video having as many frames as the arm takes.

    A video costs its encoding and its prompt once; a question costs its own tokens and those of its answer
    (`max_new_tokens`, None for its benchmark's own), each as much as a decoding step. A checkpoint of
    no family is refused.

    Returns:
        "videos", "questions", "flops" by arm, "assumed_flops_per_s", and "hours" of all arms at that rate.
    """
    videos = sum(len({item.source for item in each.items}) for each in gathered)
    tokens = sum(
        len(each.items) * (QUESTION_TOKENS + (max_new_tokens or each.benchmark.max_new_tokens)) for each in gathered
    )
    architectures = {key: read_architecture(*key) for key in {(arm.model, arm.revision) for arm in arms}}
    flops = {}
    for arm in arms:
        saved = _count_video(architectures[arm.model, arm.revision], arm)
        assert saved.decode_per_token is not None
        flops[arm.name] = videos * saved.total[1] + tokens * saved.decode_per_token[1]
    rate = ASSUMED[on_gpu]
    return {
        "videos": videos,
        "questions": sum(len(each.items) for each in gathered),
        "flops": flops,
        "assumed_flops_per_s": rate,
        "hours": sum(flops.values()) / rate / 3600,
    }


def _count_video(architecture: Architecture, arm: Arm) -> Savings:
    scorer = arm.scorer if arm.scorer == "none" else estimate.resolve_scorer(architecture, arm.scorer)[0]
    ratio = 1.0 if scorer == "none" else arm.keep_ratio or architecture.keep_ratio
    frames, held = round(arm.frames / ratio) if arm.spend_savings else arm.frames, arm.spend_pixels == "frame"
    architecture = architecture.at(arm.frames if held else frames)
    windows = estimate.kept_windows(architecture, frames, ratio, merges=scorer == "tome")
    layer = architecture.prune_layer if arm.prune_layer is None else arm.prune_layer
    return estimate.count(architecture, windows, layer, scorer)


def cost_line(cost: dict[str, Any]) -> str:
    """Return an estimate in one line."""
    hours = f"{cost['hours']:.1f} h" if cost["hours"] > 0.1 else f"{3600 * cost['hours']:.2g} s"
    arms = ", ".join(f"{name} {flops:.2g}" for name, flops in cost["flops"].items())
    return (
        f"about {cost['videos']:,} videos and {cost['questions']:,} questions; FLOPs at most: {arms}; "
        f"{hours} in all if {cost['assumed_flops_per_s']:.0e} a second are reached, reading not counted"
    )
