"""The sampled frames of one video, with their times."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stts_cli.errors import InputError


@dataclass(frozen=True)
class Clip:
    """The sampled frames of one video.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB.
        timestamps_s: T times in seconds from the start of the video, rising.
        duration_s: length of the video in seconds, the last frame's own time on screen included.
        source_fps: average frames per second of the file.
        num_source_frames: frames in the file.
        backend: "pyav", "decord", "pillow" for pictures, or "memory" for frames that came from no file.
        notes: what was assumed or done otherwise in reading.
        damage: what is missing or broken of the file.
        part_s: length in seconds of the part that was asked for; None for the whole video.
    """

    frames: np.ndarray
    timestamps_s: list[float]
    duration_s: float
    source_fps: float
    num_source_frames: int
    backend: str
    notes: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    part_s: float | None = None

    @property
    def length_s(self) -> float:
        """Length in seconds of what was asked for: a part, or the whole video."""
        return self.duration_s if self.part_s is None else self.part_s

    @classmethod
    def from_frames(cls, frames: np.ndarray, timestamps_s: Sequence[float]) -> Clip:
        """Take frames that are in memory already.

        Args:
            frames: uint8 (T, H, W, 3), RGB.
            timestamps_s: T times in seconds, rising.

        Returns:
            The clip; its last frame is shown as long as the others on average.

        Raises:
            InputError: frames of another kind, or times that are not T rising numbers.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise InputError(f"frames in memory: are {frames.dtype} {frames.shape}; must be uint8 (T, H, W, 3).")
        try:
            times = np.asarray(timestamps_s, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise InputError(f"times: are no numbers ({error}); must be a second for each frame.") from error
        steps = np.diff(times)
        if len(times) != len(frames) or not np.isfinite(times).all() or (steps <= 0).any() or times[0] < 0:
            raise InputError(f"times: are {len(times)} for {len(frames)} frames; must be one each, at least 0, rising.")
        step = float(steps.mean()) if len(steps) else 0.0
        frames = np.require(frames, requirements=["C", "W"])  # as torch wants it: a flipped or read-only view is copied
        fps = 1 / step if step else 0.0
        return cls(frames, times.tolist(), float(times[-1]) + step, fps, len(frames), "memory")

    def first(self, num_frames: int) -> Clip:
        """Return the same clip with its first frames alone."""
        return dataclasses.replace(self, frames=self.frames[:num_frames], timestamps_s=self.timestamps_s[:num_frames])
