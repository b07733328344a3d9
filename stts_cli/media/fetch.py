"""Bring a video that is no file into one: what an http(s) address gives, or a pipe."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from stts_cli import __version__
from stts_cli.errors import EnvironmentFailure, InputError

WEB = re.compile(r"https?://", re.IGNORECASE)
STDIN = "-"
MOST_BYTES = 8 << 30
SILENCE_S = 30.0  # a server that sends nothing for so long is given up
CHUNK = 1 << 20


def is_fetched(name: str) -> bool:
    """Return whether a name is an http(s) address or a pipe, which is brought into a file first."""
    return name == STDIN or bool(WEB.match(name))


@contextlib.contextmanager
def fetched(name: str, progress: Callable[[str], None] = lambda stage: None) -> Iterator[Path]:
    """Write what an address or standard input (`-`) gives into a temporary file, which goes at the end.

    Args:
        name: an http(s) address, or `-`.
        progress: called with what is being done.

    Raises:
        InputError: it gives nothing, or more than `MOST_BYTES`.
        EnvironmentFailure: the server cannot be reached or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="stts-") as folder:
        path = Path(folder) / _file_name(name)
        with path.open("wb") as file:
            if name == STDIN:
                if sys.stdin is None or sys.stdin.isatty():
                    raise InputError("-: standard input is a terminal; must be a video (< a.mp4).")
                size = _copy(sys.stdin.buffer, file, "standard input")
            else:
                progress("fetching the video")
                size = _download(name, file)
        if not size:
            raise InputError(f"{'standard input' if name == STDIN else name}: is empty (0 bytes); must be a video.")
        yield path


def _file_name(name: str) -> str:
    """Return a name for the temporary file: the address's own as far as it is a plain one."""
    last = unquote(urlsplit(name).path).rsplit("/", 1)[-1] if name != STDIN else ""
    return re.sub(r"[^A-Za-z0-9._ -]", "_", last)[-80:].lstrip(".") or "video"


def _copy(source: IO[bytes], target: IO[bytes], name: str) -> int:
    size = 0
    while chunk := source.read(CHUNK):
        size += len(chunk)
        if size > MOST_BYTES:
            raise InputError(f"{name}: is larger than {MOST_BYTES >> 30} GiB; must be at most that.")
        target.write(chunk)
    return size


def _download(address: str, target: IO[bytes]) -> int:
    import http.client
    from urllib import error, request

    # these handlers alone: no redirection leads to a file or to another protocol
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPRedirectHandler,
        request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor, request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    asked = request.Request(address, headers={"User-Agent": f"stts/{__version__}"})
    try:
        with opener.open(asked, timeout=SILENCE_S) as answer:
            declared = answer.headers.get("Content-Length")
            if declared and declared.isdecimal() and int(declared) > MOST_BYTES:
                raise InputError(f"{address}: is larger than {MOST_BYTES >> 30} GiB; must be at most that.")
            size = _copy(answer, target, address)
            if declared and declared.isdecimal() and size < int(declared):
                raise EnvironmentFailure(f"{address}: ended after {size} of {declared} bytes; try again.")
            return size
    except error.HTTPError as problem:
        said = f"{problem.code} {problem.reason}"
        raise InputError(f"{address}: the server answers {said}; check the address.") from problem
    except (error.URLError, http.client.HTTPException, OSError, ValueError) as problem:
        reason = getattr(problem, "reason", None) or problem
        raise EnvironmentFailure(f"{address}: cannot be fetched ({reason}).") from problem
