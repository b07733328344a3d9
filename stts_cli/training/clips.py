"""What training looks at: `VideoSample`s or seeds in, decoded `TrainingClip`s out, ready for workers of a DataLoader.

An item is a list of clips that are encoded together: one video of a file, or several clips of like length of the
procedural world. An item depends on its index alone, so that a run that is resumed sees what it would have seen.
Frames of files come through the same reader as those that `stts eval` and `stts ask` look at.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stts_cli.benchmarks.items import Source
from stts_cli.benchmarks.reader import ReadRequest, read_source
from stts_cli.errors import EnvironmentFailure, InputError, suggest
from stts_cli.shapes.clips import LONG_FPS, SHORT_FPS
from stts_cli.shapes.questions import Question, ask
from stts_cli.shapes.render import render
from stts_cli.shapes.world import Scene, make_scene
from stts_cli.training.samples import Conversation, VideoSample
from stts_cli.training.world_clips import draw_clip
from stts_cli.video import sample_indices

# frames, share of items, clips an item, long clips
LENGTHS = (
    (1, 0.02, 16, False),
    (2, 0.04, 16, False),
    (4, 0.10, 14, False),
    (8, 0.42, 10, False),
    (16, 0.28, 7, False),
    (16, 0.03, 7, True),
    (32, 0.06, 4, True),
    (64, 0.04, 2, True),
    (128, 0.01, 1, True),
)
# how often a family is asked: what is learned last is asked most
ASK_WEIGHTS = {
    "color": 0.7,
    "shape": 0.5,
    "existence": 1.0,
    "turned_into": 2.5,
    "first_last": 2.5,
    "count": 2.5,
    "direction": 1.5,
    "position": 0.8,
    "happened": 1.5,
    "brief": 1.5,
}
MIXES = {"short": (False,), "long": (True,), "all": (False, True)}
MAX_NOISE = 6.0  # grey levels: the strongest sensor noise of a training clip
FIRST_HELD_OUT = 2_000_000  # scene index; `stts eval` measures those from 0 on
_WORLD_FPS = 2.0  # frames a second that are looked at, at most


@dataclass(frozen=True)
class TrainingClip:
    """One video, decoded, with everything asked about it.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB, of the family's frame size.
        timestamps_s: T times in seconds; they count from the start of the cut.
        conversations: at least one.
        name: for messages: the path of the video, or "shapes:SPLIT/INDEX".
    """

    frames: Tensor
    timestamps_s: tuple[float, ...]
    conversations: tuple[Conversation, ...]
    name: str


class _InOneLine(Exception):
    """An error whose message stays one line when it comes out of a worker of a DataLoader."""

    def __init__(self, text: str) -> None:
        # there it is raised anew, with the whole traceback in front of its text
        super().__init__(text.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


class UnreadableVideo(_InOneLine, InputError):
    """A video that cannot be read during training."""


class UnwritableCache(_InOneLine, EnvironmentFailure):
    """A cache folder that takes no more frames."""


class VideoClips(Dataset[list[TrainingClip]]):
    """The videos of a file, decoded on demand, one an item.

    Args:
        samples: what to read.
        num_frames: the most frames of a video.
        max_fps: the most frames a second.
        frame_size: (height, width) in pixels.
        resample: filter that frames are resized with, as in `video.read_clip`.
        cache_dir: folder that keeps decoded frames, made when needed; None decodes every time.
    """

    def __init__(
        self,
        samples: Sequence[VideoSample],
        *,
        num_frames: int,
        max_fps: float,
        frame_size: tuple[int, int],
        resample: str = "bilinear",
        cache_dir: Path | None = None,
    ) -> None:
        self.samples = list(samples)
        self.num_frames, self.max_fps, self.frame_size, self.resample = num_frames, max_fps, frame_size, resample
        self.cache_dir = cache_dir

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> list[TrainingClip]:
        sample = self.samples[index]
        frames, times = self._frames(sample)
        heard = tuple(conversation.heard(times) for conversation in sample.conversations)
        return [TrainingClip(torch.from_numpy(frames), times, heard, sample.video)]

    def _frames(self, sample: VideoSample) -> tuple[np.ndarray, tuple[float, ...]]:
        entry = self._entry(sample)
        if entry is not None and (kept := _load_entry(entry, self.frame_size)) is not None:
            return kept
        source = Source(Path(sample.video), sample.start, sample.end)
        try:
            clip = read_source(ReadRequest(source, self.num_frames, self.max_fps, self.frame_size, self.resample))
        except InputError as error:
            raise UnreadableVideo(str(error)) from error
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise UnreadableVideo(f"{sample.video} cannot be read ({reason}) -> check the file") from error
        times = tuple(clip.timestamps_s)
        if entry is not None:
            _save_entry(entry, clip.frames, times)
        return clip.frames, times

    def _entry(self, sample: VideoSample) -> Path | None:
        """Return where a sample's frames are kept; another file, cut, budget or filter has another place."""
        if self.cache_dir is None:
            return None
        try:
            found = os.stat(sample.video)
        except OSError as error:
            raise UnreadableVideo(
                f"{sample.video} cannot be read ({error.strerror}) -> put it back, or take it out of the data"
            ) from error
        path = os.path.abspath(sample.video)
        budget = (sample.start, sample.end, self.num_frames, self.max_fps, *self.frame_size, self.resample)
        key = hashlib.sha256(repr((path, found.st_size, found.st_mtime_ns, *budget)).encode()).hexdigest()[:32]
        return self.cache_dir / key[:2] / f"{key}.npz"


