"""Read videos ahead in worker processes while the model runs, and give up on one that hangs.

In: requests. Out: results in the same order, a clip or the reason there is none. A decoder that loops in native code
cannot be interrupted, so it runs in a process that can be killed; another takes its place. No more than two clips a
worker are held. A worker imports torch when the first frame has to be resized, and nothing else of the model.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.clip import Clip
from stts_cli.media.container import probe
from stts_cli.media.pictures import holds_pictures, read_pictures
from stts_cli.media.source import ReadRequest
from stts_cli.media.video import read_file
from stts_cli.settings import Layout, LayoutRule

READY, ALIVE = "ready", "alive"
START_UP_S = 120.0  # a worker that takes longer to start is given up too
SILENCE_S = 30.0  # one that reads and shows no sign of life for so long hangs
ALIVE_EVERY_S = 1.0


@dataclass(frozen=True)
class ReadResult:
    """What came of a request."""

    clip: Clip | None
    error: str | None  # why there is no clip
    read_s: float  # seconds it took


def read_source(request: ReadRequest, alive: Callable[[], None] = lambda: None) -> Clip:
    """Read one clip here and now; with a start, its times count from there.

    Args:
        request: what to read.
        alive: called again and again while it is read.

    Raises:
        InputError: it cannot be read.
    """
    source = request.source
    if source.end_frame is not None:
        source = dataclasses.replace(source, end_s=_time_before(source.path, source.end_frame))
        request = dataclasses.replace(request, source=source)
    if source.joined:
        return _read_joined(request, alive)
    if holds_pictures(source):
        clip = read_pictures(request)
    else:
        clip = read_file(request, alive)
    if not source.start_s and source.end_s is None:
        return clip
    start_s, end_s = source.start_s or 0.0, min(source.end_s or clip.duration_s, clip.duration_s)
    times_s = [round(t - start_s, 4) for t in clip.timestamps_s]
    return dataclasses.replace(clip, timestamps_s=times_s, part_s=round(end_s - start_s, 4))


@dataclass(frozen=True)
class _ForAll:
    """The rule of frames that are as large as those of one clip of so many."""

    rule: LayoutRule
    num_frames: int

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        return self.rule(height, width, self.num_frames)


def _read_joined(request: ReadRequest, alive: Callable[[], None]) -> Clip:
    """Read several files as one clip, an equal share of the frames from each, its times going on from file to file."""
    files = [request.source.path, *request.source.joined]
    share, rest = divmod(request.num_frames, len(files))
    if not share:
        raise InputError(f"--frames {request.num_frames}: must be at least {len(files)}, one for each video.")
    size = _ForAll(request.size, request.num_frames) if callable(request.size) else request.size
    clips: list[Clip] = []
    for number, path in enumerate(files):
        source = dataclasses.replace(request.source, path=path, joined=())
        part = dataclasses.replace(request, source=source, num_frames=share + (number < rest), size=size)
        clips.append(read_source(part, alive))
        size = clips[0].frames.shape[1:3]  # a clip has one size: the first file's
    starts = [sum(clip.duration_s for clip in clips[:k]) for k in range(len(clips))]
    times = [round(start + t, 4) for start, clip in zip(starts, clips, strict=True) for t in clip.timestamps_s]
    return Clip(
        np.concatenate([clip.frames for clip in clips]),
        times,
        sum(clip.duration_s for clip in clips),
        clips[0].source_fps,
        sum(clip.num_source_frames for clip in clips),
        " and ".join(dict.fromkeys(clip.backend for clip in clips)),
        tuple(f"{path}: {note}" for path, clip in zip(files, clips, strict=True) for note in clip.notes),
        tuple(f"{path}: {note}" for path, clip in zip(files, clips, strict=True) for note in clip.damage),
    )


def read_ahead(
    requests: Sequence[ReadRequest], *, workers: int, timeout_s: float, ahead: bool = True
) -> Iterator[ReadResult]:
    """Read clips in worker processes, in order, as `Readers.read` does; processes live as long as the iterator."""
    with Readers(min(workers, len(requests))) as readers:
        yield from readers.read(requests, timeout_s=timeout_s, ahead=ahead)


class Readers:
    """Worker processes that read clips; use it in a `with`.

    Args:
        number: how many processes; they start at once. 0 reads in this one, with nothing to stop a decoder that hangs.
    """

    def __init__(self, number: int) -> None:
        self.pool = [_Worker() for _ in range(number)]

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.pool:
            worker.close()

    def read(
        self, requests: Iterable[ReadRequest], *, timeout_s: float = math.inf, ahead: bool = True
    ) -> Iterator[ReadResult]:
        """Read clips, in order.

        Args:
            requests: what to read; each is asked for when a process is free for it.
            timeout_s: seconds after which a clip is given up.
            ahead: False to hold the processes while nothing is asked of them: a clip is read when its turn comes.

        Yields:
            One result a request. A decoder that hangs or dies is stopped, and the other one tried.
        """
        if not self.pool:
            yield from map(_attempt, requests)
            return
        waiting = enumerate(requests)
        following = next(waiting, None)
        ready: dict[int, ReadResult] = {}
        index, distance = 0, 2 * len(self.pool) if ahead else 1
        while True:
            for worker in self.pool:  # let none run far ahead of the one that is waited for
                if worker.index is None and following is not None and following[0] < index + distance:
                    worker.start(*following)
                    following = next(waiting, None)
            if index in ready:
                yield ready.pop(index)
                index += 1
            elif any(worker.index is not None for worker in self.pool):
                ready |= _collect(self.pool, timeout_s)
            else:
                return


def _collect(pool: list[_Worker], timeout_s: float) -> dict[int, ReadResult]:
    """Wait until a busy worker has delivered, died or run out of time; return what there is."""
    busy = [worker for worker in pool if worker.index is not None]
    ends = {worker: worker.ends(timeout_s) for worker in busy}
    nearest = min(end.time for end in ends.values()) - time.monotonic()
    delivered = connection.wait([worker.pipe for worker in busy], timeout=max(nearest, 0))
    results: dict[int, ReadResult] = {}
    for worker in busy:
        index, took = worker.index, time.monotonic() - worker.started
        assert index is not None
        end = ends[worker]
        if worker.pipe in delivered:
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                if (failed := worker.stop("the process that decoded it died", try_other=True)) is not None:
                    results[index] = ReadResult(None, failed, took)
                continue
            if message in (READY, ALIVE):
                worker.last_sign = time.monotonic()
                if message == READY:  # starting up is not the video's time
                    worker.is_ready, worker.started = True, worker.last_sign
                continue
            results[index] = message
            worker.index = None
        elif time.monotonic() >= end.time:
            if (failed := worker.stop(end.reason, end.try_other)) is not None:
                results[index] = ReadResult(None, failed, took)
    return results


class _End(NamedTuple):
    """When a worker is stopped."""

    time: float  # of the monotonic clock
    reason: str
    try_other: bool  # whether the other decoder may do better; not where the time for both is over


class _Worker:
    """A process that reads one clip at a time."""

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.is_ready = False
        self.index: int | None = None
        self.request: ReadRequest | None = None
        self.started = self.last_sign = 0.0

    def start(self, index: int, request: ReadRequest) -> None:
        self.index, self.request = index, request
        self.started = self.last_sign = time.monotonic()
        try:
            self.pipe.send(request)
        except OSError:
            pass  # it died; the next wait sees that

    def ends(self, timeout_s: float) -> _End:
        """Return when it is to be stopped if nothing comes, and why."""
        if not self.is_ready:
            return _End(self.started + START_UP_S, f"the decoder's process did not start in {START_UP_S:g} s", False)
        whole = _End(self.started + timeout_s, f"the decoder did not finish in {timeout_s:g} s", False)
        silent = _End(self.last_sign + SILENCE_S, f"the decoder gave nothing for {SILENCE_S:g} s", True)
        return min(whole, silent)

    def stop(self, reason: str, try_other: bool) -> str | None:
        """Stop the process and let another read the same with decord; return the error where that is of no use."""
        index, request, was_ready = self.index, self.request, self.is_ready
        self.close()
        self._open()
        if index is None or request is None:
            return reason
        if not (was_ready and try_other) or request.avoid_pyav or request.source.pictures:
            return f"{request.avoid_pyav}; with decord {reason}" if request.avoid_pyav else reason
        self.start(index, dataclasses.replace(request, avoid_pyav=reason))
        return None

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Any) -> None:
    """Answer requests until the other end is closed."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch: the model's process needs the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process decides
    said = 0.0

    def alive() -> None:
        nonlocal said
        if time.monotonic() - said > ALIVE_EVERY_S:
            said = time.monotonic()
            pipe.send(ALIVE)

    try:
        pipe.send(READY)
        while True:
            pipe.send(_attempt(pipe.recv(), alive))
    except (EOFError, OSError):
        return


def _attempt(request: ReadRequest, alive: Callable[[], None] = lambda: None) -> ReadResult:
    started = time.perf_counter()
    try:
        request.source.prepare()
        started = time.perf_counter()  # writing a file is not reading it
        clip, error = read_source(request, alive), None
    except InputError as problem:
        clip, error = None, str(problem)
    except Exception as problem:
        clip, error = None, f"{request.source.path}: {type(problem).__name__}: {problem}"[:300]
    return ReadResult(clip, error, time.perf_counter() - started)


def _time_before(path: Path, frame: int) -> float:
    """Return a time between a frame and the one before it."""
    fps = probe(path).fps
    if not fps:
        raise InputError(f"{path}: does not say how many frames a second it has; it cannot be cut at frame {frame}.")
    return (frame - 0.5) / fps
