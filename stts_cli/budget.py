"""The budget: how many windows of a video are dropped, and which frames packing leaves alone. Arithmetic, no torch.

`pruning` selects and packs by it, `estimate` plans with the same numbers. Source: arXiv 2603.18004, token selection and
packing.
"""

from __future__ import annotations

import math
import struct

from stts_cli.errors import InputError


def check_keep_ratio(keep_ratio: float) -> None:
    """Refuse a keep ratio that means nothing.

    Args:
        keep_ratio: fraction of windows kept.

    Raises:
        InputError: it is not in (0, 1].
    """
    if not (isinstance(keep_ratio, int | float) and math.isfinite(keep_ratio) and 0.0 < keep_ratio <= 1.0):
        raise InputError(f"--keep-ratio {keep_ratio:g}: must be greater than 0 and at most 1.")


def check_prune_layer(prune_layer: int, num_blocks: int) -> None:
    """Refuse a prune layer that leaves no block to run on fewer windows.

    Args:
        prune_layer: 0-based ViT block after which windows are scored.
        num_blocks: ViT blocks that run, up to the deepest that the connector reads.

    Raises:
        InputError: it is not in [0, num_blocks - 3].
    """
    if not 0 <= prune_layer <= num_blocks - 3:
        raise InputError(
            f"--prune-layer {prune_layer}: must be 0 to {num_blocks - 3}; {num_blocks} ViT blocks run, the next one on "
            "all windows and at least one more on the kept ones."
        )


def num_asked(num_frames: int, num_windows: int, keep_ratio: float, prune_from_frame: int) -> int:
    """Count the windows that a keep ratio asks one video to drop.

    Args:
        num_frames: T of this video, >= 1.
        num_windows: W a frame.
        keep_ratio: fraction of windows kept, in (0, 1].
        prune_from_frame: frames that the budget leaves out, >= 0; a video of no more frames drops nothing.

    Returns:
        int(W * (1 - keep_ratio) * max(0, T - prune_from_frame)).

    Raises:
        InputError: keep_ratio is outside (0, 1].

    Source: arXiv 2603.18004, token selection. The published code multiplies in float32 and truncates.
    """
    check_keep_ratio(keep_ratio)
    return int(_float32(_float32(num_windows * (1.0 - keep_ratio)) * max(0, num_frames - prune_from_frame)))


def num_dropped(
    num_frames: int, num_windows: int, keep_ratio: float, prune_from_frame: int = 0, *, merges: bool = False
) -> int:
    """Count the windows that one video drops: as many as asked, but never one of the first frame.

    Args:
        num_frames: as for `num_asked`.
        num_windows: as for `num_asked`.
        keep_ratio: as for `num_asked`.
        prune_from_frame: as for `num_asked`.
        merges: windows of a frame are merged into each other, so that at least one of each frame stays.

    Returns:
        Windows to drop, 0 for a single frame.

    Raises:
        InputError: keep_ratio is outside (0, 1].
    """
    asked = num_asked(num_frames, num_windows, keep_ratio, prune_from_frame)
    return min(asked, (num_windows - merges) * (num_frames - 1))


def clamp_note(num_frames: int, num_windows: int, keep_ratio: float, prune_from_frame: int, *, merges: bool) -> str:
    """Say that a video keeps more than was asked; the arguments are those of `num_dropped`.

    Returns:
        A line for the user, empty where the budget is met.
    """
    asked = num_asked(num_frames, num_windows, keep_ratio, prune_from_frame)
    dropped = num_dropped(num_frames, num_windows, keep_ratio, prune_from_frame, merges=merges)
    if dropped == asked:
        return ""
    total = num_frames * num_windows
    frames = "1 frame" if num_frames == 1 else f"{num_frames} frames"
    stays = "the first frame always stays, and a window of every other" if merges else "the first frame always stays"
    return (
        f"keep ratio {keep_ratio:g} of {frames}: {stays}, so {total - dropped} of {total} windows were kept instead of "
        f"{total - asked}"
    )


def first_fit_descending(lengths: list[int], capacity: int) -> list[list[int]]:
    """Put items into as few bins as first-fit-descending finds.

    Args:
        lengths: size of each item, 0 to skip it.
        capacity: size of a bin.

    Returns:
        The items' positions, one list a bin; equal sizes keep their order.

    Raises:
        ValueError: an item is larger than a bin.

    Source: arXiv 2603.18004, packing.
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"a frame keeps {max(lengths)} patches, a bin holds {capacity}: bins must hold a whole frame")
    bins: list[list[int]] = []
    free: list[int] = []
    for item in sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i]):
        place = next((b for b, room in enumerate(free) if room >= lengths[item]), len(bins))
        if place == len(bins):
            bins.append([])
            free.append(capacity)
        bins[place].append(item)
        free[place] -= lengths[item]
    return bins


def lone_frames(lengths: list[int], capacity: int) -> list[int]:
    """Return the frames that first-fit-descending leaves alone in their bins; see `first_fit_descending`."""
    return [frames[0] for frames in first_fit_descending(lengths, capacity) if len(frames) == 1]


def _float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]
