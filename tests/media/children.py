"""Read files in processes of their own, which may crash, hang or eat memory; in a module that a process imports."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.clip import Clip
from stts_cli.media.inputs import split_words
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest

MOST_S = 20.0
MOST_BYTES = 2 << 30
IMPORTED = ["av", "decord", "PIL.Image", "torch", "stts_cli.media.video", "tests.media.children"]


@dataclass
class Outcome:
    """What came of a file.

    Attributes:
        clips: (T, H, W, 3), times in seconds, length in seconds, notes, damage of each video that was read.
        error: the line of an InputError.
        bug: what else happened: a traceback, a signal, a timeout.
        said: what was written to standard output and standard error.
        peak_bytes: that the process grew by.
    """

    clips: list[tuple[tuple[int, ...], list[float], float, tuple[str, ...], tuple[str, ...]]] = field(
        default_factory=list
    )
    error: str = ""
    bug: str = ""
    said: str = ""
    peak_bytes: int = 0


def read_each(words: Sequence[str | Path], most_s: float = MOST_S) -> list[Outcome]:
    """Read what each word names as `stts ask` does, a process each, two at a time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda word: _watch(context, str(word), most_s), words))


def _watch(context: Any, word: str, most_s: float) -> Outcome:
    with tempfile.NamedTemporaryFile(mode="r", errors="replace") as said:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_read, args=(word, theirs, said.name), daemon=True)
        process.start()
        theirs.close()
        try:
            outcome: Outcome = ours.recv() if ours.poll(most_s) else Outcome(bug=f"nothing in {most_s:g} s")
        except EOFError:
            process.join()
            outcome = Outcome(bug=f"died with {process.exitcode}")
        process.kill()
        process.join()
        outcome.said = said.read()
    return outcome


def _read(word: str, pipe: Any, said: str) -> None:
    target = os.open(said, os.O_WRONLY)
    os.dup2(target, 1)
    os.dup2(target, 2)
    pages, resident = (int(number) for number in Path("/proc/self/statm").read_text().split()[:2])
    page = resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages * page + 3 * MOST_BYTES,) * 2)  # for the machine's sake
    outcome = Outcome()
    try:
        for named in split_words([word])[0]:
            outcome.clips.append(_summary(read_source(ReadRequest(named.source, 4, 2.0, (24, 32)))))
    except InputError as error:
        outcome.error = str(error)
    except BaseException:
        outcome.bug = traceback.format_exc()
    outcome.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident * page
    pipe.send(outcome)


def _summary(clip: Clip) -> Any:
    assert clip.frames.dtype == np.uint8
    return clip.frames.shape, clip.timestamps_s, clip.duration_s, clip.notes, clip.damage
