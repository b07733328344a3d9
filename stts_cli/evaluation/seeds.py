"""What is drawn at random under several seeds: an arm a seed, and their mean and standard deviation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from stts_cli.errors import InputError
from stts_cli.settings import GREEDY, Answering, Arm


def expand_seeds(arms: Sequence[Arm], num_seeds: int | None, answering: Answering = GREEDY) -> list[Arm]:
    """Replace every arm that draws at random by one a seed, from 0 to `num_seeds` - 1; None leaves them alone.

    InputError for no seed at all, or no arm that draws at random.
    """
    if num_seeds is None:
        return list(arms)
    if num_seeds < 1:
        raise InputError(f"--seeds {num_seeds}: must be at least 1.")
    if not any(_is_random(arm, answering) for arm in arms):
        raise InputError(f"--seeds {num_seeds}: no arm draws at random; add --compare random or a --temperature.")
    expanded: list[Arm] = []
    for arm in arms:
        seeds = range(num_seeds) if _is_random(arm, answering) else ()
        expanded += [dataclasses.replace(arm, name=f"{arm.name}{_suffix(k)}", seed=k) for k in seeds] or [arm]
    return expanded


def summarize_seeds(arms: Sequence[Arm], accuracies: Mapping[str, float | None]) -> dict[str, Any]:
    """Sum up the arms of `expand_seeds`; accuracies are in [0, 1], None where nothing was scored.

    By the name that an arm had before: "arms", the names of its seeds' arms; "accuracies", one a seed; "mean"; and
    "std", a sample's (over N - 1). None where they are not known; with one seed "std" is not.
    """
    names: dict[str, list[str]] = {}
    for arm in arms:
        if arm.seed is not None:
            names.setdefault(arm.name.removesuffix(_suffix(arm.seed)), []).append(arm.name)
    found: dict[str, Any] = {}
    for name, own in names.items():
        shares = [accuracies[each] for each in own]
        known = [share for share in shares if share is not None]
        whole = len(known) == len(shares)
        found[name] = {
            "arms": own,
            "accuracies": shares,
            "mean": fmean(known) if whole else None,
            "std": stdev(known) if whole and len(known) > 1 else None,
        }
    return found


def _is_random(arm: Arm, answering: Answering) -> bool:
    return answering.temperature > 0 or (arm.scorer == "random" and not arm.is_dense)


def _suffix(seed: int) -> str:
    return f", seed {seed}"
