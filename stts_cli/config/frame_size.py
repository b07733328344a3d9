"""The size of a video's frames where it follows the video: whole windows, and between two numbers of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stts_cli.errors import InputError
from stts_cli.settings import Layout

_MOST_ASPECT = 200


def check_aspect(height: int, width: int) -> None:
    """Refuse frames that no rule of this kind takes.

    Raises:
        InputError: frames more than 200 times as long as wide.
    """
    if max(height, width) > _MOST_ASPECT * min(height, width):
        raise InputError(f"frames of {width}x{height} px: must be at most {_MOST_ASPECT} times as long as wide.")


def fit_frame(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Return the height and width that a frame gets, multiples of `factor`, the shape kept as closely as they let.

    Args:
        height: the frame's, in pixels.
        width: the frame's, in pixels.
        factor: side of a window in pixels.
        least: pixels of a frame.
        most: pixels of a frame; counts where it is less than `least`.

    Raises:
        InputError: frames more than 200 times as long as wide.

    Source: transformers' smart_resize of Qwen2-VL and VideoLLaMA3.
    """
    check_aspect(height, width)
    rows, cols = round(height / factor), round(width / factor)
    if rows * cols * factor**2 > most:
        shrink = math.sqrt(height * width / most)
        rows, cols = (max(1, math.floor(edge / shrink / factor)) for edge in (height, width))
    elif rows * cols * factor**2 < least:
        grow = math.sqrt(least / (height * width))
        rows, cols = (math.ceil(edge * grow / factor) for edge in (height, width))
    return rows * factor, cols * factor


@dataclass(frozen=True)
class PixelShare:
    """The rule that allows each frame its share of so many pixels.

    Source: transformers' VideoLlama3VideoProcessor.
    """

    patch: int  # side of a patch in pixels
    merge: int  # side of a window in patches
    least: int  # pixels of a frame
    most: int  # pixels of all frames together

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        """Return the layout of a video of such frames; InputError where they are too long, see `check_aspect`."""
        size = fit_frame(height, width, self.patch * self.merge, self.least, self.most // num_frames)
        return Layout(size, (size[0] // self.patch, size[1] // self.patch), (self.merge, self.merge))


@dataclass(frozen=True)
class WindowBudget:
    """The rule that makes each frame as large as so many windows let it be, whatever its own size.

    A frame that may have come out of the rule is left as it is. Source: transformers' Gemma4VideoProcessor.
    """

    patch: int  # side of a patch in pixels
    pool: int  # side of a window in patches
    most: int  # windows of a frame

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        """Return the layout of a video of such frames."""
        side = self.patch * self.pool
        rows, cols = height // side, width // side
        if (height, width) != (rows * side, cols * side) or not rows * cols <= self.most < (rows + 1) * (cols + 1):
            scale = math.sqrt(self.most * side**2 / (height * width))
            rows, cols = (math.floor(edge * scale / side) for edge in (height, width))
            if rows == 0:
                rows, cols = 1, min(width // height, self.most)
            elif cols == 0:
                rows, cols = min(height // width, self.most), 1
        grid = (rows * self.pool, cols * self.pool)
        return Layout((rows * side, cols * side), grid, (self.pool, self.pool))
