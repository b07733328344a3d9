"""The user's own questions: a .jsonl, .json or .csv file as a benchmark; questions.py says what its rows may hold."""

from __future__ import annotations

from pathlib import Path

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem
from stts_cli.data.own_rows import own_rows
from stts_cli.data.questions import read_items
from stts_cli.errors import InputError
from stts_cli.evaluation.benchmarks.benchmark import Benchmark


def open_file(path: Path) -> Benchmark:
    """Make a benchmark of a file of questions.

    Args:
        path: the file.

    Returns:
        The benchmark; questions with options are scored as multiple choice, others by their text.
    """
    return Benchmark(
        name=path.stem,
        title=str(path),
        length="",
        splits=("all",),
        load=lambda folder, split: _load(path, folder),
        where="your own file",
        max_new_tokens=32,
        subtitles=True,
    )


def _load(path: Path, folder: DataFolder) -> list[QaItem]:
    rows = own_rows(path)
    items: dict[str, QaItem] = {}
    for row, item in zip(rows, read_items(rows, folder.own, folder.notes), strict=True):
        if isinstance(item, InputError):
            raise item
        if item.id in items:
            raise InputError(f"{row.where}: id '{item.id}': must be unique; a row before has it.")
        items[item.id] = item
    if not items:
        raise InputError(f"{path}: holds no question: must hold an object with 'video' and 'question' a row.")
    unanswered = sum(item.answer is None for item in items.values())
    if unanswered:
        folder.notes.append(f"{path}: {unanswered} of {len(items)} questions have no answer; they are not scored.")
    return list(items.values())
