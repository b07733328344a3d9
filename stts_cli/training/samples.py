"""Read what a model is to be trained on: a file or a dataset of the hub in, `VideoSample`s out.

Rows are {video, question, answer} in the form that `stts eval --bench FILE.jsonl` takes, or {video, conversations} in
that of LLaVA-Video, with as many turns as they have. Questions with options are worded as that evaluation words them.
All questions about one video stand together, so that training encodes the video once for all of them (arXiv
2603.18004, training). No video is opened here.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.benchmarks.files import read_srt
from stts_cli.benchmarks.items import Cue, QaItem, Source, bare_options, given_letter, letter, letters_of_text
from stts_cli.benchmarks.prompts import letter_from_choices, subtitle_block
from stts_cli.errors import InputError

Row = dict[str, Any]
KEYS = ("video", "question", "answer", "options", "start", "end", "subtitles", "conversations")
FORM = "an object with 'video', 'question' and 'answer', or with 'video' and 'conversations'"
USER, MODEL = ("human", "user"), ("gpt", "assistant")
MAX_QUESTIONS = 8
_PLACEHOLDER = r"<(?:image|video)>"


@dataclass(frozen=True)
class Conversation:
    """What is said about a video.

    Attributes:
        turns: (what the user says, what the model should answer), in order; the video stands before the first.
        group: for breakdowns, for example the question family of the procedural world.
        subtitles: text between the video and the first user turn; mostly "".
        line: line of the file, or entry of the list or dataset, from 1; 0 for none.
        cues: timed subtitles; `heard` puts those around the frames in front of the first user turn, as evaluation does.
    """

    turns: tuple[tuple[str, str], ...]
    group: str = ""
    subtitles: str = ""
    line: int = 0
    cues: tuple[Cue, ...] = ()

    def heard(self, timestamps_s: Sequence[float]) -> Conversation:
        """Return the conversation with the cues around these times opening its first turn.

        Args:
            timestamps_s: times of the frames in seconds.
        """
        if not self.cues:
            return self
        block = subtitle_block(QaItem("", "", Source(Path()), "", subtitles=self.cues), timestamps_s)
        (asked, answer), *others = self.turns
        return dataclasses.replace(self, turns=((block + asked, answer), *others), cues=())


@dataclass(frozen=True)
class VideoSample:
    """One video, or one cut of it, with what is asked about it.

    Attributes:
        video: path of the file.
        start: leave out what comes before this time in seconds, or None.
        end: leave out what comes after this time in seconds, or None.
        conversations: at least one.
    """

    video: str
    start: float | None
    end: float | None
    conversations: tuple[Conversation, ...]


def read_samples(
    source: str, *, video_root: str | None = None, max_questions: int = MAX_QUESTIONS
) -> list[VideoSample]:
    """Read every sample of a file or a dataset.

    Args:
        source: a .jsonl file, a .json file that holds a list, or "hf:OWNER/NAME[:split]".
        video_root: folder that relative paths of videos start from; None for the file's own, or the dataset's.
        max_questions: the most conversations of one sample; a video with more becomes several samples.

    Returns:
        The samples in the order in which their videos first appear.

    Raises:
        InputError: no such source, a row that is damaged or lacks something (it names the line), or no row at all.
        EnvironmentFailure: the hub cannot be reached, or the `datasets` package is missing.
    """
    if max_questions < 1:
        raise InputError(f"{max_questions} questions a video -> at least 1 -> raise it")
    if source.startswith("hf:"):
        from stts_cli.training.hub_samples import hub_rows

        rows = hub_rows(source, video_root)
    else:
        path = Path(source)
        _check_file(path)
        rows = _file_rows(path, Path(video_root) if video_root else path.parent)
    grouped: dict[tuple[str, float | None, float | None], list[Conversation]] = {}
    for where, number, folder, row in rows:
        video, start, end, conversation = _parse(row, where, number, folder)
        grouped.setdefault((video, start, end), []).append(conversation)
    if not grouped:
        raise InputError(f"{source} holds no sample -> {FORM} a line -> check the file")
    return [
        VideoSample(*key, tuple(conversations[first : first + max_questions]))
        for key, conversations in grouped.items()
        for first in range(0, len(conversations), max_questions)
    ]


def split_held_out(
    samples: Sequence[VideoSample], num_videos: int, seed: int
) -> tuple[list[VideoSample], list[VideoSample]]:
    """Set some videos aside, with everything asked about them.

    Args:
        samples: as read.
        num_videos: how many videos are held out, 0 for none.
        seed: which ones; they depend on nothing but this, the number and the order of the videos.

    Returns:
        The samples to train on and those held out, each in their old order.

    Raises:
        InputError: nothing would be left to train on.
    """
    videos = list(dict.fromkeys(sample.video for sample in samples))
    if not 0 <= num_videos < len(videos):
        raise InputError(
            f"{num_videos} of {len(videos)} videos held out -> at least 0, and fewer than there are "
            "-> hold out fewer, or give more videos"
        )
    chosen = {videos[k] for k in np.random.default_rng(seed).permutation(len(videos))[:num_videos]}
    return [s for s in samples if s.video not in chosen], [s for s in samples if s.video in chosen]


def _check_file(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what} -> a .jsonl or .json file, hf:OWNER/NAME, or shapes -> check --data")
    if path.suffix not in (".jsonl", ".json"):
        raise InputError(f"{path} ends in '{path.suffix}' -> .jsonl, or .json with a list -> convert it")


def _file_rows(path: Path, folder: Path) -> Iterator[tuple[str, int, Path, Any]]:
    """Yield (where, number, folder of the videos, row)."""
    try:
        if path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8-sig"))
            if not isinstance(rows, list):
                raise InputError(f"{path} holds {_kind(rows)} -> a list of rows -> check the file")
            for number, row in enumerate(rows, start=1):
                yield f"{path}, entry {number}", number, folder, row
            return
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", number, folder, _load_line(line, f"{path}, line {number}")
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: no JSON ({error.msg} at column {error.colno}) -> correct it, or fetch the "
            "file again"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}) -> convert it") from error


def _load_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: no JSON ({error.msg} at column {error.colno}) -> one object a line -> correct the line"
        ) from error


def _parse(row: Any, where: str, number: int, folder: Path) -> tuple[str, float | None, float | None, Conversation]:
    """Read one row; every complaint starts with where it stands."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: {_kind(row)} -> {FORM} -> correct it")
    row = {key: value for key, value in row.items() if value is not None}
    try:
        talk = row.get("conversations", row.get("messages"))
        _check_keys(row, ("video",) if talk is not None else ("video", "question", "answer"))
        if not isinstance(row["video"], str) or not row["video"].strip():
            raise ValueError(f"'video' is {row['video']!r} -> the path of a video file")
        turns = _turns(talk) if talk is not None else ((_question(row)),)
        cues, text = _subtitles(row.get("subtitles"), folder)
        conversation = Conversation(turns, _group(row), text, number, cues)
        video = Path(row["video"].strip()).expanduser()
        return str(folder / video), _seconds(row, "start"), _seconds(row, "end"), conversation
    except ValueError as error:
        advice = "" if " -> " in str(error) else f" -> {FORM}"
        raise InputError(f"{where}: {error}{advice} -> correct it") from error


