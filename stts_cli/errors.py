"""Say what went wrong in one line, and with which exit code.

Every error a user can cause or meet is an `SttsError`; `cli.py` prints its text and exits with its `exit_code`.
Anything else that escapes is a bug (exit 1). Messages read: what was given -> what is allowed -> what to do. Standard
library only.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

# how safetensors and torch.save say that a disk is full or a folder read-only; they raise no OSError
_NOT_WRITTEN = ("I/O error", "(os error", "inline_container", "No space left", "Read-only file system")


class SttsError(Exception):
    """An error a user can act on, told in one line."""

    exit_code = 2


class InputError(SttsError):
    """The input is wrong: a file, a flag, a preset or a name."""

    exit_code = 2


class EnvironmentFailure(SttsError):
    """The surroundings are wrong: a missing package, no network, too little memory, a part not built yet."""

    exit_code = 3


class Interrupted(SttsError):
    """The user stopped a run that can go on later."""

    exit_code = 130


def install_command(extra: str = "") -> str:
    """Return the command that installs stts from a clone; on PyPI the name `stts` is another project's.

    Args:
        extra: an extra of pyproject.toml to install with it; "" for none.

    Returns:
        The command, to be run in the clone's folder.
    """
    return f"pip install '.[{extra}]'" if extra else "pip install ."


def install_hint(extra: str = "") -> str:
    """Return what to do about a missing package, as the end of a message."""
    return f"in a clone of stts: {install_command(extra)}"


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn a failure to write, of the system or of a library, into its message.

    Args:
        path: what is written, for a failure that does not name a file itself.

    Raises:
        EnvironmentFailure: it cannot be written.
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
    """Return a hint that names the known word nearest to the given one.

    Args:
        given: the word that is not known.
        known: the words that are.

    Returns:
        "; did you mean 'x'?" for a near match, otherwise "; known: a, b, c".
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"
