"""Read a video file into a few frames with their times: the first stage of the path.

In: a file and a frame budget. Out: a `Clip`. The file's packets say when each frame is shown (`packets.scan`); no more
is decoded than the wanted frames need (`packets.decode`), and each is resized at once, as the model's processor does it
(`resize`): few whole frames are held. Sampling is the one of the paper's base model, Molmo2 (arXiv 2603.18004,
experimental setup; `sampling`).

PyAV reads. decord, which jumps within a file too, gives up a jump that takes long and returns another frame without
an error (3.4.0: 25 of 64 frames of a 30-minute 1080p file); it reads what PyAV cannot (`decord_reader`).

This module knows nothing of models or tensors: normalising and cutting into patches is the family's work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media import decord_reader
from stts_cli.media.clip import Clip
from stts_cli.media.container import ASSUMED_FPS, DecoderError, VideoInfo, open_file, probe, shorten
from stts_cli.media.packets import Alive, decode, scan
from stts_cli.media.resize import DECODER, Resizer
from stts_cli.media.sampling import choose_frames
from stts_cli.media.source import ReadRequest, Source

TRUNCATED_BELOW = 0.9  # a file that holds less than this part of the length it declares is truncated


def read_clip(
    path: str | Path,
    *,
    num_frames: int,
    max_fps: float = 2.0,
    size: tuple[int, int] | None = None,
    resample: str = "bilinear",
    start: float | None = None,
    end: float | None = None,
) -> Clip:
    """Read a few frames of a video file, each resized as soon as it is decoded.

    Args:
        path: the video file.
        num_frames: the most frames to read, >= 1.
        max_fps: the most frames a second, > 0.
        size: (height, width) in pixels of the frames wanted, or None for the file's own. The aspect ratio is not kept.
        resample: filter that whole frames are resized with, "bilinear" or "bicubic" (`resize.Resizer`); or
            `resize.DECODER`: the decoder resizes while it reads, with a filter of its own.
        start: leave out what comes before this time in seconds.
        end: leave out what comes after this time in seconds.

    Returns:
        The frames and their times; times count from the start of the file, also with `start`.

    Raises:
        InputError: the file cannot be read, or nothing lies between `start` and `end`.
    """
    return read_file(ReadRequest(Source(Path(path), start, end), num_frames, max_fps, size, resample))


def shown_size(path: str | Path) -> tuple[int, int]:
    """Return the height and width of a video's frames as they are read: upright, of square pixels; decodes one.

    Raises:
        InputError: the file cannot be read.
    """
    height, width = read_clip(path, num_frames=1).frames.shape[1:3]
    return height, width


def read_file(request: ReadRequest, alive: Alive = lambda: None) -> Clip:
    """Read the part of a video file that is asked for, as `read_clip` does; `Source.end_frame` is not looked at.

    `alive` is called again and again while reading goes on.
    """
    path = request.source.path
    info, reason = probe(path), request.avoid_pyav
    if not reason:
        try:
            return _read_with_pyav(info, request, alive)
        except DecoderError as error:
            reason = f"PyAV: {error}"
    try:
        return _read_with_decord(info, request, reason)
    except DecoderError as error:
        raise InputError(f"{path}: cannot be decoded ({reason}; {error}); it is damaged.") from error


def _read_with_pyav(info: VideoInfo, request: ReadRequest, alive: Alive) -> Clip:
    import av

    path = request.source.path
    try:
        index = scan(path, info, alive)
        shown = np.unique(index.pts[index.is_shown])
        times = _clean_times(shown * index.time_base, info.fps)
        chosen = choose_frames(times, request)
        sized = dataclasses.replace(request, num_frames=len(chosen))  # of as many as there are
        taken = _Frames(shown[chosen].tolist(), Fit(sized, info.aspect))
        decode(path, index, taken, alive)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecoderError(shorten(error)) from error
    found = [i for i, there in enumerate(taken.found) if there]
    if not found:
        raise InputError(f"{path}: none of the {len(chosen)} frames wanted can be decoded; it is damaged.")
    damage = [cut] if (cut := _truncation(path, info, times)) else []
    if missing := [times[i] for place, i in enumerate(chosen) if not taken.found[place]]:
        damage.append(f"{len(missing)} of {len(chosen)} frames cannot be decoded, the first at {missing[0]:.1f} s")
    if taken.num_corrupt:
        damage.append(
            f"{taken.num_corrupt} of {len(chosen)} frames are damaged and shown as far as they can be decoded"
        )
    chosen, notes = [chosen[place] for place in found], index.notes
    if (sizes := len(taken.fit.sizes)) > 1:
        notes = (*notes, f"the frames are of {sizes} sizes; all were made as large as the first")
    return _clip(taken.frames[found], times, chosen, info, "pyav", notes, tuple(damage))


class _Frames:
    """Takes the wanted frames as they are decoded, in any order.

    They are put into one array: small ones kept between large ones that come and go scatter the memory.

    Args:
        wanted: their times, in the file's units.
        fit: makes a decoded frame's pixels.
    """

    def __init__(self, wanted: Sequence[int], fit: Fit) -> None:
        self.place = {pts: place for place, pts in enumerate(wanted)}
        self.fit = fit
        self.found = [False] * len(wanted)
        self.num_corrupt = 0
        self.frames = np.empty((0, 0, 0, 3), np.uint8)

    @property
    def missing(self) -> set[int]:
        """The times of those that did not come yet."""
        return {pts for pts, place in self.place.items() if not self.found[place]}

    def take(self, frame: Any, pts: int | None) -> None:
        """Keep an `av.VideoFrame` if it is wanted."""
        place = None if pts is None else self.place.get(pts)
        if place is None or self.found[place]:
            return
        pixels = self.fit(frame)
        if not self.frames.size:
            self.frames = np.empty((len(self.found), *pixels.shape), np.uint8)
        self.frames[place] = pixels
        self.found[place] = True
        self.num_corrupt += frame.is_corrupt


class Fit:
    """Turns frames of PyAV into uint8 (H, W, 3) RGB of the size wanted, upright.

    What the resizer leaves to the decoder is done here.

    Args:
        request: says how large frames become, or what decides it from the first.
        aspect: of the file's pixels, width by height.

    Attributes:
        sizes: height and width of the frames that came, each once, as the decoder gave them.
    """

    def __init__(self, request: ReadRequest, aspect: float = 1.0) -> None:
        self.request, self.aspect = request, aspect
        self.sizes: set[tuple[int, int]] = set()
        self._first: tuple[int, int, int, Resizer] | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """Return a frame's pixels; frames of other sizes are made as large as the first."""
        if self._first is None:
            quarters, size = frame.rotation // 90 % 4, (frame.height, max(round(frame.width * self.aspect), 1))
            sized = self.request.sized(*(size[::-1] if quarters % 2 else size))
            self._first = frame.height, frame.width, quarters, Resizer(sized.size, sized.resample)
        self.sizes.add((frame.height, frame.width))
        height, width, quarters, resizer = self._first
        if resizer.size and resizer.resample == DECODER:
            height, width = resizer.size[::-1] if quarters % 2 else resizer.size
        pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
        return resizer(np.ascontiguousarray(np.rot90(pixels, quarters)))