def _check_keys(row: Row, needed: Sequence[str]) -> None:
    for key in needed:
        if key not in row:
            near = difflib.get_close_matches(key, map(str, row), n=1, cutoff=0.6)
            has = f"its nearest key is '{near[0]}'" if near else f"it has {', '.join(map(str, row)) or 'nothing'}"
            raise ValueError(f"no '{key}'; {has}")
    for key in row:  # other keys are the data set's own, but a slip of the pen must not turn a choice into a question
        near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.8)
        if near and near[0] not in row:
            raise ValueError(f"unknown key '{key}'; did you mean '{near[0]}'?")


def _question(row: Row) -> tuple[str, str]:
    """Return the question as `stts eval` words it, and the reply that it takes for right."""
    given = row.get("options") or []
    if not isinstance(given, list):
        raise ValueError(f"'options' is {_kind(given)} -> a list")
    for key in ("question", "answer"):
        if isinstance(row[key], (dict, list, bool)):
            raise ValueError(f"'{key}' is {_kind(row[key])} -> a text")
    written = [str(option) for option in given]
    options = bare_options(written)
    item = QaItem("", "", Source(Path()), str(row["question"]).strip(), options)
    asked = letter_from_choices(item) if item.question else ""
    answer = row["answer"]
    if not options or not str(answer).strip():
        return asked, str(answer).strip()
    if isinstance(answer, int):
        return asked, letter(answer, len(options))
    found = letters_of_text(str(answer), options) or letters_of_text(str(answer), written)
    return asked, found[0] if found else given_letter(str(answer), len(options))


