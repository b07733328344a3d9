"""Read a video file into a few frames with their times: the first stage of the path.

In: a file and a frame budget. Out: `Clip`, with frames (T, H, W, 3) uint8 RGB and a time in seconds for each. Decoding
goes through decord; where decord fails, PyAV reads the file and the reason is kept in `Clip.fallback_reason`. A whole
frame is resized at once, as the model's processor does it (`resize`): few are held. Sampling is the one of the paper's
base model (Molmo2): at most `max_fps` frames a second and at most `num_frames` in all, evenly spread, the first and the
last frame among them (arXiv 2603.18004, experimental setup).

This module knows nothing of models or tensors: normalising and cutting into patches is the family's work.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import itertools
import os
import queue
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.resize import DECODER, Resizer
from stts_cli.media.source import ReadRequest, SizedRequest, Source

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# demuxers that open what the file names: playlists, stream descriptions, numbered pictures, parts and indices
REFERRING = {
    "concat", "dash", "hls", "image2", "imf", "lavfi", "mlv", "rtp", "rtsp", "sap", "sdp", "vobsub",
    "webm_dash_manifest",
}  # fmt: skip
STALL_S = 30.0  # a decoder that delivers no frame for this long is given up
TRUNCATED_BELOW = 0.9  # a file that holds less than this part of the length it declares is truncated

Size = tuple[int, int]


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says: pixels, frames a second (0.0 if not said), declared lengths of stream and file."""

    width: int
    height: int
    fps: float
    duration_s: float | None
    container_duration_s: float | None


@dataclass(frozen=True)
class Clip:
    """The sampled frames of one video.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB.
        timestamps_s: T times in seconds from the start of the video, rising.
        duration_s: length of the video in seconds, the last frame's own time on screen included.
        source_fps: average frames per second of the file.
        num_source_frames: frames in the file.
        backend: "decord", "pyav", or "memory" for frames that came from no file.
        fallback_reason: why decord was not used, or None.
    """

    frames: np.ndarray
    timestamps_s: list[float]
    duration_s: float
    source_fps: float
    num_source_frames: int
    backend: str
    fallback_reason: str | None = None

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


class _DecoderError(Exception):
    """One decoder could not read the file; another may."""


def probe(path: str | Path) -> VideoInfo:
    """Read a file's header without decoding a frame.

    Raises:
        InputError: the file is missing, a folder, empty, unreadable, no video, or has no video stream.
    """
    path = check_file(path)
    import av

    try:
        with open_file(path) as container:
            stream = _video_stream(container)
            if stream is None:
                raise InputError(f"{path}: holds only sound or data; must hold a video.")
            if stream.disposition & av.stream.Disposition.attached_pic:
                raise InputError(f"{path}: holds sound and a cover picture only; must hold a video.")
            if container.format.name.endswith("_pipe"):
                raise InputError(f"{path}: holds a picture; must hold a video.")
            if stream.codec_context is None:
                raise InputError(f"{path}: holds a video of an unknown codec; must be one that FFmpeg decodes.")
            duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            return VideoInfo(
                width=stream.codec_context.width,
                height=stream.codec_context.height,
                fps=float(stream.average_rate or 0.0),
                duration_s=duration_s,
                container_duration_s=container.duration / av.time_base if container.duration else None,
            )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EINVAL:
            raise InputError(
                f"{path}: holds a playlist, or another kind of file that refers to others; must hold the video itself."
            ) from error
        reason = _reason(error)
        raise InputError(f"{path}: cannot be read as a video ({reason}); it is truncated or no video.") from error


def open_file(path: str | Path) -> Any:
    """Open a file with PyAV, whatever its name looks like, and nothing that it refers to.

    A file that refers to others raises `av.error.ArgumentError` (EINVAL).
    """
    import av
    import av.logging

    av.logging.set_level(None)
    options = {"protocol_whitelist": "file", "format_whitelist": _allowed_formats()}
    # not `options`: PyAV below 17.1 applies those to streams that it counted too early, and crashes (mpg, flv)
    return av.open(os.path.abspath(path), container_options=options)


@functools.cache
def _allowed_formats() -> str:
    import av

    return ",".join(sorted(av.formats_available - REFERRING))


def _video_stream(container: Any) -> Any:
    """Return the stream that decord reads too, or None."""
    return container.streams.best("video")


