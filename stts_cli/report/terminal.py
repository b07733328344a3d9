"""Where text leaves for a terminal: one way to stdout, one to stderr, both free of what could steer a terminal.

File names, answers, names of groups and arms come from data and are shown as they are: they are never read as rich's
markup, and control characters among them are replaced. Every line, table and progress bar goes through here. No torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from stts_cli.errors import EnvironmentFailure
from stts_cli.text import printable, to_json

Document = dict[str, Any]  # what --json prints; reports are drawn from it
CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE ended, such as one before `| head`


def print_lines(*lines: str) -> None:
    """Write lines to stdout; EnvironmentFailure where that fails."""
    with _to_stdout():
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def print_piece(text: str) -> None:
    """Write a piece of text to stdout at once; EnvironmentFailure where that fails."""
    with _to_stdout():
        sys.stdout.write(printable(text))


def print_json(document: Any) -> None:
    """Write plain data to stdout as JSON; EnvironmentFailure where that fails."""
    with _to_stdout():
        sys.stdout.write(to_json(document, indent=2) + "\n")


def print_error(line: str) -> None:
    """Write a line to stderr; a newline in it is replaced too."""
    with contextlib.suppress(OSError):  # nobody reads it
        sys.stderr.write(f"{printable(line).replace(chr(10), ' ')}\n")
        sys.stderr.flush()


def print_note(line: str) -> None:
    """Write a line to stderr behind the program's name, as `print_error` does."""
    print_error(f"stts: {line}")


def plain_table(*headings: str, no_wrap: bool = False) -> Table:
    """Return an empty table of labels, and figures to their right; with `no_wrap` only labels fold."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", overflow="fold", no_wrap=no_wrap)
    return table


class Screen(Console):
    """rich's console, on which text is text."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, every segment of text made printable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def show(self, *parts: RenderableType) -> None:
        """Print tables and lines, which are not broken; EnvironmentFailure where stdout cannot be written."""
        with _to_stdout():
            for part in parts:
                self.print(part, soft_wrap=isinstance(part, str))

    def on_broken_pipe(self) -> None:
        """Leave it to `show`."""
        raise BrokenPipeError


@contextlib.contextmanager
def _to_stdout() -> Iterator[None]:
    """End quietly where nobody reads on, as behind `| head`."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # what is left in the buffer must not fail again at the interpreter's end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(CLOSED_PIPE) from None
        raise EnvironmentFailure(f"stdout: cannot be written ({error.strerror}).") from error
