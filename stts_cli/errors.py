"""Say what went wrong in one line, and with which exit code.

Every error a user can cause or meet is an `SttsError`; `cli.py` prints its text and exits with its `exit_code`.
Anything else that escapes is a bug (exit 1). One grammar: `--keep-ratio 2.0: must be greater than 0 and at most 1.`,
which is the subject (a flag, file:line, a key) with its value, what is wrong, what to do. Standard library only.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

# how safetensors and torch.save say that a disk is full or a folder read-only; they raise no OSError
_NOT_WRITTEN = ("I/O error", "(os error", "inline_container", "No space left", "Read-only file system")


class SttsError(Exception):
    """An error a user can act on, said in one line."""

    exit_code = 2


class InputError(SttsError):
    """The input is wrong: a file, a flag, a preset or a name."""


class EnvironmentFailure(SttsError):
    """The surroundings are wrong: a missing package, no network, too little memory."""

    exit_code = 3


class Interrupted(SttsError):
    """The user stopped a run that can go on later."""

    exit_code = 130


def install_command(extra: str = "") -> str:
    """Return the command that installs stts with an extra from a clone; on PyPI `stts` is another project."""
    return f"pip install '.[{extra}]'" if extra else "pip install ."


def install_hint(extra: str = "") -> str:
    """Return what to do about a missing package, as the end of a message."""
    return f"in a clone of stts: {install_command(extra)}"


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn a failure to write, of the system or of a library, into its message, an EnvironmentFailure.

    Args:
        path: what is written, for a failure that does not name a file itself.
    """
    try:
        yield
    except SttsError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if not isinstance(error, OSError) and not any(words in text for words in _NOT_WRITTEN):
            raise
        where = getattr(error, "filename", None) or path
        raise EnvironmentFailure(f"{where}: cannot be written ({getattr(error, 'strerror', None) or text}).") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was missing, on a GPU or not."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def suggest(given: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown word: "; did you mean 'x'?" or, if none is near, "; known: a, b."."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}."
