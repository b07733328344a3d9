"""Choose which frames of a video to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.source import ReadRequest

TIE_S = 1e-6  # decoders give the same time with other last digits; two frames nearly as near are as near


def sample_indices(timestamps_s: np.ndarray | list[float], num_frames: int, max_fps: float) -> list[int]:
    """Choose which frames of a video to look at: uniform, the last frame included.

    A video that fits the budget at `max_fps` is sampled every 1 / max_fps seconds, plus its last frame; a longer one
    at `num_frames` times spread evenly from the first frame to the last. For each time the nearest frame is taken, the
    later of two that are as near.

    Args:
        timestamps_s: times of all the frames in seconds, rising; S of them.
        num_frames: the most frames to choose, >= 1.
        max_fps: the most frames a second, > 0.

    Returns:
        At most min(num_frames, S) distinct indices into `timestamps_s`, rising. With num_frames = 1 the first frame.

    Raises:
        InputError: a budget out of range.
    """
    if num_frames < 1:
        raise InputError(f"--frames {num_frames}: must be at least 1.")
    if not 0 < max_fps < np.inf:
        raise InputError(f"--max-fps {max_fps:g}: must be greater than 0, and finite.")
    times = np.asarray(timestamps_s, dtype=np.float64)
    first, last = times[0], times[-1]
    if last - first > (num_frames - 1) / max_fps:
        wanted = np.linspace(first, last, num_frames)
    else:
        wanted = np.append(np.arange(first, last, 1.0 / max_fps), last)
    return np.unique(_nearest(times, wanted)).tolist()


def choose_frames(times: np.ndarray, request: ReadRequest) -> list[int]:
    """Return the indices of the frames to read among those at `times` seconds, inside the part asked for.

    Raises:
        InputError: there is none.
    """
    source = request.source
    start_s, end_s = source.start_s or 0.0, np.inf if source.end_s is None else source.end_s
    inside = np.flatnonzero((times >= start_s) & (times <= end_s))
    if not len(inside):
        part = f"behind {start_s:g} s" if source.end_s is None else f"between {start_s:g} and {end_s:g} s"
        raise InputError(f"{source.path}: has no frame {part}; its last is at {times[-1]:.1f} s.")
    if source.at_s is not None:
        return _at(times, source.at_s, str(source.path))
    return [int(inside[i]) for i in sample_indices(times[inside], request.num_frames, request.max_fps)]


def _at(times: np.ndarray, wanted: Sequence[float], name: str) -> list[int]:
    """Return the index of the frame on screen at each of the times wanted."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    for time in wanted:
        if time > times[-1] + step + TIE_S:
            raise InputError(f"--at {time:g}: is behind the end of {name}; its last frame is at {times[-1]:.1f} s.")
    shown = np.searchsorted(times, np.asarray(wanted) + TIE_S, side="right") - 1
    return np.unique(np.maximum(shown, 0)).tolist()


def _nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)  # the last step may be rounded beyond the end
    before = np.maximum(after - 1, 0)
    return np.where(wanted - times[before] < times[after] - wanted - TIE_S, before, after)
