"""Read a file with decord, from its first frame to the last that is wanted: for what PyAV cannot read.

It does not jump: decord gives up a jump that takes long and returns another frame without an error.
"""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stts_cli.media.container import DecoderError, shorten
from stts_cli.media.resize import DECODER
from stts_cli.media.source import SizedRequest

STALL_S = 30.0  # a decoder that delivers no frame for this long is given up
# decord cannot be kept from following playlists, and its FFmpeg may see one where PyAV's, which can, sees a video
_PLAYLIST = re.compile(rb"#EXTM3U|ffconcat version|<MPD|c=IN IP", re.IGNORECASE)
_PROBED = 1 << 20  # bytes that FFmpeg looks at to tell what a file is

Choose = Callable[[np.ndarray], tuple[np.ndarray, list[int]]]


def steps(request: SizedRequest, choose: Choose) -> Iterator[Any]:
    """Yield what `choose` returns, then the frames that it chose, (H, W, 3) uint8, one by one.

    Args:
        request: what to read.
        choose: gets the times of all frames in seconds and returns them, cleaned, with the indices wanted.

    Raises:
        DecoderError: decord cannot be loaded, fails, or delivers nothing for `STALL_S` seconds.
    """
    return _watched(_steps(request, choose))


def _steps(request: SizedRequest, choose: Choose) -> Iterator[Any]:
    try:
        import decord
    except (ImportError, OSError) as error:
        raise DecoderError(f"decord cannot be loaded: {shorten(error)}") from error
    decord.logging.set_level(decord.logging.QUIET)
    with request.source.path.open("rb") as file:
        if _PLAYLIST.search(file.read(_PROBED)):
            raise DecoderError("it holds what may name other files, which decord would open")
    by_decoder = request.size if request.resample == DECODER else None
    height, width = by_decoder or (-1, -1)
    try:
        reader = decord.VideoReader(os.path.abspath(request.source.path), width=width, height=height, num_threads=0)
        times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(np.float64)
    except Exception as error:
        raise DecoderError(f"decord: {shorten(error)}") from error
    times, chosen = choose(times)
    yield times, chosen
    for index in range(chosen[-1] + 1):
        try:
            frame = reader.next()
            if index not in chosen:
                continue
            frame = frame.asnumpy()
        except (Exception, StopIteration) as error:
            raise DecoderError(f"decord at {times[index]:.1f} s: {shorten(error)}") from error
        height, width = by_decoder or frame.shape[:2]
        rows = frame.reshape(height, -1)
        # decord aligns rows to 64 pixels and, for narrow frames, takes the filling for a fourth channel
        yield np.ascontiguousarray(rows[:, : width * 3]).reshape(height, width, 3)


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
            raise DecoderError(f"decord delivered nothing for {STALL_S:g} s") from None
        if kind == "end":
            return
        if kind == "error":
            raise value
        yield value
