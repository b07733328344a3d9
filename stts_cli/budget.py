"""The budget: how many windows of a video are dropped. Arithmetic only, no torch.

`pruning` selects that many, `estimate` plans with the same number. Source: arXiv 2603.18004, token selection.
"""

from __future__ import annotations

import math
import struct


def check_keep_ratio(keep_ratio: float) -> None:
    """Refuse a keep ratio that means nothing.

    Args:
        keep_ratio: fraction of windows kept.

    Raises:
        ValueError: it is not in (0, 1].
    """
    if not (isinstance(keep_ratio, int | float) and math.isfinite(keep_ratio) and 0.0 < keep_ratio <= 1.0):
        raise ValueError(f"--keep-ratio {keep_ratio:g}: must be greater than 0 and at most 1.")


def num_dropped(num_frames: int, num_windows: int, keep_ratio: float, prune_from_frame: int = 0) -> int:
    """Count the windows that one video drops.

    Args:
        num_frames: T of this video, >= 1.
        num_windows: W a frame.
        keep_ratio: fraction of windows kept, in (0, 1].
        prune_from_frame: frames that the budget leaves out, >= 0; a video of no more frames drops nothing.

    Returns:
        Windows to drop; never more than the frames after the first hold, which always stays.

    Raises:
        ValueError: keep_ratio is outside (0, 1].

    Source: arXiv 2603.18004, token selection. The published code multiplies in float32 and truncates.
    """
    check_keep_ratio(keep_ratio)
    asked = int(_float32(_float32(num_windows * (1.0 - keep_ratio)) * max(0, num_frames - prune_from_frame)))
    return min(asked, num_windows * (num_frames - 1))


def _float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]
