"""The frames that a model looked at, once more as the file has them: for people, who see a square video as a fault."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from stts_cli.media.clip import Clip
from stts_cli.media.reader import read_ahead
from stts_cli.media.resize import DECODER
from stts_cli.media.source import ReadRequest
from stts_cli.settings import Layout


@dataclass(frozen=True)
class Within:
    """The rule of frames that keep their aspect ratio, their longer edge at most so many pixels."""

    longest: int

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        """Return a layout of that size, uncut."""
        scale = min(1.0, self.longest / max(height, width))
        return Layout((max(1, round(height * scale)), max(1, round(width * scale))), (1, 1), (1, 1))


def in_own_shape(request: ReadRequest, longest: int) -> ReadRequest:
    """Return what reads the same frames in their own aspect ratio, their longer edge at most so many pixels."""
    return dataclasses.replace(request, size=Within(longest), resample=DECODER)


def frames_to_show(clip: Clip, again: Clip | None) -> np.ndarray:
    """Return the frames of a clip that was read once more, uint8 (T, H, W, 3); where that failed the clip's own."""
    return clip.frames if again is None or again.timestamps_s != clip.timestamps_s else again.frames


def read_original(clip: Clip, request: ReadRequest, longest: int) -> np.ndarray:
    """Read a clip's frames once more.

    Args:
        clip: as a model saw it.
        request: that it was read by.
        longest: pixels of the longer edge, at most.

    Returns:
        As of `frames_to_show`.
    """
    (again,) = read_ahead([in_own_shape(request, longest)], workers=1, timeout_s=math.inf)
    return frames_to_show(clip, again.clip)
