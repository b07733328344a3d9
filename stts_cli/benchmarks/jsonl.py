"""The user's own questions: a .jsonl file, one question a line.

Keys: "video" (a path, from the file's own folder) and "question"; and, as far as there is something to say, "id",
"options" (a list), "answer" (a letter, an index from 0, or the text), "start" and "end" in seconds, "subtitles" (an
.srt file, or a list of [start, end, text]) and "groups" (a mapping, each value a breakdown of the result).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts_cli.benchmarks.benchmark import Benchmark, build_items, text_of
from stts_cli.benchmarks.files import DataFolder, Row, read_rows, read_srt
from stts_cli.benchmarks.items import Cue, QaItem, Source, bare_options, given_letter, letter, letters_of_text
from stts_cli.errors import InputError, suggest

KEYS = ("id", "video", "question", "options", "answer", "start", "end", "subtitles", "groups")


def open_file(path: Path) -> Benchmark:
    """Make a benchmark of a file of questions.

    Args:
        path: the .jsonl file.

    Returns:
        The benchmark; questions with options are scored as multiple choice, others by their text.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist -> a .jsonl file with one question a line -> check --bench")

    def load(folder: DataFolder, split: str) -> list[QaItem]:
        rows = [{"id": str(number), **row} for number, row in enumerate(_checked(path), start=1)]
        return build_items(path, rows, lambda row: _make(row, folder))

    return Benchmark(
        name=path.stem,
        title=str(path),
        length="",
        splits=("all",),
        load=load,
        where="your own file",
        max_new_tokens=32,
        subtitles=True,
    )


def _checked(path: Path) -> list[Row]:
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: a {type(row).__name__} -> an object with 'video' and 'question'")
        for key in row:
            if key not in KEYS:
                raise InputError(f"{path}, line {number}: unknown key '{key}'{suggest(key, KEYS)}")
    return rows


def _make(row: Row, folder: DataFolder) -> QaItem:
    video = text_of(row, "video")
    path = Path(video) if Path(video).is_absolute() else folder.roots[0] / video
    if not isinstance(row.get("options") or [], list):
        raise ValueError("'options' is no list")
    if not isinstance(row.get("groups") or {}, dict):
        raise ValueError('\'groups\' is no mapping, such as {"topic": "cats"}')
    given = [str(option) for option in row.get("options") or ()]
    options = bare_options(given)
    answer = row.get("answer")
    right: tuple[str, ...] = ()
    if answer is not None and not options:
        right = (str(answer).strip(),)
    elif isinstance(answer, int):
        right = (letter(answer, len(options)),)
    elif answer is not None:
        right = letters_of_text(str(answer), options) or letters_of_text(str(answer), given)
        right = right or (given_letter(str(answer), len(options)),)
    return QaItem(
        id=text_of(row, "id"),
        video=video,
        source=Source(path if path.exists() else folder.video(video), _number(row, "start"), _number(row, "end")),
        question=text_of(row, "question"),
        options=options,
        answer=right[0] if right else None,
        also=right[1:],
        subtitles=_cues(row.get("subtitles"), folder),
        groups={str(key): (str(value),) for key, value in (row.get("groups") or {}).items()},
    )


def _number(row: Row, key: str) -> float | None:
    return None if row.get(key) is None else float(row[key])


def _cues(given: Any, folder: DataFolder) -> tuple[Cue, ...]:
    if not given:
        return ()
    if isinstance(given, str):
        path = folder.roots[0] / given
        if not path.is_file():
            raise ValueError(f"subtitles '{given}' do not exist")
        return read_srt(path)
    return tuple(Cue(float(start), float(end), str(text)) for start, end, text in given)
