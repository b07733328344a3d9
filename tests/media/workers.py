"""Reader processes that hang, die or take their time; in a module of its own, which a process imports as it starts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stts_cli.media import reader


def hang(folder: Path) -> None:
    """Never come back, and leave a mark of it."""
    (folder / "one hangs").touch()
    time.sleep(10_000)


def has_one_hung(folder: Path) -> bool:
    return (folder / "one hangs").exists()


def late_once_hanging(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the reader's time stand still until a worker hangs, so that no other is given up, however slow it is."""
    now = SimpleNamespace(monotonic=lambda: 1000.0 * has_one_hung(folder), perf_counter=time.perf_counter)
    monkeypatch.setattr(reader, "time", now)


def serve_badly(pipe: Any) -> None:
    pipe.send(reader.READY)
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        path = request.source.path
        if path.name == "hangs":
            hang(path.parent)
        if path.name == "dies" or (path.name == "dies once" and not request.avoid_pyav):
            os._exit(9)
        pipe.send(reader.ReadResult(None, f"read {path.name} {request.avoid_pyav}".strip(), 0.0))


def serve_in_silence(pipe: Any) -> None:
    pipe.send(reader.READY)
    while True:
        request = pipe.recv()
        if not request.avoid_pyav:
            hang(request.source.path.parent)
        pipe.send(reader.ReadResult(None, request.avoid_pyav, 0.0))


def serve_and_tell(pipe: Any) -> None:
    pipe.send(reader.READY)
    while True:
        try:
            path = pipe.recv().source.path
        except EOFError:
            return
        with (path.parent / "log").open("a") as file:
            file.write(f"{path.name} ")
        if path.name == "slow":
            time.sleep(2)
        pipe.send(reader.ReadResult(None, path.name, 0.0))


def serve_all_but_two(pipe: Any) -> None:
    pipe.send(reader.READY)
    while True:
        request = pipe.recv()
        if request.source.path.name == "two.mp4":
            hang(request.source.path.parent)
        pipe.send(reader._attempt(request))
