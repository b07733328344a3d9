"""Read videos ahead in worker processes while the model runs, and give up on one that hangs.

In: requests. Out: results in the same order, a clip or the reason there is none. A decoder that loops in native code
cannot be interrupted, so it runs in a process that can be killed; another takes its place. No more than two clips a
worker are held. A worker imports torch when the first frame has to be resized, and nothing else of the model.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.resize import Resizer
from stts_cli.media.source import ReadRequest
from stts_cli.media.video import Clip, choose_frames, fit, open_file, probe, read_file

READY = "ready"
START_UP_S = 120.0  # a worker that takes longer to start is given up too


@dataclass(frozen=True)
class ReadResult:
    """What came of a request."""

    clip: Clip | None
    error: str | None  # why there is no clip
    read_s: float  # seconds it took


def read_source(request: ReadRequest) -> Clip:
    """Read one clip here and now; with a start, its times count from there.

    Raises:
        InputError: it cannot be read.
    """
    source = request.source
    if source.end_frame is not None:
        source = dataclasses.replace(source, end_s=_time_before(source.path, source.end_frame))
        request = dataclasses.replace(request, source=source)
    clip = _read_folder(request) if source.path.is_dir() else read_file(request)
    if not source.start_s:
        return clip
    return dataclasses.replace(clip, timestamps_s=[round(t - source.start_s, 4) for t in clip.timestamps_s])


def read_ahead(
    requests: Sequence[ReadRequest], *, workers: int, timeout_s: float, ahead: bool = True
) -> Iterator[ReadResult]:
    """Read clips in worker processes, in order.

    Args:
        requests: what to read.
        workers: how many processes; 0 reads in this one, with nothing to stop a decoder that hangs.
        timeout_s: seconds after which a clip is given up.
        ahead: False to hold the processes while nothing is asked of them: a clip is read when its turn comes.

    Yields:
        One result a request.
    """
    if workers < 1:
        for request in requests:
            yield _attempt(request)
        return
    pool = [_Worker() for _ in range(min(workers, len(requests)))]
    waiting = deque(enumerate(requests))
    ready: dict[int, ReadResult] = {}

    def start_idle(index: int) -> None:
        """Give idle workers the next requests, but let none run far ahead of the one that is waited for."""
        for worker in pool:
            if worker.index is None and waiting and waiting[0][0] < index + (2 * len(pool) if ahead else 1):
                worker.start(*waiting.popleft())

    try:
        for index in range(len(requests)):
            start_idle(index)
            while index not in ready:
                ready |= _collect(pool, timeout_s)
                start_idle(index)
            yield ready.pop(index)
    finally:
        for worker in pool:
            worker.close()


def _collect(pool: list[_Worker], timeout_s: float) -> dict[int, ReadResult]:
    """Wait until a busy worker has delivered, died or run out of time; return what there is."""
    busy = [worker for worker in pool if worker.index is not None]
    limits = {worker: timeout_s if worker.is_ready else START_UP_S for worker in busy}
    nearest = min(worker.started + limit for worker, limit in limits.items()) - time.monotonic()
    delivered = connection.wait([worker.pipe for worker in busy], timeout=max(nearest, 0))
    results: dict[int, ReadResult] = {}
    for worker in busy:
        index, took = worker.index, time.monotonic() - worker.started
        assert index is not None
        if worker.pipe in delivered:
            try:
                message = worker.pipe.recv()
                if message == READY:  # starting up is not the video's time
                    worker.is_ready, worker.started = True, time.monotonic()
                    continue
                results[index] = message
                worker.index = None
            except (EOFError, OSError):
                results[index] = ReadResult(None, "the process that decoded it died", took)
                worker.restart()
        elif took >= limits[worker]:
            results[index] = ReadResult(None, f"the decoder did not finish in {limits[worker]:g} s", took)
            worker.restart()
    return results


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
        self.started = 0.0

    def start(self, index: int, request: ReadRequest) -> None:
        self.index, self.started = index, time.monotonic()
        try:
            self.pipe.send(request)
        except OSError:
            pass  # it died; the next wait sees that

    def restart(self) -> None:
        self.close()
        self._open()

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Any) -> None:
    """Answer requests until the other end is closed."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch: the model's process needs the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process decides
    try:
        pipe.send(READY)
        while True:
            pipe.send(_attempt(pipe.recv()))
    except (EOFError, OSError):
        return


def _attempt(request: ReadRequest) -> ReadResult:
    started = time.perf_counter()
    try:
        request.source.prepare()
        started = time.perf_counter()  # writing a file is not reading it
        clip, error = read_source(request), None
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


def _read_folder(request: ReadRequest) -> Clip:
    """Read a folder of numbered jpg frames as a video of `folder_fps` frames a second."""
    import av

    folder, fps = request.source.path, request.source.folder_fps
    files = sorted(_pictures(folder), key=lambda path: int(path.stem))
    if not files:
        raise InputError(f"{folder}: holds no numbered .jpg frames; check the folder.")
    times = np.arange(len(files)) / fps
    chosen = choose_frames(times, request)
    frames: list[np.ndarray] = []
    for index in chosen:
        try:
            with open_file(files[index]) as container:
                picture = next(container.decode(video=0))
            if not frames:
                resizer = Resizer(request.sized(picture.height, picture.width).size, request.resample)
            frames.append(fit(picture, resizer))
        except (av.error.FFmpegError, OSError, ValueError, IndexError, StopIteration) as error:
            raise InputError(f"{files[index]}: cannot be read as a picture; must be a whole JPEG file.") from error
    times_s = [round(float(times[index]), 4) for index in chosen]
    return Clip(np.stack(frames), times_s, len(files) / fps, fps, len(files), "pyav")


def _pictures(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg") and path.stem.isdigit()]
