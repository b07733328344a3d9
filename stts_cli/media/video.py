"""Read a video file into a few frames with their times: the first stage of the path.

In: a file and a frame budget. Out: a `Clip`. A first pass over the file's packets says when each frame is shown and
where decoding can begin; a second one decodes no more than the wanted frames need, and resizes each at once, as the
model's processor does it (`resize`): few whole frames are held. Sampling is the one of the paper's base model, Molmo2
(arXiv 2603.18004, experimental setup; `sampling`).

PyAV reads. decord, which jumps within a file too, gives up a jump that takes long and returns another frame without
an error (3.4.0: 25 of 64 frames of a 30-minute 1080p file); it reads what PyAV cannot, from the first frame on.

This module knows nothing of models or tensors: normalising and cutting into patches is the family's work.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.clip import Clip
from stts_cli.media.container import VideoInfo, open_file, probe, shorten, video_stream
from stts_cli.media.resize import DECODER, Resizer
from stts_cli.media.sampling import choose_frames
from stts_cli.media.source import ReadRequest, SizedRequest, Source

STALL_S = 30.0  # a decoder that delivers no frame for this long is given up
TRUNCATED_BELOW = 0.9  # a file that holds less than this part of the length it declares is truncated
ASSUMED_FPS = 25.0  # of a file that does not say when its frames are shown, nor how many come a second
# a jump within these finds the packet that was asked for; of other files all packets are passed, few are decoded
EXACT_JUMPS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
JUMP_BEYOND = 50  # packets to pass: fewer are read faster than jumped over
# decoders that can leave out frames that no other frame is built on
LEAVE_OUT = {"h264", "mpeg2video", "mpeg4"}
REACH = 32  # packets behind a frame's own that a decoder may want before it gives the frame

Alive = Callable[[], None]


class _DecoderError(Exception):
    """One decoder could not read the file; another may."""


@dataclass(frozen=True)
class _Index:
    """A file's packets, in the order of decoding.

    Attributes:
        pts: when each is shown, in `time_base` seconds.
        is_key: whether decoding can begin there.
        is_shown: whether it is a picture to be seen.
        time_base: seconds.
        is_timed: False where packets lack times; `pts` then counts frames.
        notes: what the pass found.
    """

    pts: np.ndarray
    is_key: np.ndarray
    is_shown: np.ndarray
    time_base: float
    is_timed: bool = True
    notes: tuple[str, ...] = ()


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


def read_file(request: ReadRequest, alive: Alive = lambda: None) -> Clip:
    """Read the part of a video file that is asked for, as `read_clip` does; `Source.end_frame` is not looked at.

    `alive` is called again and again while reading goes on.
    """
    path = request.source.path
    info, reason = probe(path), request.avoid_pyav
    if not reason:
        try:
            return _read_with_pyav(info, request, alive)
        except _DecoderError as error:
            reason = f"PyAV: {error}"
    try:
        return _read_with_decord(info, request, reason)
    except _DecoderError as error:
        raise InputError(f"{path}: cannot be decoded ({reason}; {error}); it is damaged.") from error


def _read_with_pyav(info: VideoInfo, request: ReadRequest, alive: Alive) -> Clip:
    import av

    path = request.source.path
    try:
        index = _scan(path, info, alive)
        shown = np.unique(index.pts[index.is_shown])
        times = _clean_times(shown * index.time_base, info.fps)
        chosen = choose_frames(times, request)
        taken = _Frames(shown[chosen].tolist(), Fit(request, info.aspect))
        _decode(path, index, taken, alive)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _DecoderError(shorten(error)) from error
    found = [i for i, there in enumerate(taken.found) if there]
    if not found:
        raise _DecoderError(f"none of the {len(chosen)} frames wanted can be decoded")
    damage = [cut] if (cut := _truncation(path, info, times)) else []
    if missing := [times[i] for place, i in enumerate(chosen) if not taken.found[place]]:
        damage.append(f"{len(missing)} of {len(chosen)} frames cannot be decoded, the first at {missing[0]:.1f} s")
    if taken.num_corrupt:
        damage.append(
            f"{taken.num_corrupt} of {len(chosen)} frames are damaged and shown as far as they can be decoded"
        )
    chosen = [chosen[place] for place in found]
    return _clip(taken.frames[found], times, chosen, info, "pyav", index.notes, tuple(damage))


def _scan(path: Path, info: VideoInfo, alive: Alive) -> _Index:
    """Pass over a file's packets without decoding them; damage ends the pass, and what came before is used."""
    import av

    pts, is_timed, is_key, is_shown = array("q"), bytearray(), bytearray(), bytearray()
    with open_file(path) as container:
        stream = video_stream(container)
        time_base, declared = float(stream.time_base or 0), stream.frames  # gone once the file is closed
        try:
            for packet in container.demux(stream):
                if packet.size:
                    pts.append(packet.pts or 0)
                    is_timed.append(packet.pts is not None)
                    is_key.append(packet.is_keyframe)
                    is_shown.append(packet.pts is not None and not packet.is_discard)
                    alive()
        except (av.error.FFmpegError, OSError):
            pass  # `_truncation` says up to where the file was read
    if not pts:
        raise _DecoderError("it holds no frame")
    if sum(is_timed) > len(pts) // 2 and time_base:  # a frame without a time of its own is passed over
        shown = np.array(is_shown if any(is_shown) else is_timed, bool)
        return _Index(np.array(pts), np.array(is_key, bool), shown, time_base)
    number = min(declared, len(pts)) or sum(1 for _ in _all_frames(path, alive))
    if not number:
        raise _DecoderError("it holds no frame")
    fps, every = info.fps or ASSUMED_FPS, np.ones(number, bool)
    note = f"the file does not say when its frames are shown; {fps:g} a second are assumed"
    return _Index(np.arange(number), every, every, 1 / fps, is_timed=False, notes=(note,))


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
    """

    def __init__(self, request: ReadRequest, aspect: float = 1.0) -> None:
        self.request, self.aspect = request, aspect
        self._first: tuple[int, int, int, Resizer] | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """Return a frame's pixels; frames of other sizes are made as large as the first."""
        if self._first is None:
            quarters, size = frame.rotation // 90 % 4, (frame.height, round(frame.width * self.aspect))
            sized = self.request.sized(*(size[::-1] if quarters % 2 else size))
            self._first = frame.height, frame.width, quarters, Resizer(sized.size, sized.resample)
        height, width, quarters, resizer = self._first
        if resizer.size and resizer.resample == DECODER:
            height, width = resizer.size[::-1] if quarters % 2 else resizer.size
        pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
        return resizer(np.ascontiguousarray(np.rot90(pixels, quarters)))