def sample_indices(timestamps_s: np.ndarray | list[float], num_frames: int, max_fps: float) -> list[int]:
    """Choose which frames of a video to look at: uniform, the last frame included.

    A video that fits the budget at `max_fps` is sampled every 1 / max_fps seconds, plus its last frame; a longer one
    at `num_frames` times spread evenly from the first frame to the last. For each time the nearest frame is taken.

    Args:
        timestamps_s: times of all the frames in seconds, rising; S of them.
        num_frames: the most frames to choose, >= 1.
        max_fps: the most frames a second, > 0.

    Returns:
        At most min(num_frames, S) distinct indices into `timestamps_s`, rising. With num_frames = 1 the first frame.

    Raises:
        InputError: a budget out of range.
    """
    if num_frames < 1:
        raise InputError(f"--frames {num_frames}: must be at least 1.")
    if not max_fps > 0:
        raise InputError(f"--max-fps {max_fps:g}: must be greater than 0.")
    times = np.asarray(timestamps_s, dtype=np.float64)
    first, last = times[0], times[-1]
    if (last - first) * max_fps > num_frames - 1:
        wanted = np.linspace(first, last, num_frames)
    else:
        wanted = np.append(np.arange(first, last, 1.0 / max_fps), last)
    after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)  # the last step may be rounded beyond the end
    before = np.maximum(after - 1, 0)
    nearest = np.where(wanted - times[before] < times[after] - wanted, before, after)
    return np.unique(nearest).tolist()


