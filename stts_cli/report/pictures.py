"""Show which windows were kept: the frames of a clip as a sheet of pictures, dropped windows darkened.

In: frames, their times and the keep mask. Out: a PNG file, and beside it a JSON file with the indices. The extra `plot`
has to be installed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import writing
from stts_cli.report import plots

MAX_FRAMES = 48  # a sheet of more cannot be read; frames are then taken evenly
DIM = 0.22  # brightness of what was dropped


def check_target(path: str) -> None:
    """Refuse what could not be drawn, before anything runs; see `plots.check_target`."""
    plots.check_target(path, "--save-kept")


def window_regions(window_index: np.ndarray, grid: tuple[int, int], frame_size: tuple[int, int]) -> np.ndarray:
    """Say for every pixel which window it belongs to.

    Args:
        window_index: (W, P) patches of each window, -1 in empty slots.
        grid: patch rows and columns of a frame.
        frame_size: height and width in pixels.

    Returns:
        int (H, W): a window's number.
    """
    owner = np.zeros(grid[0] * grid[1], dtype=np.int64)
    for window, patches in enumerate(window_index):
        owner[patches[patches >= 0]] = window
    rows = np.arange(frame_size[0]) * grid[0] // frame_size[0]
    columns = np.arange(frame_size[1]) * grid[1] // frame_size[1]
    return owner.reshape(grid)[rows[:, None], columns[None, :]]


def darken(frames: np.ndarray, keep_mask: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Darken what was dropped.

    Args:
        frames: uint8 (T, H, W, 3).
        keep_mask: bool (T, W), True = kept.
        regions: from `window_regions`.

    Returns:
        uint8 of the same shape.
    """
    light = np.where(keep_mask[:, regions], 1.0, DIM)[..., None]
    return (frames * light).astype(np.uint8)


def save_kept(
    path: str, frames: np.ndarray, timestamps_s: list[float], keep_mask: np.ndarray, regions: np.ndarray, title: str
) -> None:
    """Draw a clip's frames with what was dropped darkened, and write the kept windows' indices beside the picture.

    Args:
        path: the .png file; the indices go into the same name with .json.
        frames: uint8 (T, H, W, 3).
        timestamps_s: T times in seconds.
        keep_mask: bool (T, W), True = kept.
        regions: from `window_regions`.
        title: stands above.
    """
    target = Path(path).expanduser()
    shown = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int))
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    with plots.picture(target, size=(1.6 * columns, 3.4 * rows + 0.6), dpi=100) as figure:
        figure.suptitle(title)
        axes = figure.subplots(2 * rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        dark = darken(frames, keep_mask, regions)
        for place, k in enumerate(shown):
            above, below = axes[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
            above.imshow(frames[k])
            above.set_title(f"{timestamps_s[k]:.1f} s", fontsize=8)
            below.imshow(dark[k])
            below.set_title(f"{int(keep_mask[k].sum())} of {keep_mask.shape[1]}", fontsize=8)
    kept: list[dict[str, Any]] = [
        {"time_s": time, "kept": np.flatnonzero(mask).tolist()}
        for time, mask in zip(timestamps_s, keep_mask, strict=True)
    ]
    document = {"windows_per_frame": keep_mask.shape[1], "frames": kept}
    with writing(target.with_suffix(".json")):
        target.with_suffix(".json").write_text(json.dumps(document) + "\n", encoding="utf-8")
