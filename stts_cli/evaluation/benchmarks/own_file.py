"""The user's own questions: a .jsonl, .json or .csv file as a benchmark; questions.py says what its rows may hold."""

from pathlib import Path

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem
from stts_cli.data.questions import read_items
from stts_cli.data.rows import own_rows
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, collect


def open_file(path: Path) -> Benchmark:
    """Make a benchmark of a file; questions with options are scored as multiple choice, others by their text."""
    return Benchmark(
        name=path.stem,
        title=str(path),
        splits=("all",),
        load=lambda folder, split: _load(path, folder),
        where="your own file",
        max_new_tokens=32,
        subtitles=True,
    )


def _load(path: Path, folder: DataFolder) -> list[QaItem]:
    rows = own_rows(path)
    items = collect(path, zip((row.where for row in rows), read_items(rows, folder.own, folder.notes), strict=True))
    unanswered = sum(item.answer is None for item in items)
    if unanswered:
        folder.notes.append(f"{path}: {unanswered} of {len(items)} questions have no answer; they are not scored.")
    return items