def _read_with_decord(info: VideoInfo, request: ReadRequest, reason: str) -> Clip:
    sized = request.sized(info.height, max(round(info.width * info.aspect), 1))

    def choose(times: np.ndarray) -> tuple[np.ndarray, list[int]]:
        times = _clean_times(times, info.fps)
        return times, choose_frames(times, request)

    steps = decord_reader.steps(sized, choose)
    times, chosen = next(steps)
    resizer = Resizer(sized.size, sized.resample)
    frames = np.stack([resizer(frame) for frame in steps])
    cut = _truncation(request.source.path, info, times)
    return _clip(frames, times, chosen, info, "decord", (f"read with decord: {reason}",), (cut,) if cut else ())


def _clean_times(times: np.ndarray, fps: float) -> np.ndarray:
    """Let times start at 0, and replace by index / fps those that do not rise."""
    times = times - times[0]
    if len(times) > 1 and not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        return np.arange(len(times)) / (fps or ASSUMED_FPS)
    return times


def _frame_s(times: np.ndarray, info: VideoInfo) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / (info.fps or ASSUMED_FPS)


def _truncation(path: Path, info: VideoInfo, times: np.ndarray) -> str:
    """Say that the frames end well before the length that the file declares; empty where they do not."""
    end_s = float(times[-1]) + _frame_s(times, info)
    declared_s = info.duration_s or info.container_duration_s
    if declared_s is None or end_s >= TRUNCATED_BELOW * declared_s or declared_s - end_s < 1.0:
        return ""
    if info.duration_s is None:  # only the file as a whole declares a length: sound may outlast the pictures
        if _last_packet_s(path) >= TRUNCATED_BELOW * declared_s:
            return ""
    return f"the file is truncated: {end_s:.1f} of the {declared_s:.1f} s that it declares can be read"


def _last_packet_s(path: Path) -> float:
    """Return the latest time of any stream's packet, up to where the file can be read."""
    import av

    last_s = 0.0
    try:
        with open_file(path) as container:
            for packet in container.demux():
                if packet.pts is not None and packet.time_base:
                    last_s = max(last_s, float(packet.pts * packet.time_base))
    except (av.error.FFmpegError, OSError, ValueError):
        pass
    return last_s


def _clip(
    frames: np.ndarray,
    times: np.ndarray,
    chosen: list[int],
    info: VideoInfo,
    backend: str,
    notes: tuple[str, ...],
    damage: tuple[str, ...] = (),
) -> Clip:
    frame_s = _frame_s(times, info)
    return Clip(
        frames=frames,
        timestamps_s=[round(float(times[index]), 4) for index in chosen],
        duration_s=round(float(times[-1]) + frame_s, 4),
        source_fps=round((len(times) - 1) / float(times[-1]), 4) if len(times) > 1 else info.fps or 1.0 / frame_s,
        num_source_frames=len(times),
        backend=backend,
        notes=notes,
        damage=damage,
    )