def _turns(talk: Any) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a list of {from, value} or {role, content}."""
    if not isinstance(talk, list) or not all(isinstance(turn, dict) for turn in talk):
        raise ValueError(f"'conversations' is {_kind(talk)} -> a list of objects with 'from' and 'value'")
    if not talk or len(talk) % 2:
        raise ValueError(f"'conversations' has {len(talk)} turns -> the user and the model in turn, the model last")
    texts = []
    for number, turn in enumerate(talk, start=1):
        who = str(turn.get("from", turn.get("role", ""))).lower()
        expected = USER if number % 2 else MODEL
        if who not in expected:
            raise ValueError(f"turn {number} is from '{who}' -> {' or '.join(expected)}")
        if "value" not in turn and "content" not in turn:
            raise ValueError(f"turn {number} has no 'value'; it has {', '.join(map(str, turn))}")
        text = _text(turn.get("value", turn.get("content")))
        texts.append(_without_placeholders(text) if expected is USER else text.strip())
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def _text(content: Any) -> str:
    """Return a turn's text, also where it is given in parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and part.get("text"))
    return "" if content is None else str(content)


def _without_placeholders(text: str) -> str:
    """Leave out lines and ends of "<image>" or "<video>", which stand for the video in LLaVA's data."""
    text = re.sub(rf"(?m)^[ \t]*(?:{_PLACEHOLDER}[ \t]*)+(?:\n|\Z)", "", text)
    return re.sub(rf"\A\s*(?:{_PLACEHOLDER}\s*)+|(?:\s*{_PLACEHOLDER})+\s*\Z", "", text).strip()


def _subtitles(given: Any, folder: Path) -> tuple[tuple[Cue, ...], str]:
    """Return timed cues, of an .srt file or a list of [start, end, text], or else plain text."""
    if not given:
        return (), ""
    if isinstance(given, list):
        try:
            return tuple(Cue(float(start), float(end), str(text)) for start, end, text in given), ""
        except (TypeError, ValueError) as error:
            raise ValueError("'subtitles' is a list of something else -> a list of [start, end, text]") from error
    if not isinstance(given, str):
        raise ValueError(f"'subtitles' is {_kind(given)} -> an .srt file, a list of [start, end, text], or a text")
    if not given.strip().endswith(".srt"):
        return (), given
    path = folder / given.strip()
    if not path.is_file():
        raise ValueError(f"subtitles '{path}' do not exist -> the path of an .srt file")
    return read_srt(path), ""


def _group(row: Row) -> str:
    groups = row.get("groups")
    if isinstance(groups, dict):
        return str(next(iter(groups.values()), ""))
    return str(row.get("group", ""))


def _seconds(row: Row, key: str) -> float | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{key}' is {value!r} -> a time in seconds") from error


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
