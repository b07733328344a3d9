"""Show which windows were kept: the frames of a clip as a sheet of pictures, dropped windows darkened.

In: frames, their times and the keep mask. Out: a PNG, for a notebook or a file; beside the file a JSON file with the
kept windows' indices. The extra `plot` has to be installed.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stts_cli.errors import writing
from stts_cli.report import plots
from stts_cli.text import to_json

MAX_FRAMES = 48  # a sheet of more cannot be read; frames are then taken evenly
DIM = 0.22  # brightness of what was dropped


def kept_picture(
    frames: np.ndarray,
    timestamps_s: list[float],
    keep_mask: np.ndarray,
    window_index: np.ndarray,
    grid: tuple[int, int],
    title: str,
) -> bytes:
    """Draw a clip's frames, and below each the same with what was dropped darkened; return a PNG's bytes.

    frames is uint8 (T, H, W, 3), timestamps_s T seconds, keep_mask bool (T, W), window_index (W, P) patches of each
    window, -1 in empty slots, grid the patch rows and columns of a frame. EnvironmentFailure without matplotlib.
    """
    shown = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int))
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = plots.new_figure(1.6 * columns, 3.4 * rows + 0.6, dpi=100)
    figure.suptitle(title)
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    dark = darken(frames[shown], keep_mask[shown], window_regions(window_index, grid, frames.shape[1:3]))
    for place, k in enumerate(shown):
        above, below = axes[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        above.imshow(frames[k])
        above.set_title(f"{timestamps_s[k]:.1f} s", fontsize=8)
        below.imshow(dark[place])
        below.set_title(f"{int(keep_mask[k].sum())} of {keep_mask.shape[1]}", fontsize=8)
    return plots.render(figure)


def save_kept(path: str, picture: bytes, timestamps_s: list[float], keep_mask: np.ndarray) -> None:
    """Write a picture to a .png file, and the kept windows' indices beside it under the same name with .json.

    timestamps_s are T seconds, keep_mask is bool (T, W). EnvironmentFailure where a file cannot be written.
    """
    frames = [
        {"time_s": time, "kept": np.flatnonzero(mask).tolist()}
        for time, mask in zip(timestamps_s, keep_mask, strict=True)
    ]
    document = to_json({"windows_per_frame": keep_mask.shape[1], "frames": frames}) + "\n"
    target = Path(path).expanduser()
    for file, content in ((target, picture), (target.with_suffix(".json"), document.encode())):
        with writing(file):
            file.write_bytes(content)


def window_regions(window_index: np.ndarray, grid: tuple[int, int], frame_size: tuple[int, int]) -> np.ndarray:
    """Return for every pixel of a frame of `frame_size` (height, width) the number of its window, int (H, W)."""
    owner = np.zeros(grid[0] * grid[1], dtype=np.int64)
    for window, patches in enumerate(window_index):
        owner[patches[patches >= 0]] = window
    rows, columns = (np.arange(pixels) * patches // pixels for pixels, patches in zip(frame_size, grid, strict=True))
    return owner.reshape(grid)[rows[:, None], columns[None, :]]


def darken(frames: np.ndarray, keep_mask: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Darken what was dropped of uint8 (T, H, W, 3): keep_mask is (T, W), regions from `window_regions`."""
    return (frames * np.where(keep_mask[:, regions], 1.0, DIM)[..., None]).astype(np.uint8)
