"""Show which windows were kept: the frames of a clip as a sheet of pictures, dropped windows darkened.

In: frames, their times and the keep mask. Out: a PNG, for a notebook or a file, which needs the extra `plot`, or an mp4
file; beside a file a JSON file with the kept windows' indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stts_cli.errors import writing
from stts_cli.media.writer import write_video
from stts_cli.report import plots
from stts_cli.text import to_json

if TYPE_CHECKING:
    from stts_cli.engine.results import Video

MAX_FRAMES = 48  # a sheet of more cannot be read; frames are then taken evenly
DIM = 0.22  # brightness of what was dropped
SLOWEST_FPS = 1.0  # of a video
STRIP_INCHES = 1.8  # height of the strip of scores


@dataclass(frozen=True, eq=False)
class Kept:
    """The frames of a clip, and which of their windows stayed.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB.
        timestamps_s: T times in seconds.
        keep_mask: bool (T, W), True = kept.
        scores: float32 (T, W), or None where nothing was scored.
        owner: int (rows, columns), the window of each patch of a frame.
    """

    frames: np.ndarray
    timestamps_s: list[float]
    keep_mask: np.ndarray
    scores: np.ndarray | None
    owner: np.ndarray

    @classmethod
    def of(cls, video: Video) -> Kept:
        """Take it from an encoded video; frames that are one unit share its windows."""
        tokens, clip = video.tokens, video.clip
        layout = tokens.layout
        unit = np.arange(len(clip.frames)) // layout.frames_per_unit
        table = video.family.window_index(layout).cpu().numpy()
        scores = None if tokens.scores is None else tokens.scores.detach().float().cpu().numpy()[unit]
        mask = tokens.keep_mask.cpu().numpy()[unit]
        return cls(clip.frames, clip.timestamps_s, mask, scores, patch_owner(table, layout.grid))

    def small(self, most: int, longest: int) -> Kept:
        """Return at most so many of its frames, evenly chosen, their longer edge at most so many pixels."""
        from PIL import Image

        chosen = spread(len(self.frames), most)
        height, width = self.frames.shape[1:3]
        scale = min(1.0, longest / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        frames = np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in self.frames[chosen]])
        times = [self.timestamps_s[k] for k in chosen]
        scores = None if self.scores is None else self.scores[chosen]
        return Kept(frames, times, self.keep_mask[chosen], scores, self.owner)


def kept_picture(kept: Kept, title: str) -> bytes:
    """Draw a clip's frames, and below each the same with what was dropped darkened; return a PNG's bytes.

    EnvironmentFailure without matplotlib.
    """
    frames, keep_mask = kept.frames, kept.keep_mask
    shown = spread(len(frames), MAX_FRAMES)
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    tall = min(max(frames.shape[1] / frames.shape[2], 0.25), 2.0)
    inches = 2 * (1.6 * tall + 0.1) * rows + 0.6
    figure = plots.new_figure(1.6 * columns, inches + STRIP_INCHES * (kept.scores is not None), dpi=100)
    figure.suptitle(title)
    sheet = figure
    if kept.scores is not None:
        sheet, strip = figure.subfigures(2, 1, height_ratios=[inches, STRIP_INCHES])
        _draw_scores(strip, kept.timestamps_s, kept.scores)
    axes = sheet.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    dark = darken(frames[shown], keep_mask[shown], window_regions(kept.owner, frames.shape[1:3]))
    for place, k in enumerate(shown):
        above, below = axes[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        above.imshow(frames[k])
        above.set_title(f"{kept.timestamps_s[k]:.1f} s", fontsize=8)
        below.imshow(dark[place])
        below.set_title(f"{int(keep_mask[k].sum())} of {keep_mask.shape[1]}", fontsize=8)
    return plots.render(figure)


def _draw_scores(figure: Any, timestamps_s: list[float], scores: np.ndarray) -> None:
    """Draw a strip of scores (T, W): time to the right, a line a window.

    The first frame stays whatever its scores, so the colors are spread over the others'; a hundredth is cut at each
    end.
    """
    low, high = np.percentile(scores[1:] if len(scores) > 1 else scores, [1, 99])
    axes = figure.subplots()
    image = axes.imshow(scores.T, aspect="auto", interpolation="nearest", vmin=low, vmax=high)
    ticks = spread(len(timestamps_s), 8)
    axes.set_xticks(ticks, [f"{timestamps_s[k]:.1f} s" for k in ticks], fontsize=8)
    axes.set_ylabel("window", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    figure.colorbar(image, ax=axes).set_label("score", fontsize=8)


def spread(number: int, most: int) -> np.ndarray:
    """Choose at most so many of a number of frames, evenly, the first and the last among them; int (<= most,)."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(int))


def save_kept(path: str, picture: bytes, kept: Kept) -> None:
    """Write a picture to a .png file, and the kept windows' indices beside it under the same name with .json.

    EnvironmentFailure where a file cannot be written.
    """
    target = Path(path).expanduser()
    with writing(target):
        target.write_bytes(picture)
    _save_indices(target, kept)


def save_kept_video(path: str, kept: Kept) -> None:
    """Write the frames with what was dropped darkened to an .mp4 file, and the indices as `save_kept` does.

    It plays at the frames' own rate, but no slower than `SLOWEST_FPS`. EnvironmentFailure where a file cannot be
    written.
    """
    times, target = kept.timestamps_s, Path(path).expanduser()
    fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else SLOWEST_FPS
    regions = window_regions(kept.owner, kept.frames.shape[1:3])
    dark = (darken(kept.frames[k : k + 1], kept.keep_mask[k : k + 1], regions)[0] for k in range(len(times)))
    with writing(target):
        write_video(target, dark, Fraction(max(fps, SLOWEST_FPS)).limit_denominator(1000))
    _save_indices(target, kept)


def _save_indices(target: Path, kept: Kept) -> None:
    frames = [
        {"time_s": time, "kept": np.flatnonzero(mask).tolist()}
        for time, mask in zip(kept.timestamps_s, kept.keep_mask, strict=True)
    ]
    file = target.with_suffix(".json")
    with writing(file):
        file.write_text(
            to_json({"windows_per_frame": kept.keep_mask.shape[1], "frames": frames}) + "\n", encoding="utf-8"
        )


def patch_owner(window_index: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the window of each patch, int (rows, columns); window_index is (W, P), -1 in empty slots."""
    owner = np.zeros(grid[0] * grid[1], dtype=np.int64)
    for window, patches in enumerate(window_index):
        owner[patches[patches >= 0]] = window
    return owner.reshape(grid)


def window_regions(owner: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Return for every pixel of a frame of `frame_size` (height, width) the number of its window, int (H, W)."""
    rows, columns = (
        np.arange(pixels) * patches // pixels for pixels, patches in zip(frame_size, owner.shape, strict=True)
    )
    regions: np.ndarray = owner[rows[:, None], columns[None, :]]
    return regions


def darken(frames: np.ndarray, keep_mask: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Darken what was dropped of uint8 (T, H, W, 3): keep_mask is (T, W), regions from `window_regions`."""
    return (frames * np.where(keep_mask[:, regions], 1.0, DIM)[..., None]).astype(np.uint8)