def _decode(path: Path, index: _Index, taken: _Frames, alive: Alive) -> None:
    """Decode what is wanted, and once more with a longer run-up what did not come."""
    if not index.is_timed:
        for number, frame in enumerate(_all_frames(path, alive)):
            taken.take(frame, number)
            if not taken.missing:
                return
        return
    for frame in _some_frames(path, index, _runs(index, taken.missing), taken.missing, alive):
        taken.take(frame, frame.pts)
    if taken.missing:
        for frame in _some_frames(path, index, _runs(index, taken.missing, run_up=1, reach=REACH), None, alive):
            taken.take(frame, frame.pts)


def _runs(index: _Index, wanted: Iterable[int], *, run_up: int = 0, reach: int = 0) -> list[tuple[int, int]]:
    """Return the runs of packets that a decoder needs for the frames at these times, [first, last], rising, apart.

    Args:
        index: of the file.
        wanted: times.
        run_up: how many places where decoding can begin to go back beyond the last.
        reach: how many packets to go on behind the frame's own.
    """
    order, keys = np.argsort(index.pts, kind="stable"), np.flatnonzero(index.is_key)
    runs = []
    for pts in wanted:
        last = int(order[np.searchsorted(index.pts, pts, sorter=order)])
        before = keys[(keys <= last) & (index.pts[keys] <= pts)]
        first = int(before[max(len(before) - 1 - run_up, 0)]) if len(before) else 0
        runs.append((first, min(last + reach, len(index.pts) - 1)))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(runs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _some_frames(
    path: Path, index: _Index, runs: Iterable[tuple[int, int]], wanted: set[int] | None, alive: Alive
) -> Iterator[Any]:
    """Decode runs of packets; others are given too, but for those that are not `wanted` and that no other needs."""
    with open_file(path) as container:
        stream = video_stream(container)
        decoder = stream.codec_context
        leaves_out = wanted is not None and decoder.name in LEAVE_OUT
        packets = _Packets(container, stream, index)
        for first, last in runs:
            for packet in packets.run(first, last):
                if leaves_out:
                    decoder.skip_frame = "DEFAULT" if packet.pts in (wanted or ()) else "NONREF"
                yield from _decoded(decoder, packet, alive)
            yield from _decoded(decoder, None, alive)
            decoder.flush_buffers()


def _all_frames(path: Path, alive: Alive) -> Iterator[Any]:
    with open_file(path) as container:
        stream = video_stream(container)
        for packet in container.demux(stream):
            yield from _decoded(stream.codec_context, packet, alive)


def _decoded(decoder: Any, packet: Any, alive: Alive) -> Iterator[Any]:
    """Give a decoder one packet, or None for the end of a run; a damaged packet costs its own frames."""
    import av

    alive()
    try:
        yield from decoder.decode(packet)
    except av.error.FFmpegError:
        pass


class _Packets:
    """The packets of an open file by their number, read on or jumped to."""

    def __init__(self, container: Any, stream: Any, index: _Index) -> None:
        self.container, self.stream, self.pts = container, stream, index.pts
        self.can_jump = container.format.name in EXACT_JUMPS
        self.next, self.packets = 0, container.demux(stream)

    def run(self, first: int, last: int) -> Iterator[Any]:
        """Yield packets first to last, as far as they can be read; `first` is not behind what was read."""
        import av

        try:
            if self.can_jump and first - self.next > JUMP_BEYOND:
                self._jump(first)
            for packet in self.packets:
                if not packet.size:
                    continue
                self.next += 1
                if self.next > first:
                    yield packet
                if self.next > last:
                    return
        except (av.error.FFmpegError, OSError):
            return

    def _jump(self, number: int) -> None:
        """Go on at a packet, or at one before it."""
        self.container.seek(int(self.pts[number]), stream=self.stream)
        packets = self.container.demux(self.stream)
        packet = next(packets)
        found = np.flatnonzero(self.pts == packet.pts)
        if not len(found) or found[0] > number:  # not where it should be: pass all packets from now on
            self.can_jump, found = False, np.array([0])
            self.container.seek(int(self.pts[0]), stream=self.stream)
            packets = self.container.demux(self.stream)
            packet = next(packets)
        self.next, self.packets = int(found[0]), itertools.chain([packet], packets)


def _read_with_decord(info: VideoInfo, request: ReadRequest, reason: str) -> Clip:
    sized = request.sized(info.height, round(info.width * info.aspect))
    steps = _watched(_decord_steps(info, sized))
    times, chosen = next(steps)
    resizer = Resizer(sized.size, sized.resample)
    frames = np.stack([resizer(frame) for frame in steps])
    cut = _truncation(request.source.path, info, times)
    return _clip(frames, times, chosen, info, "decord", (f"read with decord: {reason}",), (cut,) if cut else ())


def _decord_steps(info: VideoInfo, request: SizedRequest) -> Iterator[Any]:
    """Yield (times of all frames, chosen indices), then the chosen frames (H, W, 3) one by one."""
    try:
        import decord
    except (ImportError, OSError) as error:
        raise _DecoderError(f"decord cannot be loaded: {shorten(error)}") from error
    decord.logging.set_level(decord.logging.QUIET)
    by_decoder = request.size if request.resample == DECODER else None
    height, width = by_decoder or (-1, -1)
    try:
        reader = decord.VideoReader(os.path.abspath(request.source.path), width=width, height=height, num_threads=0)
        times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(np.float64)
        times = _clean_times(times, info.fps)
    except Exception as error:
        raise _DecoderError(f"decord: {shorten(error)}") from error
    chosen = choose_frames(times, request)
    yield times, chosen
    for index in range(chosen[-1] + 1):
        try:
            frame = reader.next()
            if index not in chosen:
                continue
            frame = frame.asnumpy()
        except (Exception, StopIteration) as error:
            raise _DecoderError(f"decord at {times[index]:.1f} s: {shorten(error)}") from error
        height, width = by_decoder or frame.shape[:2]
        rows = frame.reshape(height, -1)
        # decord aligns rows to 64 pixels and, for narrow frames, takes the filling for a fourth channel
        yield np.ascontiguousarray(rows[:, : width * 3]).reshape(height, width, 3)


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
        source_fps=info.fps or 1.0 / frame_s,
        num_source_frames=len(times),
        backend=backend,
        notes=notes,
        damage=damage,
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
