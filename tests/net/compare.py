"""Compare two records of the net: every value bit for bit, or losses, scores and masks within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

LOSSES = {"loss", "lm_loss", "temporal_loss", "grad_norm"}
SCORES = {"scores", "log_likelihood", "probability"}
HASHES = {"sha256"}  # of tensors: equal on one machine only


def differences(old: Any, new: Any, losses: float = 0.0, where: tuple[str, ...] = ()) -> Iterator[str]:
    """Compare two records of one machine.

    Args:
        old: JSON data.
        new: the same of another commit.
        losses: how far losses and norms of gradients may lie apart, relative to the larger; 0 compares bits.
        where: keys that lead here.

    Yields:
        A line for each difference: its place, both values, and how far apart two numbers are.
    """
    if losses and where and where[-1] in HASHES and where[:1] in (("finetune",), ("reads training",)):
        return  # weights of a training whose losses may differ
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (*old, *(key for key in new if key not in old)):
            if key in old and key in new:
                yield from differences(old[key], new[key], losses, (*where, key))
            else:
                yield f"{' / '.join((*where, key))}: only in the {'old' if key in old else 'new'}"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, losses, (*where, str(index)))
    elif old != new or type(old) is not type(new):
        if where[-1] in LOSSES and isinstance(new, float) and math.isclose(old, new, rel_tol=losses):
            return
        numbers = all(isinstance(value, (int, float)) for value in (old, new))
        size = f", {abs(new - old):.3g} apart" if numbers else ""
        yield f"{' / '.join(where)}: {old!r} is now {new!r}{size}"


def departures(recorded: Any, found: Any, tolerance: float = 1e-4, where: tuple[str, ...] = ()) -> Iterator[str]:
    """Compare what was found on any machine with the committed record; what is only in `found` is new and fine.

    Args:
        recorded: JSON data.
        found: the same of the working tree.
        tolerance: of scores and losses, and how near the cut a window lies that may fall either way.
        where: keys that lead here.

    Yields:
        A line for each difference.
    """
    if where and where[-1] in HASHES:
        return
    if isinstance(recorded, dict) and isinstance(found, dict):
        for key in recorded:
            if key not in found:
                yield f"{' / '.join((*where, key))}: gone"
            elif key == "kept" and recorded.get("scores"):
                yield from _windows(recorded, found, tolerance, where)
            else:
                yield from departures(recorded[key], found[key], tolerance, (*where, key))
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for index, (one, other) in enumerate(zip(recorded, found, strict=True)):
            yield from departures(one, other, tolerance, (*where, str(index)))
    elif isinstance(recorded, float) and isinstance(found, float) and (LOSSES | SCORES) & set(where):
        if not math.isclose(recorded, found, rel_tol=tolerance, abs_tol=tolerance / 10):
            yield f"{' / '.join(where)}: {recorded!r} is now {found!r}, {abs(found - recorded):.3g} apart"
    elif recorded != found:
        yield f"{' / '.join(where)}: {recorded!r} is now {found!r}"


def _windows(recorded: Any, found: Any, tolerance: float, where: tuple[str, ...]) -> Iterator[str]:
    """Name the windows that changed sides and do not lie at the cut, the highest score that is dropped."""
    scores = [score for row in recorded["scores"] for score in row]
    old, new = "".join(recorded["kept"]), "".join(found["kept"])
    if len(old) != len(new):
        yield f"{' / '.join(where)} / kept: {len(old)} windows are now {len(new)}"
        return
    cut = max((score for score, mark in zip(scores, old, strict=True) if mark == "0"), default=-math.inf)
    for index, (score, before, after) in enumerate(zip(scores, old, new, strict=True)):
        off = abs(score - cut)
        if before != after and off > tolerance:
            yield f"{' / '.join(where)} / kept / window {index}: {before} is now {after}, {off:.3g} off the cut"
