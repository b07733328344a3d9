"""Run several jobs at once, for questions that a server answers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def run_jobs(jobs: Iterable[Callable[[], _T]], at_once: int) -> Iterator[_T]:
    """Run jobs, so many at once, and yield what each gave as it comes; one at a time runs in this thread.

    The next job is asked for when there is room for it. A job that raises ends the run here; Ctrl-C too, and neither
    waits for the others, whose threads end with the process.
    """
    if at_once == 1:
        yield from (job() for job in jobs)
        return
    ended: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def run(job: Callable[[], _T]) -> None:
        try:
            ended.put((job(), None))
        except BaseException as error:  # raised again where it is waited for
            ended.put((None, error))

    def take() -> _T:
        found, error = ended.get()
        if error is not None:
            raise error
        return found  # type: ignore[return-value]

    running = 0
    for job in jobs:
        if running == at_once:
            yield take()
            running -= 1
        threading.Thread(target=run, args=(job,), daemon=True).start()
        running += 1
    for _ in range(running):
        yield take()
