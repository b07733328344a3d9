"""What runs are compared: `best=runs/best@0.5@32f`, `random@0.3`, `dense` or `0.3` becomes an `Arm`. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from stts_cli.config.presets import CHOICES, load_preset, preset_names
from stts_cli.errors import InputError, suggest
from stts_cli.settings import Arm, is_scorer


def parse_arms(first: Arm, compare: Iterable[str] | None = (), suite: Iterable[str] = ()) -> list[Arm]:
    """Read the arms of a comparison.

    Args:
        first: what the user asked for.
        compare: values of --compare, each one arm or several with commas; None for none.
        suite: the arms of a suite, one each; they go before the flag's.

    Returns:
        The first arm, then the others; one with the first one's model and frames that drops nothing is named "dense".

    Raises:
        InputError: a text that is no arm.
    """
    texts = [*suite, *(text for values in compare or () for text in values.split(","))]
    arms = [first, *(parse_arm(text, first) for text in texts)]
    alike = (first.model, first.frames)
    return [
        dataclasses.replace(arm, name="dense") if arm.is_dense and (arm.model, arm.frames) == alike else arm
        for arm in arms
    ]


def parse_arm(text: str, first: Arm) -> Arm:
    """Read one more arm of a comparison: the first one with that changed, or what a preset says.

    Args:
        text: "dense", a keep ratio, a scorer, a preset's name or file, or a checkpoint's folder or hub id; all but the
            first two may end in "@" and a keep ratio, and all in a number of frames, as in "random@0.3@32f". "NAME="
            before it gives it a name.
        first: the arm that it is compared with.

    Raises:
        InputError: it is none of these.
    """
    text = text.strip()
    name, given, rest = text.partition("=")
    if given and "/" not in name:
        if not name.strip() or not rest.strip():
            raise InputError(f"--compare {text}: must be NAME=ARM, such as best=runs/best@0.5.")
        return dataclasses.replace(parse_arm(rest, first), name=name.strip())
    what, ratio, frames = _parts(text)
    arm = dataclasses.replace(first, name=text, frames=first.frames if frames is None else frames)
    if ratio is not None and what in ("dense", "none"):
        raise InputError(f"--compare {text}: {what} keeps everything; must be {what}, or a scorer with @{ratio:g}.")
    if what == "dense":
        return dataclasses.replace(arm, keep_ratio=1.0, scorer="none")
    if (alone := _number(what)) is not None:
        name = f"keep {alone:g}" + (f", {frames} frames" if frames else "")
        return _with_ratio(dataclasses.replace(arm, name=name), alone)
    if what in CHOICES or is_scorer(what):
        # a first arm that keeps everything would make a scorer pointless: the checkpoint's own ratio then
        arm = dataclasses.replace(arm, scorer=what, keep_ratio=None if arm.keep_ratio == 1 else arm.keep_ratio)
    elif what.endswith((".yaml", ".yml")) or what in preset_names():
        arm = load_preset(what).override(frames=frames).arm(text, first.resize).override(seed=first.seed)
    elif what and (Path(what).expanduser().is_dir() or (what.count("/") == 1 and what[0] not in "./~")):
        arm = dataclasses.replace(arm, model=str(Path(what).expanduser()), revision=None)
    elif "/" in what:
        raise InputError(f"--compare {text}: there is no folder {what}; must be a checkpoint's folder.")
    else:
        known = ["dense", *CHOICES, *preset_names()]
        raise InputError(
            f"--compare {text}: must be dense, a keep ratio, a scorer, a preset or a checkpoint{suggest(what, known)}"
        )
    return arm if ratio is None else _with_ratio(arm, ratio)


def _parts(text: str) -> tuple[str, float | None, int | None]:
    """Part "random@0.3@32f" into what, keep ratio and frames; a folder's name may hold an @."""
    ratio, frames = None, None
    while not Path(text).is_dir():
        what, _, tail = text.rpartition("@")
        if what and tail.endswith("f") and tail[:-1].isdigit() and frames is None:
            text, frames = what, int(tail[:-1])
        elif what and (number := _number(tail)) is not None and ratio is None:
            text, ratio = what, number
        else:
            break
    return text, ratio, frames


def _with_ratio(arm: Arm, ratio: float) -> Arm:
    """Change the keep ratio; where nobody scores, a ratio below 1 lets the checkpoint's own scorer do it."""
    scorer = "auto" if arm.scorer == "none" and ratio < 1 else arm.scorer
    return dataclasses.replace(arm, keep_ratio=ratio, scorer=scorer)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
