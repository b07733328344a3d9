"""What training looks at: `VideoSample`s in, decoded `TrainingClip`s out, ready for workers of a DataLoader.

An item is a list of clips that are encoded together: here one video of a file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stts_cli.data.conversations import Conversation
from stts_cli.data.rows import first_line
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest, Source
from stts_cli.settings import LayoutRule
from stts_cli.training.samples import VideoSample


@dataclass(frozen=True)
class TrainingClip:
    """One video, decoded, with everything asked about it."""

    frames: Tensor  # uint8 (T, H, W, 3), RGB, of the size that the family gives them
    timestamps_s: tuple[float, ...]  # T times in seconds; they count from the start of the cut
    conversations: tuple[Conversation, ...]  # at least one
    name: str  # for messages: the path of the video, or "shapes:SPLIT/INDEX"
    # length of the video or its part; None for the last frame's time
    duration_s: float | None = field(default=None, kw_only=True)


Batch = dict[str, list[TrainingClip]]  # "clips"
_Frames = tuple[np.ndarray, tuple[float, ...], float]  # uint8 (T, H, W, 3), T times, and the video's length in seconds


class _InOneLine(Exception):
    """An error whose message stays one line when it comes out of a worker of a DataLoader."""

    def __init__(self, text: str) -> None:
        # there it is raised anew, with the whole traceback in front of its text
        super().__init__(text.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


class UnreadableVideo(_InOneLine, InputError):
    """A video that cannot be read during training."""


class UnwritableCache(_InOneLine, EnvironmentFailure):
    """A cache folder that takes no more frames."""


@dataclass(eq=False)
class VideoClips(Dataset[list[TrainingClip]]):
    """The videos of a file, decoded on demand, one an item."""

    samples: list[VideoSample]
    num_frames: int  # the most of a video
    max_fps: float
    frame_size: tuple[int, int] | LayoutRule  # (height, width) in pixels, or what decides it for each video
    resample: str = "bilinear"  # filter that frames are resized with, as in `video.read_clip`
    cache_dir: Path | None = None  # keeps decoded frames, made when needed; None decodes every time

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> list[TrainingClip]:
        sample = self.samples[index]
        entry = self._entry(sample)
        frames, times, duration_s = (entry and _load_entry(entry, self.frame_size)) or self._decode(sample, entry)
        talks = tuple(conversation.with_subtitles(times) for conversation in sample.conversations)
        return [TrainingClip(torch.from_numpy(frames), times, talks, sample.video, duration_s=duration_s)]

    def _decode(self, sample: VideoSample, entry: Path | None) -> _Frames:
        source = Source(Path(sample.video), sample.start, sample.end)
        try:
            clip = read_source(ReadRequest(source, self.num_frames, self.max_fps, self.frame_size, self.resample))
        except InputError as error:
            raise UnreadableVideo(str(error)) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise UnreadableVideo(f"{sample.video}: cannot be read ({first_line(error)}); check the file.") from error
        if clip.damage:
            raise UnreadableVideo(f"{sample.video}: {clip.damage[0]}; fetch it again, or take it out of the data.")
        times = tuple(clip.timestamps_s)
        if entry is not None:
            _save_entry(entry, clip.frames, times, clip.length_s)
        return clip.frames, times, clip.length_s

    def _entry(self, sample: VideoSample) -> Path | None:
        """Return where a sample's frames are kept; another file, cut, budget or filter has another place."""
        if self.cache_dir is None:
            return None
        try:
            found = os.stat(sample.video)
        except OSError as error:
            raise UnreadableVideo(
                f"{sample.video}: cannot be read ({error.strerror}); put it back, or take it out of the data."
            ) from error
        path = os.path.abspath(sample.video)
        size = self.frame_size if isinstance(self.frame_size, tuple) else (repr(self.frame_size),)
        budget = (sample.start, sample.end, self.num_frames, self.max_fps, *size, self.resample)
        key = hashlib.sha256(repr((path, found.st_size, found.st_mtime_ns, *budget)).encode()).hexdigest()[:32]
        return self.cache_dir / key[:2] / f"{key}.npz"


def collate(items: list[list[TrainingClip]]) -> Batch:
    """Put the clips of several items into one batch, in order; for a DataLoader."""
    return {"clips": [clip for item in items for clip in item]}


def _load_entry(entry: Path, size: tuple[int, int] | LayoutRule) -> _Frames | None:
    """Return what a cache entry holds, or None where there is none or it is damaged, which zip's sums show."""
    try:
        with np.load(entry) as kept:
            frames, times, duration_s = kept["frames"], tuple(kept["timestamps_s"].tolist()), float(kept["duration_s"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(times) == 0:
        return None
    if callable(size):
        size = size(frames.shape[1], frames.shape[2], len(times)).frame_size
    return (frames, times, duration_s) if frames.shape == (len(times), *size, 3) else None


def _save_entry(entry: Path, frames: np.ndarray, times: tuple[float, ...], duration_s: float) -> None:
    """Write a cache entry beside its place, then move it there: a run that is killed leaves no half entry."""
    part = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=entry.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, frames=frames, timestamps_s=np.array(times), duration_s=np.array(duration_s))
        os.replace(part, entry)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise UnwritableCache(
            f"--cache {entry.parent.parent}: frames cannot be kept there ({error.strerror or error}); free some space, "
            "choose another folder, or train without a cache."
        ) from error
