"""Long work on stderr: what is going on and, where it is known how much there is, a bar with the time left.

Nothing moves where stderr is no terminal, or in a process that is not its launcher's first.
"""

from __future__ import annotations

import os
import time
from types import TracebackType

from rich import progress as bars

from stts_cli.evaluation.ranks import RANK
from stts_cli.report.terminal import Screen, print_note

LINE_EVERY_S = 60.0  # of work that goes on for hours, as an evaluation
SPEED_OVER_S = 600.0  # the time left follows from the speed of the last minutes
WAITING = (bars.SpinnerColumn(), bars.TextColumn("{task.description} ...", markup=False))
COUNTING = (
    bars.TextColumn("{task.description}", markup=False),
    bars.BarColumn(),
    bars.MofNCompleteColumn(),
    bars.TimeElapsedColumn(),
    bars.TimeRemainingColumn(),
    bars.TextColumn("{task.fields[figures]}", markup=False),
)


class Progress:
    """What is going on; to be entered. `is_live` says whether a bar is shown, `quiet` shows nothing.

    Where stderr is no terminal, a line says how much is done every `line_every_s` seconds; None for no lines.
    """

    def __init__(self, *, quiet: bool = False, line_every_s: float | None = None) -> None:
        console = Screen(stderr=True)
        self._speaks = not quiet and all(os.environ.get(name, "0") == "0" for name in RANK)
        self.is_live = self._speaks and console.is_terminal
        self._bar = bars.Progress(
            console=console, transient=True, disable=not self.is_live, speed_estimate_period=SPEED_OVER_S
        )
        self._task = self._bar.add_task("", total=None, figures="")
        self._line_every_s, self._last_line_s = line_every_s, time.monotonic()

    def __enter__(self) -> Progress:
        """Show the bar."""
        self._bar.start()
        return self

    def stop(self) -> None:
        """Take the bar away before its work is done: other text follows."""
        self._bar.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self.stop()

    def __call__(self, what: str, done: int = 0, total: int | None = None, figures: str = "") -> None:
        """Say in a few words what is going on, and how much of a total is done if that is known."""
        self._bar.columns = COUNTING if total else WAITING
        if done < self._bar.tasks[0].completed:  # other work has begun: its speed is its own
            self._bar.reset(self._task, figures=figures)
        self._bar.update(self._task, description=what, completed=done, total=total, figures=figures)
        if total and self._line_every_s and not self.is_live and self._speaks:
            now = time.monotonic()
            if now - self._last_line_s >= self._line_every_s:
                self._last_line_s = now
                print_note(f"{done} of {total}, {what}")

    def say(self, text: str) -> None:
        """Print a line above the bar; a launcher's other processes do not."""
        if self._speaks:
            print_note(text)
