"""Find the frames of a file by its packets: where each is, and how few must be decoded for those that are wanted.

A first pass (`scan`) reads every packet and decodes none; a second one (`decode`) gives the decoder the runs of packets
from a key frame to a wanted frame, and leaves out on the way what no other frame is built on.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.container import ASSUMED_FPS, VideoInfo, open_file, video_stream

# a jump within these finds the packet that was asked for; of other files all packets are passed, few are decoded
EXACT_JUMPS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
JUMP_BEYOND = 50  # packets to pass: fewer are read faster than jumped over
# decoders that can leave out frames that no other frame is built on
LEAVE_OUT = {"h264", "mpeg2video", "mpeg4"}
REACH = 32  # packets behind a frame's own that a decoder may want before it gives the frame

Alive = Callable[[], None]


class Taker(Protocol):
    """Takes frames as they are decoded, and says which are still missing, by their times in the file's units."""

    @property
    def missing(self) -> set[int]:
        """The times of those that did not come yet."""

    def take(self, frame: Any, pts: int | None) -> None:
        """Keep an `av.VideoFrame` if it is wanted."""


@dataclass(frozen=True)
class Index:
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


def scan(path: Path, info: VideoInfo, alive: Alive) -> Index:
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
        raise InputError(f"{path}: holds no frame that can be read; it is truncated or damaged.")
    if sum(is_timed) > len(pts) // 2 and time_base:  # a frame without a time of its own is passed over
        shown = np.array(is_shown if any(is_shown) else is_timed, bool)
        return Index(np.array(pts), np.array(is_key, bool), shown, time_base)
    number = min(declared, len(pts)) or sum(1 for _ in _all_frames(path, alive))
    if not number:
        raise InputError(f"{path}: holds no frame that can be read; it is truncated or damaged.")
    fps, every = info.fps or ASSUMED_FPS, np.ones(number, bool)
    note = f"the file does not say when its frames are shown; {fps:g} a second are assumed"
    return Index(np.arange(number), every, every, 1 / fps, is_timed=False, notes=(note,))


def decode(path: Path, index: Index, taken: Taker, alive: Alive) -> None:
    """Decode what is wanted, and once more with a longer run-up what did not come."""
    wanted = taken.missing
    if not index.is_timed:
        last = max(wanted)
        for number, frame in enumerate(_all_frames(path, alive)):
            taken.take(frame, number)
            if number == last:
                return
        return
    for frame in _some_frames(path, index, _runs(index, wanted), wanted, alive):
        taken.take(frame, frame.pts)
    if taken.missing:
        run_up = 1 if taken.missing < wanted else len(index.pts)  # where nothing came, from the first packet on
        for frame in _some_frames(path, index, _runs(index, taken.missing, run_up=run_up, reach=REACH), None, alive):
            taken.take(frame, frame.pts)


def _runs(index: Index, wanted: Iterable[int], *, run_up: int = 0, reach: int = 0) -> list[tuple[int, int]]:
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
    path: Path, index: Index, runs: Iterable[tuple[int, int]], wanted: set[int] | None, alive: Alive
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

    def __init__(self, container: Any, stream: Any, index: Index) -> None:
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
