"""Where the frames of a video come from, and which of them are wanted. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stts_cli.settings import LayoutRule


@dataclass(frozen=True)
class Source:
    """Where the frames come from.

    Attributes:
        path: a video file, or a folder of numbered jpg frames.
        start_s: leave out what comes before; times shown to the model then count from here.
        end_s: leave out what comes after, or None for the end.
        end_frame: leave out this frame of the file (from 0) and what comes after, or None for the end.
        folder_fps: frames a second of a folder of frames.
        write: writes a file that is not there yet, when it is first read; can be pickled, compared and hashed.
    """

    path: Path
    start_s: float | None = None
    end_s: float | None = None
    end_frame: int | None = None
    folder_fps: float = 3.0
    write: Callable[[Path], None] | None = None

    def prepare(self) -> None:
        """Write the file if it is missing and can be written."""
        if self.write is not None and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.write(self.path)


@dataclass(frozen=True)
class ReadRequest:
    """What to read."""

    source: Source
    num_frames: int  # the most
    max_fps: float  # the most frames a second
    size: tuple[int, int] | LayoutRule | None  # (height, width) in pixels, what decides it, or None for the file's own
    resample: str = "bilinear"  # filter that frames are resized with, as in `video.read_clip`

    def sized(self, height: int, width: int) -> SizedRequest:
        """Decide the size for a video of such frames, before one is decoded."""
        size = self.size(height, width, self.num_frames).frame_size if callable(self.size) else self.size
        return SizedRequest(self.source, self.num_frames, self.max_fps, size, self.resample)


@dataclass(frozen=True)
class SizedRequest(ReadRequest):
    """What to read, its frames' size decided."""

    size: tuple[int, int] | None