class ShapesClips(Dataset[list[TrainingClip]]):
    """Clips of the procedural world, drawn from seeds: as many items as one likes, each a function of (seed, index).

    Args:
        num_items: length of the data set.
        seed: of everything in it.
        num_frames: the most frames of a clip.
        mix: a key of `MIXES`: "short" clips of 4-8 s, "long" ones of 1-3 min, or "all".
        questions: the most questions about a clip.
        frame_size: (height, width) in pixels, square.
        scale: multiplies the number of clips of an item.
        alike: so many items in a row have clips of like length; give it the number of processes that each take one of
            them at the same time, and none waits for longer clips.
    """

    def __init__(
        self,
        num_items: int,
        *,
        seed: int,
        num_frames: int = 128,
        mix: str = "all",
        questions: int = 8,
        frame_size: tuple[int, int],
        scale: float = 1.0,
        alike: int = 1,
    ) -> None:
        if mix not in MIXES:
            raise InputError(f"no mix '{mix}' of shapes{suggest(mix, MIXES)}")
        # a length above the limit is cut to it, unless a shorter one stands for it already
        self.lengths = [
            (min(frames, num_frames), share, max(1, round(clips * scale)), long)
            for frames, share, clips, long in LENGTHS
            if long in MIXES[mix] and frames < 2 * num_frames
        ]
        if not self.lengths:
            least = min(frames for frames, _, _, long in LENGTHS if long in MIXES[mix]) // 2 + 1
            raise InputError(f"{num_frames} frames of {mix} shapes -> at least {least} -> raise --frames")
        self.num_items, self.seed, self.questions, self.alike = num_items, seed, questions, alike
        self.side = _square(frame_size)

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> list[TrainingClip]:
        if not 0 <= index < self.num_items:
            raise IndexError(index)
        shares = np.array([share for _, share, _, _ in self.lengths])
        shared = np.random.default_rng([self.seed, 40, index // self.alike])
        frames, _, clips, long = self.lengths[int(shared.choice(len(shares), p=shares / shares.sum()))]
        rng = np.random.default_rng([self.seed, 41, index])
        drawn = [draw_clip(rng, "train", frames, self.questions, long, ASK_WEIGHTS) for _ in range(clips)]
        return [
            _drawn(
                c.scene, c.times_s, c.questions, self.side, float(rng.uniform(0, MAX_NOISE)), int(rng.integers(2**31))
            )
            for c in drawn
        ]


class HeldOutShapes(Dataset[list[TrainingClip]]):
    """Scenes that nothing is trained on, one an item, with every question that their frames can answer; see below."""

    def __init__(self, scenes: list[tuple[Scene, np.ndarray, tuple[Question, ...]]], side: int) -> None:
        self.scenes, self.side = scenes, side

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> list[TrainingClip]:
        return [_drawn(*self.scenes[index], self.side)]


def shapes_held_out(
    num_videos: int, *, seed: int, frames: int, frame_size: tuple[int, int], long: bool = False, split: str = "test"
) -> HeldOutShapes:
    """Return held-out clips of the procedural world; none of them is one that `stts eval` measures.

    Args:
        num_videos: how many.
        seed: which ones.
        frames: the most frames of a clip.
        frame_size: (height, width) in pixels, square.
        long: clips of 1-3 min instead of 4-8 s.
        split: "test" or "validation".

    Returns:
        The data set; a question's group is its family.
    """
    side = _square(frame_size)
    scenes: list[tuple[Scene, np.ndarray, tuple[Question, ...]]] = []
    index = FIRST_HELD_OUT + seed * 100_000
    while len(scenes) < num_videos:
        scene = make_scene(split, index, long)
        index += 1
        fps = LONG_FPS if long else SHORT_FPS
        times = np.arange(max(1, round(scene.duration_s * fps))) / fps
        times = times[sample_indices(times, frames, _WORLD_FPS)]
        questions = tuple(question for question in ask(scene) if question.answerable(times))
        if questions:
            scenes.append((scene, times, questions))
    return HeldOutShapes(scenes, side)


def collate(items: list[list[TrainingClip]]) -> dict[str, Any]:
    """Put the clips of several items into one batch; for a DataLoader.

    Args:
        items: of a data set of this file.

    Returns:
        "clips": all of them, in order.
    """
    return {"clips": [clip for item in items for clip in item]}


def _drawn(
    scene: Scene,
    times_s: np.ndarray,
    questions: Sequence[Question],
    side: int,
    noise: float = 0.0,
    noise_seed: int = 0,
) -> TrainingClip:
    frames = render(scene, times_s, side, noise=noise, noise_seed=noise_seed)
    times = tuple(round(float(time), 4) for time in times_s)
    asked = tuple(Conversation(((q.text, q.answer),), q.family) for q in questions)
    return TrainingClip(torch.from_numpy(frames), times, asked, f"shapes:{scene.split}/{scene.index}")


def _square(frame_size: tuple[int, int]) -> int:
    height, width = frame_size
    if height != width:
        raise InputError(f"shapes for frames of {height}x{width} px -> square frames only -> train on a file of videos")
    return height


def _load_entry(entry: Path, frame_size: tuple[int, int]) -> tuple[np.ndarray, tuple[float, ...]] | None:
    """Return what a cache entry holds, or None where there is none or it is damaged (zip sums tell)."""
    try:
        with np.load(entry) as kept:
            frames, times = kept["frames"], tuple(kept["timestamps_s"].tolist())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    fits = frames.dtype == np.uint8 and frames.shape == (len(times), *frame_size, 3)
    return (frames, times) if fits and times else None


def _save_entry(entry: Path, frames: np.ndarray, times: tuple[float, ...]) -> None:
    """Write a cache entry beside its place, then move it there: a run that is killed leaves no half entry."""
    part = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=entry.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, frames=frames, timestamps_s=np.array(times))
        os.replace(part, entry)
    except OSError as error:
        if part is not None and os.path.exists(part):
            os.unlink(part)
        raise UnwritableCache(
            f"frames cannot be kept in {entry.parent.parent} ({error.strerror or error}) -> free some space, choose "
            "another folder, or train without a cache"
        ) from error