def read_clip(
    path: str | Path,
    *,
    num_frames: int,
    max_fps: float = 2.0,
    size: Size | None = None,
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


def read_file(request: ReadRequest) -> Clip:
    """Read the part of a video file that is asked for, as `read_clip` does; `Source.end_frame` is not looked at."""
    path = request.source.path
    info = probe(path)
    sized = request.sized(info.height, info.width)
    try:
        return _read_with_decord(info, sized)
    except _DecoderError as error:
        reason = str(error)
    try:
        return _read_with_pyav(info, sized, reason)
    except _DecoderError as error:
        raise InputError(f"{path}: cannot be decoded ({error}); it is damaged.") from error


def check_file(path: str | Path) -> Path:
    """Return the path of a file that is there, may be read and is not empty; InputError where it is not."""
    if not str(path):
        raise InputError("the video's name is empty; give a video file.")
    given, path = str(path), Path(path)
    if not path.exists() and URL.match(given):
        raise InputError(f"{given}: is a URL; must be a file, so download it first.")
    if not path.exists():
        raise InputError(f"{path}: does not exist; must be a video file.")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; must be a video file.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: may not be read (permission denied); change its permissions.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty (0 bytes); fetch it again.")
    return path


def _read_with_decord(info: VideoInfo, request: SizedRequest) -> Clip:
    steps = _watched(_decord_steps(info, request))
    times, chosen = next(steps)
    resizer = Resizer(request.size, request.resample)
    frames = collect((resizer(frame) for frame in steps), len(chosen))
    return _clip(frames, times, chosen, info, None)


def _decord_steps(info: VideoInfo, request: SizedRequest) -> Iterator[Any]:
    """Yield (times of all frames, chosen indices), then the chosen frames (H, W, 3) one by one."""
    try:
        import decord
    except (ImportError, OSError) as error:
        raise _DecoderError(f"decord cannot be loaded: {_reason(error)}") from error
    decord.logging.set_level(decord.logging.QUIET)
    by_decoder = request.size if request.resample == DECODER else None
    height, width = by_decoder or (-1, -1)
    try:
        reader = decord.VideoReader(os.path.abspath(request.source.path), width=width, height=height, num_threads=0)
        times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(np.float64)
        times = _clean_times(times, info.fps)
    except Exception as error:
        raise _DecoderError(f"decord: {_reason(error)}") from error
    _refuse_truncated(request.source.path, info, times)
    chosen = choose_frames(times, request)
    yield times, chosen
    for index in chosen:
        try:
            frame = reader[index].asnumpy()
        except Exception as error:
            raise _DecoderError(f"decord at {times[index]:.1f} s: {_reason(error)}") from error
        height, width = by_decoder or frame.shape[:2]
        rows = frame.reshape(height, -1)
        # decord aligns rows to 64 pixels and, for narrow frames, takes the filling for a fourth channel
        yield np.ascontiguousarray(rows[:, : width * 3]).reshape(height, width, 3)


def _read_with_pyav(info: VideoInfo, request: SizedRequest, fallback_reason: str) -> Clip:
    import av

    path = request.source.path
    try:
        with open_file(path) as container:
            stream = _video_stream(container)
            time_base = float(stream.time_base or 0)  # gone once the file is closed
            packets = [p.pts for p in container.demux(stream) if p.pts is not None]
        if not packets:
            raise _DecoderError("it holds no frame")
        pts = np.unique(np.asarray(packets, dtype=np.int64))
        times = _clean_times(pts * time_base, info.fps)
        _refuse_truncated(path, info, times)
        chosen = choose_frames(times, request)
        wanted = {int(pts[index]) for index in chosen}
        resizer = Resizer(request.size, request.resample)
        with open_file(path) as container:
            decoded = container.decode(_video_stream(container))
            found = (fit(frame, resizer) for frame in decoded if frame.pts in wanted)
            frames = collect(itertools.islice(found, len(wanted)), len(wanted))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _DecoderError(_reason(error)) from error
    if len(frames) != len(chosen):
        raise _DecoderError(f"{len(frames)} of the {len(chosen)} frames wanted can be decoded")
    return _clip(frames, times, chosen, info, fallback_reason)


def collect(frames: Iterable[np.ndarray], count: int) -> np.ndarray:
    """Put frames into one array as they come; small ones kept between large ones that come and go scatter the memory.

    Args:
        frames: at most `count`, (H, W, 3) uint8 of one size.
        count: T of the (T, H, W, 3) returned, fewer where fewer came.
    """
    kept, found = np.empty((0, 0, 0, 3), np.uint8), 0
    for frame in frames:
        if not found:
            kept = np.empty((count, *frame.shape), np.uint8)
        kept[found] = frame
        found += 1
    return kept[:found]


def fit(frame: Any, resizer: Resizer) -> np.ndarray:
    """Turn an `av.VideoFrame` into uint8 (H, W, 3) RGB of the size wanted, upright as decord has it.

    What the resizer leaves to the decoder is done here.
    """
    quarters = frame.rotation // 90 % 4
    height, width = resizer.size if resizer.size and resizer.resample == DECODER else (None, None)
    if quarters % 2:
        height, width = width, height
    pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return resizer(np.ascontiguousarray(np.rot90(pixels, quarters)))


def choose_frames(times: np.ndarray, request: ReadRequest) -> list[int]:
    """Return the indices of the frames to read among those at `times` seconds, inside the part asked for.

    Raises:
        InputError: there is none.
    """
    source = request.source
    start_s, end_s = source.start_s or 0.0, np.inf if source.end_s is None else source.end_s
    inside = np.flatnonzero((times >= start_s) & (times <= end_s))
    if not len(inside):
        raise InputError(
            f"{source.path}: has no frame between {start_s:g} and {end_s:g} s; its last is at {times[-1]:.1f} s."
        )
    return [int(inside[i]) for i in sample_indices(times[inside], request.num_frames, request.max_fps)]


def _clean_times(times: np.ndarray, fps: float) -> np.ndarray:
    """Let times start at 0, and replace by index / fps those that do not rise."""
    times = times - times[0]
    if len(times) > 1 and not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        return np.arange(len(times)) / (fps or 30.0)
    return times


def _frame_s(times: np.ndarray, info: VideoInfo) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / (info.fps or 30.0)


def _refuse_truncated(path: Path, info: VideoInfo, times: np.ndarray) -> None:
    """Raise InputError where the frames end well before the length the file declares."""
    end_s = float(times[-1]) + _frame_s(times, info)
    declared_s = info.duration_s or info.container_duration_s
    if declared_s is None or end_s >= TRUNCATED_BELOW * declared_s or declared_s - end_s < 1.0:
        return
    if info.duration_s is None:  # only the file as a whole declares a length: sound may outlast the pictures
        if _last_packet_s(path) >= TRUNCATED_BELOW * declared_s:
            return
    raise InputError(
        f"{path}: is truncated, {end_s:.1f} of the {declared_s:.1f} s it declares can be read; fetch it again."
    )


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
    frames: np.ndarray, times: np.ndarray, chosen: list[int], info: VideoInfo, fallback_reason: str | None
) -> Clip:
    frame_s = _frame_s(times, info)
    return Clip(
        frames=frames,
        timestamps_s=[round(float(times[index]), 4) for index in chosen],
        duration_s=round(float(times[-1]) + frame_s, 4),
        source_fps=info.fps or 1.0 / frame_s,
        num_source_frames=len(times),
        backend="decord" if fallback_reason is None else "pyav",
        fallback_reason=fallback_reason,
    )


def _watched(steps: Iterator[Any]) -> Iterator[Any]:
    """Run an iterator in a thread of its own and give up when it delivers nothing for `STALL_S` seconds.

    A native decoder that loops at a damaged end cannot be interrupted, only left behind.
    """
    box: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=2)  # whole frames

    def work() -> None:
        try:
            for item in steps:
                box.put(("item", item))
            box.put(("end", None))
        except BaseException as error:
            box.put(("error", error))

    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            kind, value = box.get(timeout=STALL_S)
        except queue.Empty:
            raise _DecoderError(f"decord delivered nothing for {STALL_S:g} s") from None
        if kind == "end":
            return
        if kind == "error":
            raise value
        yield value


def _reason(error: BaseException) -> str:
    """Reduce a decoder's message to its last, telling line."""
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].split("Check failed: ")[-1].strip()[:120] if lines else type(error).__name__
