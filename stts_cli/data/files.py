"""Find a benchmark's files in a folder however it was unpacked, and read its rows.

In: folders. Out: rows as dicts, paths of videos. Everyone unpacks differently, so a video is looked for in the usual
sub-folders, doubled ones too, and under several extensions; a file that is not there is told with everything that was
tried. pyarrow (the `eval` extra) is needed only for parquet.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from stts_cli.errors import EnvironmentFailure, InputError, install_hint

Row = dict[str, Any]
EXTENSIONS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
FOLDERS = ("", "videos", "video", "data")
ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tar.part*", "*.tar.gz.part*", "*_part_*.tar.gz")


class DataFolder:
    """One or more folders that together hold a benchmark.

    Args:
        *roots: folders, searched in order.
        name: the benchmark, for messages.
        where: where its files can be had, for messages.
    """

    def __init__(self, *roots: Path, name: str, where: str) -> None:
        self.roots = roots
        self.name = name
        self.where = where
        self.notes: list[str] = []  # what a loader guessed, put right or left out
        self._listed: dict[Path, frozenset[str]] = {}

    def find(self, *patterns: str) -> Path:
        """Return the first file or folder that matches a pattern.

        Args:
            *patterns: globs under a root, the likeliest first.

        Raises:
            InputError: there is none; it says what was looked for, where, and where to get it.
        """
        found = self.find_all(*patterns)
        if found:
            return found[0]
        looked = ", ".join(str(root) for root in self.roots)
        raise InputError(f"{self.name}: none of {', '.join(patterns)} is in {looked} -> get it: {self.where}")

    def find_all(self, *patterns: str) -> list[Path]:
        """Return what matches the first pattern that matches anything, sorted; [] for nothing."""
        for pattern in patterns:
            for root in self.roots:
                found = sorted(root.glob(pattern))
                if found:
                    return found
        return []

    def rows(self, *patterns: str) -> tuple[Path, list[Row]]:
        """Read a table that may be cut into several files.

        Args:
            *patterns: globs under a root, the likeliest first.

        Returns:
            The first file, and the rows of all files beside it that match.

        Raises:
            InputError: there is none, or one is damaged.
        """
        first = self.find(*patterns)
        pieces = [path for path in self.find_all(*patterns) if path.parent == first.parent]
        return first, [row for path in pieces for row in read_rows(path)]

    def video(self, name: str, *folders: str) -> Path:
        """Return where a video is, or where it is expected when it is not there.

        Args:
            name: file name with or without extension, possibly with folders in front.
            *folders: this benchmark's own sub-folders, tried before the usual ones.
        """
        stem = name if Path(name).suffix not in EXTENSIONS else str(Path(name).with_suffix(""))
        names = dict.fromkeys([name, *(stem + extension for extension in EXTENSIONS)])
        for root in self.roots:
            for folder in (*folders, *FOLDERS):
                for doubled in (folder, f"{folder}/{Path(folder).name}") if folder else ("",):
                    for candidate in names:
                        path = root / doubled / candidate
                        if path.name in self._names(path.parent):
                            return path
        expected = name if Path(name).suffix in EXTENSIONS else name + EXTENSIONS[0]
        return self.roots[0] / (folders[0] if folders else FOLDERS[1]) / expected

    def own(self, name: str) -> Path:
        """Return where a file that a user's row names is: the path from the first root, or as `video` finds it."""
        path = self.roots[0] / Path(name).expanduser()
        found = path if path.exists() else self.video(name)
        return found if found.exists() else path

    def archives(self) -> list[Path]:
        """Return archives that lie in the folders, which may not be unpacked yet."""
        return sorted({path for root in self.roots for pattern in ARCHIVES for path in root.glob(f"**/{pattern}")})

    def _names(self, folder: Path) -> frozenset[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(path.name for path in folder.iterdir())
            except OSError:
                self._listed[folder] = frozenset()
        return self._listed[folder]


def read_rows(path: Path) -> list[Row]:
    """Read a table: parquet, jsonl, csv, or a json list.

    Args:
        path: the file; its ending says what it is.

    Returns:
        One dict a row.

    Raises:
        InputError: the file is damaged, or not what its ending says.
        EnvironmentFailure: pyarrow is needed and missing.
    """
    try:
        if path.suffix == ".parquet":
            return _read_parquet(path)
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                return list(csv.DictReader(file))
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({_first_line(error)}): half downloaded? -> fetch it again") from error
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path} holds a {type(rows).__name__} -> a list of rows -> check that it is the right file")
    return rows


def read_json(path: Path) -> Any:
    """Read a json file.

    Args:
        path: the file.

    Raises:
        InputError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({_first_line(error)}): half downloaded? -> fetch it again") from error


def _read_parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFailure(
            f"{path.name} is parquet and pyarrow is not installed -> {install_hint('eval')}"
        ) from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(_first_line(error)) from error


def column(row: Row, key: str, path: Path) -> Any:
    """Return a row's value.

    Args:
        row: from `read_rows`.
        key: the column.
        path: the file, for the message.

    Raises:
        InputError: the row has no such column.
    """
    if key not in row:
        raise InputError(f"{path}: no column '{key}'; it has {', '.join(map(str, row))} -> is it the right file?")
    return row[key]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
