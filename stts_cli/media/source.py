"""Where the frames of a video come from, and which of them are wanted. Standard library only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import NamedTuple

from stts_cli.errors import InputError
from stts_cli.settings import LayoutRule


@dataclass(frozen=True)
class Source:
    """Where the frames come from.

    Attributes:
        path: a video file, a picture, or a folder of pictures that are its frames.
        start_s: leave out what comes before; times shown to the model then count from here.
        end_s: leave out what comes after, or None for the end.
        end_frame: leave out this frame of the file (from 0) and what comes after, or None for the end.
        fps: pictures a second of a folder or a list of them; None for 1, which a note then says.
        at_s: times in seconds of the frames wanted, rising, or None for frames spread evenly.
        pictures: that are the frames, in order; empty for those of the folder, or where there is a video.
        joined: video files that follow `path`, all of them one clip.
        write: writes a file that is not there yet, when it is first read; can be pickled, compared and hashed.
    """

    path: Path
    start_s: float | None = None
    end_s: float | None = None
    end_frame: int | None = None
    fps: float | None = None
    at_s: tuple[float, ...] | None = None
    pictures: tuple[Path, ...] = ()
    joined: tuple[Path, ...] = ()
    write: Callable[[Path], None] | None = None

    def prepare(self) -> None:
        """Write the file if it is missing and can be written."""
        if self.write is not None and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.write(self.path)


class Part(NamedTuple):
    """What of a source is wanted; each as `Source` has it, `at_s` in any order."""

    start_s: float | None = None
    end_s: float | None = None
    at_s: tuple[float, ...] | None = None
    fps: float | None = None

    def of(self, source: Source) -> Source:
        """Return a source of which this part alone is wanted.

        Raises:
            InputError: there is no such part.
        """
        times = [("--start", self.start_s), ("--end", self.end_s), *(("--at", time) for time in self.at_s or ())]
        for name, time in times:
            if time is not None and not (isinstance(time, Real) and 0 <= time < math.inf):
                raise InputError(f"{name} {time}: must be seconds from 0 on.")
        if self.end_s is not None and self.end_s <= (self.start_s or 0.0):
            raise InputError(f"--end {self.end_s:g}: must be behind --start {self.start_s or 0:g}.")
        if self.at_s is not None and not self.at_s:
            raise InputError("--at: is empty; must be at least one time.")
        if self.at_s and not (self.start_s is None and self.end_s is None):
            raise InputError("--at: says which frames; it cannot stand with --start or --end.")
        if self.fps is not None and not (isinstance(self.fps, Real) and 0 < self.fps < math.inf):
            raise InputError(f"--fps {self.fps}: must be greater than 0, and finite.")
        at_s = self.at_s and tuple(sorted(set(self.at_s)))
        return dataclasses.replace(source, start_s=self.start_s, end_s=self.end_s, at_s=at_s, fps=self.fps)


@dataclass(frozen=True)
class ReadRequest:
    """What to read."""

    source: Source
    num_frames: int  # the most
    max_fps: float  # the most frames a second
    size: tuple[int, int] | LayoutRule | None  # (height, width) in pixels, what decides it, or None for the file's own
    resample: str = "bilinear"  # filter that frames are resized with, as in `video.read_clip`
    avoid_pyav: str = ""  # why PyAV is not to be tried

    def sized(self, height: int, width: int) -> SizedRequest:
        """Decide the size for a video of such frames, before one is decoded; InputError where the rule refuses them."""
        try:
            size = self.size(height, width, self.num_frames).frame_size if callable(self.size) else self.size
        except InputError as error:
            raise InputError(f"{self.source.path}: {error}") from error
        return SizedRequest(self.source, self.num_frames, self.max_fps, size, self.resample, self.avoid_pyav)


@dataclass(frozen=True)
class SizedRequest(ReadRequest):
    """What to read, its frames' size decided."""

    size: tuple[int, int] | None
