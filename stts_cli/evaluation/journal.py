"""Keep every answer as soon as it is there: one JSON line each, behind a first line that holds the run's settings.

A run that was stopped, also by SIGKILL in the middle of a write, goes on behind its last whole line. A line that is
broken costs its own answer only: it is counted, named, asked again, and kept in a file of its own. A folder that holds
a run with other settings, or answers without any, is refused: an answer of another keep ratio must never pass for one
of this run. Arms may be added: a later settings line holds them too. Several processes write a file each; together they
are the run, however many there were.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from stts_cli.errors import InputError, writing
from stts_cli.text import to_json

Row = dict[str, Any]  # a line of the file
Line = tuple[bytes, Row | None]  # as written, and as read: None where it is neither settings nor an answer
MERGED, PART, BAD = "samples.jsonl", "samples.rank*.jsonl", "samples.bad.jsonl"
FIRST = b'{"config": '  # what a file starts with
# what the summary of a run reads of every row, and of one without an error
FIELDS = {"arm", "id", "video", "segment", "groups", "correct"}
ANSWERED = {"counted", "parsed", "chance", "visual_tokens", "flops", "peak_bytes"}


class Journal:
    """The answers of a run; a folder that holds a run with other settings, or something else, is refused.

    `config` holds the run's settings, plain JSON data; without a folder answers stay in memory; `rank` is this
    process's.
    """

    def __init__(self, folder: Path | None, config: Mapping[str, Any], rank: int = 0) -> None:
        self.rows: dict[tuple[str, str], Row] = {}  # by arm and item
        self.notes: list[str] = []  # what was wrong with the files, a sentence each
        self._bad: list[bytes] = []
        self._config: Row = json.loads(json.dumps(config))
        self._file: IO[bytes] | None = None
        self._folder = folder
        if folder is None:
            return
        self._path = folder / PART.replace("*", str(rank))
        self._lock = FileLock(f"{self._path}.lock", timeout=0)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for path in [folder / MERGED, *sorted(folder.glob(PART))]:
            if path.exists():
                self._take(path)

    def open(self) -> None:
        """Start to write, or refuse a folder that another run writes to; all processes have read by now."""
        if self._folder is None:
            return
        with writing(self._path):
            self._file = self._path.open("a+b")
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(
                f"{self._folder}: another run writes there; wait for it, or name another --output."
            ) from None
        except (OSError, NotImplementedError):
            pass  # a file system without locks
        lines = _read(self._path)
        with writing(self._path):
            self._file.truncate(sum(len(text) for text, _ in lines))
        if _config_of(lines) != self._config:
            self._write({"config": self._config})

    def append(self, row: Row) -> None:
        """Add an answer, with "arm" and "id"; it is with the system, out of reach of a kill, when this returns."""
        self._write(row)
        self.rows[row["arm"], row["id"]] = row

    def is_done(self, arm: str, item: str) -> bool:
        """Return whether an answer is there; one that failed is tried again."""
        row = self.rows.get((arm, item))
        return row is not None and not row.get("error")

    def close(self) -> None:
        """Stop writing; the file stays."""
        if self._file:
            file, self._file = self._file, None
            self._lock.release()
            with writing(self._path):
                file.close()

    def merge(self, rows: Iterable[Row]) -> None:
        """Write all answers of a finished run, in their order, into one file and delete the processes' own."""
        self.close()
        if self._folder is None:
            return
        part = self._folder / f".{MERGED}.part"
        with writing(self._folder / MERGED):
            if self._bad:
                with (self._folder / BAD).open("ab") as file:
                    file.writelines(line.rstrip(b"\n") + b"\n" for line in self._bad)
            part.write_text("".join(to_json(row) + "\n" for row in ({"config": self._config}, *rows)), encoding="utf-8")
            os.replace(part, self._folder / MERGED)
            for path in self._folder.glob(f"{PART}*"):  # with their locks
                path.unlink()

    def _write(self, row: Row) -> None:
        if self._file:
            with writing(self._path):
                self._file.write(to_json(row).encode() + b"\n")
                self._file.flush()

    def _take(self, path: Path) -> None:
        """Add the answers of a file, which must be of a run with these settings."""
        lines = _read(path)
        rows = [row for _, row in lines if row is not None and "config" not in row]
        bad = {number: text for number, (text, row) in enumerate(lines, 1) if row is None}
        config = _config_of(lines)
        if config is not None:
            _check_same(config, self._config, path.parent)
        elif lines:
            raise InputError(
                f"{path}:1: holds no settings of a run of stts eval, nor does a line below; {len(rows)} answers there "
                "cannot be checked against this run. Put the line back, or name another --output."
            )
        self.rows |= {(row["arm"], row["id"]): row for row in rows}
        self._bad += bad.values()
        if bad:
            where = ", ".join(map(str, [*bad][:10])) + (", ..." if len(bad) > 10 else "")
            self.notes.append(
                f"{path}:{where}: {len(bad)} of {len(lines)} lines are neither settings nor answers; what they held is "
                f"asked again, and they are kept in {BAD}"
            )


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a run in a folder that has other settings; more arms are none."""
    known, arms = there.get("arms", {}), here.get("arms", {})
    for name in known:
        if name not in arms:
            raise InputError(
                f"{folder}: holds a run with the arm {name} too, and arms may be added, not left out; "
                "name it in --compare again, or name another --output."
            )
    old, new = dict(_flat(there)), dict(_flat({**here, "arms": {name: arms[name] for name in known}}))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise InputError(
                f"{folder}: holds a run with {key} {old.get(key)!r}, this one has {new.get(key)!r}; "
                "change the setting back, or name another --output."
            )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read(path: Path) -> list[Line]:
    """Return a file's lines but the last one of a process's own file that was cut while it was written."""
    with path.open("rb") as file:
        texts = list(file)
    if texts and not texts[-1].endswith(b"\n") and path.name != MERGED:
        if len(texts) > 1 or FIRST.startswith(texts[0][: len(FIRST)]):
            texts.pop()
    return [(text, _parse(text)) for text in texts]


def _parse(text: bytes) -> Row | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    if "config" in row:
        return row if isinstance(row["config"], dict) and isinstance(row["config"].get("arms"), dict) else None
    whole = row.keys() >= FIELDS and (row.get("error") or row.keys() >= ANSWERED)
    return row if whole and isinstance(row["arm"], str) and isinstance(row["id"], str) else None


def _config_of(lines: Iterable[Line]) -> Row | None:
    """Return a file's last settings, which hold for all its rows; None where there are none."""
    configs = [row["config"] for _, row in lines if row is not None and "config" in row]
    return configs[-1] if configs else None
