"""Read rows: of a user's own .jsonl, .json or .csv file, each with where it stands, and of benchmarks' files.

A .json file holds a list of objects. A .csv file has a header; its empty cells are left out, "options", "subtitles",
"groups" and "answer" may hold JSON (a cell that begins with a bracket), and columns option0, option1, ... are options.
Benchmarks also come as parquet, which pyarrow (the `eval` extra) reads, and as nested JSON.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stts_cli.data.gold import shown
from stts_cli.errors import EnvironmentFailure, InputError, install_hint

Row = dict[str, Any]  # as a file holds it: a JSON object, or a record of a table
SUFFIXES = (".jsonl", ".json", ".csv")
_OPTION = re.compile(r"option_?([0-9]+)")


@dataclass(frozen=True)
class NumberedRow:
    """A row as it stands in its file."""

    where: str  # file and line, or entry of a .json file, for messages
    number: int  # of the line or entry, from 1
    fields: Any  # the object; another value where it is none, or the error of a row that cannot be read


def is_own_file(name: str) -> bool:
    """Say whether a name is that of a file of rows, by its ending."""
    return name.lower().endswith(SUFFIXES)


def own_rows(path: Path, instead: str = "") -> list[NumberedRow]:
    """Read every row of a file, by its ending; blank lines are none.

    Raises:
        InputError: there is no such file, or it cannot be read; `instead` says what the caller takes beside a file.
    """
    if not path.is_file() or not is_own_file(path.name):
        what = "is a folder" if path.is_dir() else "ends otherwise" if path.is_file() else "does not exist"
        raise InputError(f"{path}: {what}: must be a file that ends in .jsonl, .json or .csv{instead}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {error.reason} at byte {error.start}: must be UTF-8; save it as that.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    read = {".jsonl": _lines, ".json": _entries, ".csv": _records}[path.suffix.lower()]
    return list(read(path, text))


def read_rows(path: Path) -> list[Row]:
    """Read a benchmark's table, parquet or as `own_rows` does.

    Raises:
        InputError: the file is damaged, or not what its ending says.
        EnvironmentFailure: pyarrow is needed and missing.
    """
    try:
        if path.suffix == ".parquet":
            return _read_parquet(path)
        rows = [row.fields for row in own_rows(path)]
        for error in rows:
            if isinstance(error, InputError):
                raise error
    except InputError as error:
        raise InputError(f"{error} If the file is half downloaded, fetch it again.") from error
    return rows


def read_json(path: Path) -> Any:
    """Read a benchmark's JSON of any form; InputError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        what = first_line(error)
        raise InputError(f"{path}: {what}: must be JSON. If the file is half downloaded, fetch it again.") from error


def flatten(tree: Mapping[str, Any] | Iterable[Row], *names: str) -> Iterator[Row]:
    """Yield the rows of nested JSON objects, each with the keys above it and its "number" in its list, from 0.

    Args:
        tree: objects in objects, as deep as there are names; inside a list of rows, or one row.
        *names: fields that the keys become, the outermost first.
    """
    if names and isinstance(tree, Mapping):
        for key, branch in tree.items():
            yield from ({**row, names[0]: key} for row in flatten(branch, *names[1:]))
        return
    for number, row in enumerate([tree] if isinstance(tree, Mapping) else tree):
        yield {**row, "number": number}


def first_line(error: BaseException) -> str:
    """Return what an error says first, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def kind_of(value: Any) -> str:
    """Name the sort of a JSON value, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _read_parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFailure(f"{path}: needs pyarrow, which is not installed; {install_hint('eval')}.") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}).") from error


def _lines(path: Path, text: str) -> Iterator[NumberedRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _row(path, number, partial(_json, line, "a JSON object a line"))


def _entries(path: Path, text: str) -> Iterator[NumberedRow]:
    try:
        rows = _json(text, "JSON, a list of objects")
    except ValueError as error:
        line = f":{error.__cause__.lineno}" if isinstance(error.__cause__, json.JSONDecodeError) else ""
        raise InputError(f"{path}{line}: {error}") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds {kind_of(rows)}: must be a list of objects.")
    for number, row in enumerate(rows, start=1):
        yield NumberedRow(f"{path}, entry {number}", number, row)


def _records(path: Path, text: str) -> Iterator[NumberedRow]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        for name, count in Counter(header).items():
            if count > 1 or not name:
                raise InputError(f"{path}:1: header {shown(name)}: must be a name of its own.")
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _row(path, line, partial(_fields, header, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{line}: {error}: must be comma-separated values, with double quotes.") from error


def _fields(header: list[str], cells: list[str]) -> Row:
    """Return a record as the object that a .jsonl file would hold."""
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells: must be {len(header)}, as in the header.")
    row: Row = {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}
    for name in ("options", "subtitles", "groups", "answer"):
        if name in row and row[name].lstrip()[0] in "[{":
            try:
                row[name] = _json(row[name], "JSON, as it begins")
            except ValueError as error:
                raise ValueError(f"{name} {shown(row[name])}: {error}") from error
    columns = sorted((int(match[1]), name) for name in header if (match := _OPTION.fullmatch(name)))
    options = [row.pop(name, None) for _, name in columns]
    while options and options[-1] is None:
        options.pop()
    if options and "options" in row:
        raise ValueError(f"options {shown(row['options'])}: must be empty where columns hold the options.")
    return row | ({"options": options} if options else {})


def _row(path: Path, line: int, read: Callable[[], Any]) -> NumberedRow:
    where = f"{path}:{line}"
    try:
        return NumberedRow(where, line, read())
    except ValueError as error:
        return NumberedRow(where, line, InputError(f"{where}: {error}"))


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at column {error.colno}): must be {what}.") from error
    except ValueError as error:  # of `_object`
        raise ValueError(f"{error}: must be {what}.") from error


def _object(pairs: list[tuple[str, Any]]) -> Row:
    """Refuse a key that stands twice, of which Python would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {shown(twice)} stands twice")
    return found
