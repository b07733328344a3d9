"""What a row of a user's own file asks: `NumberedRow`s in, `QaItem`s out, the same for `stts eval` and `finetune`.

Fields are "video" and "question", and as far as there is something to say "id", "options", "answer", "start", "end",
"subtitles" and "groups". All times in a row, those of its subtitles too, count from the start of the video file; in the
item, and in what the model sees, the cues count from "start", as the frames do. null, "" and [] are no value.
gold.py says how answers are read.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from stts_cli.data.gold import Gold, choose_reading, open_answers, plain, read_gold, shown
from stts_cli.data.items import Cue, QaItem, bare_options
from stts_cli.data.rows import NumberedRow, Row, kind_of
from stts_cli.data.subtitles import SUFFIXES, cut, read_subtitles
from stts_cli.data.times import read_time
from stts_cli.errors import InputError
from stts_cli.media.source import Source

KEYS = ("id", "video", "question", "options", "answer", "start", "end", "subtitles", "groups")
TURNS = ("conversations", "messages")
_SUBTITLES = "the path of an .srt or .vtt file, or a list of [start, end, text]"
_UNSORTED = "subtitles are out of order (rows like it: {}); they are sorted."
_ALL_CUT = (
    "no subtitle lies between start and end (rows like it: {}). Times of subtitles count from the start of the video "
    "file."
)


def read_items(
    rows: Sequence[NumberedRow], locate: Callable[[str], Path], notes: list[str], *, more_keys: Sequence[str] = ()
) -> list[QaItem | InputError]:
    """Read one file's rows as questions: an item a row, or what is wrong with that row.

    Args:
        rows: of one file.
        locate: path, as a row has it -> where that file is.
        notes: gets what was guessed, put right or not read.
        more_keys: further fields that are the caller's own; with "conversations" or "messages" among them a row that
            has one of these needs no question.

    Raises:
        InputError: the answers of the rows are not written in one way.
    """
    reader = _Reader(locate, notes, (*KEYS, *more_keys))
    items = [reader.read(index, row) for index, row in enumerate(rows)]
    reading = choose_reading(list(reader.golds.values()), notes)
    for index, gold in reader.golds.items():
        item, (answer, *also) = items[index], gold.letters[reading]
        assert isinstance(item, QaItem)
        items[index] = replace(item, answer=answer, also=tuple(also))
    reader.report()
    return items


@dataclass
class _Reader:
    locate: Callable[[str], Path]
    notes: list[str]
    keys: tuple[str, ...]
    golds: dict[int, Gold] = field(default_factory=dict)
    files: dict[Path, tuple[Cue, ...]] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    noted: dict[str, list[str]] = field(default_factory=lambda: {_UNSORTED: [], _ALL_CUT: []})
    first: str = ""

    def read(self, index: int, row: NumberedRow) -> QaItem | InputError:
        """Read a row, all but the answer where that is one of its options; keep that for later."""
        if isinstance(row.fields, InputError):
            return row.fields
        try:
            if not isinstance(row.fields, dict):
                raise ValueError(f"{kind_of(row.fields)}: must be an object with 'video' and 'question'.")
            fields = {key: value for key, value in row.fields.items() if value is not None}
            self._check_keys(fields)
            self.first = self.first or row.where
            return self._item(index, row, fields)
        except ValueError as error:
            return InputError(f"{row.where}: {error}")

    def report(self) -> None:
        """Note what was not read or put right, each once for the whole file."""
        if self.unread:
            names = ", ".join(f"'{name}' ({count})" for name, count in sorted(self.unread.items()))
            self.notes.append(f"{self.first} and on: fields that are not read, with their rows: {names}.")
        self.notes += [f"{rows[0]}: {text.format(len(rows))}" for text, rows in self.noted.items() if rows]

    def _check_keys(self, fields: Row) -> None:
        has_turns = any(key in fields and key in self.keys for key in TURNS)
        for key in ("video",) if has_turns else ("video", "question"):
            if key not in fields:
                near = difflib.get_close_matches(key, map(str, fields), n=1, cutoff=0.6)
                has = f"its nearest is '{near[0]}'" if near else f"it has {', '.join(map(str, fields)) or 'none'}"
                raise ValueError(f"field '{key}' is missing; {has}.")
        for key in fields:
            if key not in self.keys and (meant := _meant(str(key), self.keys)) and meant not in fields:
                raise ValueError(f"field '{key}' is unknown; did you mean '{meant}'?")
            if key not in self.keys or (has_turns and key in ("question", "options", "answer")):
                self.unread[str(key)] += 1

    def _item(self, index: int, row: NumberedRow, fields: Row) -> QaItem:
        video = _field(fields, "video", _video)
        start_s, end_s = _field(fields, "start", _time), _field(fields, "end", _time)
        if end_s is not None and end_s <= (start_s or 0.0):
            raise ValueError(f"end {shown(fields['end'])}: must be greater than the start, {start_s or 0.0:g} s.")
        written = _field(fields, "options", _options) or ()
        options = bare_options(written)
        right: tuple[str, ...] = ()
        if not options:
            right = _field(fields, "answer", open_answers) or ()
        elif "answer" in fields:
            golds = self.golds
            golds[index] = _field(fields, "answer", lambda given: read_gold(row.where, given, options, written))
        return QaItem(
            id=_field(fields, "id", plain) or str(index + 1),
            video=video,
            source=Source(self.locate(video), start_s, end_s),
            question=_field(fields, "question", _text) or "",
            options=options,
            answer=right[0] if right else None,
            also=right[1:],
            subtitles=self._subtitles(row, fields, start_s, end_s),
            groups=_field(fields, "groups", _groups) or {},
        )

    def _subtitles(self, row: NumberedRow, fields: Row, start_s: float | None, end_s: float | None) -> tuple[Cue, ...]:
        cues: list[Cue] = _field(fields, "subtitles", self._cues) or []
        ordered = sorted(cues, key=lambda cue: cue.start_s)
        inside = cut(ordered, start_s, end_s)
        if ordered != cues:
            self.noted[_UNSORTED].append(row.where)
        if cues and not inside:
            self.noted[_ALL_CUT].append(row.where)
        return inside

    def _cues(self, given: Any) -> list[Cue]:
        if given == "":
            return []
        if isinstance(given, list):
            return [_entry("entry", number, each, _cue) for number, each in enumerate(given, start=1)]
        if not isinstance(given, str) or not given.strip().lower().endswith(SUFFIXES):
            raise ValueError(f"must be {_SUBTITLES}")
        path = self.locate(given.strip())
        if not path.is_file():
            raise ValueError(f"{path} does not exist: must be {_SUBTITLES}")
        if path not in self.files:
            self.files[path] = read_subtitles(path, self.notes)
        return list(self.files[path])


def _field(fields: Row, key: str, read: Callable[[Any], Any]) -> Any:
    """Return a field as `read` makes it, None where there is none; an error names the field and what it holds."""
    if key not in fields:
        return None
    try:
        return read(fields[key])
    except (ValueError, InputError) as error:  # the latter of a file that the field names, a whole sentence
        end = "" if isinstance(error, InputError) else "."
        raise ValueError(f"{key} {shown(fields[key])}: {error}{end}") from error


def _text(value: Any) -> str:
    text = plain(value)
    if not text:
        raise ValueError("must not be empty")
    return text


def _video(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be the path of a video file")
    return value.strip()


def _time(value: Any) -> float | None:
    return None if value == "" else read_time(value)


def _options(value: Any) -> tuple[str, ...]:
    if value in ("", []):
        return ()
    if not isinstance(value, list):
        raise ValueError(f"is {kind_of(value)}: must be a list of texts or numbers")
    if len(value) > len(ascii_uppercase):
        raise ValueError(f"are {len(value)}: must be at most {len(ascii_uppercase)}, a letter each")
    return tuple(_entry("option", number, each, _text) for number, each in enumerate(value, start=1))


def _entry(name: str, number: int, value: Any, read: Callable[[Any], Any]) -> Any:
    """Return an entry of a list as `read` makes it; an error names the entry and what it holds."""
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{name} {number} is {shown(value)}: {error}") from error


def _cue(given: Any) -> Cue:
    try:
        start, end, text = (given[key] for key in ("start", "end", "text")) if isinstance(given, dict) else given
    except (KeyError, TypeError, ValueError):
        raise ValueError("must be [start, end, text]") from None
    cue = Cue(read_time(start), read_time(end), " ".join(_text(text).split()))
    if cue.end_s < cue.start_s:
        raise ValueError("the end must not be before the start")
    return cue


def _groups(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError('must be an object, such as {"topic": "cats"}')
    groups = {str(name): each if isinstance(each, list) else [each] for name, each in value.items()}
    return {name: tuple(map(_text, each)) for name, each in groups.items()}


@lru_cache(maxsize=1024)
def _meant(key: str, known: tuple[str, ...]) -> str:
    """Return the known field that an unknown one is very near to, or ""."""
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.8)), "")
