"""What is said about a video: one row of a data set in, its `Conversation` out.

Rows are {video, question, answer} in the form that `stts eval --bench FILE.jsonl` takes, or {video, conversations} in
that of LLaVA-Video, or {video, messages} with roles, with as many turns as they have. Questions with options are worded
as that evaluation words them, and answered by the letter that it takes for right.

The video always stands before the first turn. In a conversation "<video>" or "<image>" stands for it where it is a line
of its own, or the first or last word, of a user's turn, and so does a part {"type": "video"}: one such marker in the
first user's turn is left out, none is fine; several, or one in a later turn, would mean something that is not built
here and are refused. Anywhere else, and in rows with 'question', these are the user's words.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.data.items import Cue, QaItem
from stts_cli.data.own_rows import NumberedRow, kind_of
from stts_cli.data.prompts import letter_from_choices, subtitle_block
from stts_cli.errors import InputError
from stts_cli.media.source import Source

Row = dict[str, Any]
UNSUPPORTED = {
    "images": "training takes one video a row",
    "image": "training takes one video a row",
    "audios": "training takes no sound",
    "audio": "training takes no sound",
    "system": "put its words into the first user's turn",
    "tools": "training takes no tool calls",
}
FORM = "an object with 'video', 'question' and 'answer', or with 'video' and 'conversations'"
USER, MODEL = ("human", "user"), ("gpt", "assistant")
_MARKER = r"<(?:image|video)>"
_MARKERS = re.compile(rf"(?m)^[ \t]*(?:{_MARKER}[ \t]*)+(?:\n|\Z)|\A\s*(?:{_MARKER}\s*)+|(?:\s*{_MARKER})+\s*\Z")


@dataclass(frozen=True)
class Conversation:
    """What is said about a video.

    Attributes:
        turns: (what the user says, what the model should answer), in order; the video stands before the first.
        group: for breakdowns, for example the question family of the procedural world.
        subtitles: text between the video and the first user turn, where evaluation has it; mostly "".
        line: line of the file, or entry of the list or dataset, from 1; 0 for none.
        cues: timed subtitles; `heard` makes `subtitles` of those around the frames, as evaluation does.
        untrained: which of the turns, from 0, are context only: their answers take no loss.
    """

    turns: tuple[tuple[str, str], ...]
    group: str = ""
    subtitles: str = ""
    line: int = 0
    cues: tuple[Cue, ...] = ()
    untrained: frozenset[int] = frozenset()

    def tokens(self, family: Any) -> tuple[list[int], list[bool]]:
        """Return the token ids of what follows the video, and of each whether a loss is taken on it.

        Args:
            family: the model that the words are for.
        """
        ids, is_answer = family.conversation_ids(self.turns, self.subtitles)
        before = [False, *is_answer[:-1]]
        starts = itertools.accumulate(own and not last for last, own in zip(before, is_answer, strict=True))
        return ids, [own and n - 1 not in self.untrained for n, own in zip(starts, is_answer, strict=True)]

    def heard(self, timestamps_s: Sequence[float]) -> Conversation:
        """Return the conversation with the cues around these times as its subtitles.

        Args:
            timestamps_s: times of the frames in seconds.
        """
        if not self.cues:
            return self
        block = subtitle_block(QaItem("", "", Source(Path()), "", subtitles=self.cues), timestamps_s)
        return dataclasses.replace(self, subtitles=block, cues=())


def supported(row: NumberedRow) -> NumberedRow:
    """Return a row as `read_items` takes it; one that asks for what training does not do holds the error instead."""
    if not isinstance(row.fields, dict):
        return row
    fields = {key: value for key, value in row.fields.items() if value is not None}
    try:
        _check_supported(fields)
    except ValueError as error:
        return dataclasses.replace(row, fields=InputError(f"{row.where}: {error} -> correct it"))
    return dataclasses.replace(row, fields={k: v for k, v in fields.items() if k not in UNSUPPORTED})


def converse(row: NumberedRow, item: QaItem) -> Conversation:
    """Return what a row says about its video.

    Args:
        row: as `supported` returns it.
        item: the same row, read as a question.

    Raises:
        InputError: it lacks an answer, or its turns make no sense.
    """
    try:
        talk = row.fields.get("conversations", row.fields.get("messages"))
        if talk is not None:
            turns, untrained = _turns(talk)
        elif item.answer is None:
            raise InputError(f"{row.where}: field 'answer' is missing; it has {', '.join(map(str, row.fields))}.")
        else:  # of several right answers the first is trained
            turns, untrained = ((letter_from_choices(item), item.answer),), frozenset()
    except ValueError as error:
        advice = "" if " -> " in str(error) else f" -> {FORM}"
        raise InputError(f"{row.where}: {error}{advice} -> correct it") from error
    group = next((values[0] for values in item.groups.values() if values), "")
    return Conversation(turns, group, "", row.number, item.subtitles, untrained)


def _check_supported(row: Row) -> None:
    """Refuse what a row asks for and training does not do; take 'videos' with one entry for 'video'."""
    for key, instead in UNSUPPORTED.items():
        if row.get(key):
            raise ValueError(f"'{key}' is {kind_of(row[key])} -> {instead}")
    if "conversations" in row and "messages" in row:
        raise ValueError("it has both 'conversations' and 'messages' -> one of them")
    if "videos" in row and "video" not in row:
        videos = row.pop("videos")
        if not isinstance(videos, list) or len(videos) != 1:
            count = f"a list of {len(videos)}" if isinstance(videos, list) else kind_of(videos)
            raise ValueError(f"'videos' is {count} -> a list of one: training takes one video a row")
        row["video"] = videos[0]


def _turns(talk: Any) -> tuple[tuple[tuple[str, str], ...], frozenset[int]]:
    """Return the pairs of a list of {from, value} or {role, content}, and which of them take no loss."""
    if not isinstance(talk, list) or not all(isinstance(turn, dict) for turn in talk):
        raise ValueError(f"'conversations' is {kind_of(talk)} -> a list of objects with 'from' and 'value'")
    _check_speakers(talk)
    if not talk or len(talk) % 2:
        raise ValueError(f"'conversations' has {len(talk)} turns -> the user and the model in turn, the model last")
    texts, marked, untrained = [], [], set()
    for number, turn in enumerate(talk, start=1):
        if "value" not in turn and "content" not in turn:
            raise ValueError(f"turn {number} has no 'value'; it has {', '.join(map(str, turn))}")
        text = _text(turn.get("value", turn.get("content")), number)
        loss = _loss(turn, number)
        if number % 2:
            if loss:
                raise ValueError(f"turn {number} is the user's and has a loss -> only the model's turns are trained")
            marked += [number] * sum(len(re.findall(_MARKER, found[0])) for found in _MARKERS.finditer(text))
            texts.append(_MARKERS.sub("", text).strip())
        else:
            texts.append(text.strip())
            if loss is False:
                untrained.add(number // 2 - 1)
    if marked and marked != [1]:
        places = ", ".join(map(str, marked))
        raise ValueError(f"<video> or <image> stands in turn {places} -> once, in turn 1: a row is about one video")
    if 2 * len(untrained) == len(talk):
        raise ValueError("every turn of the model's is without loss -> train on at least one, or drop the row")
    return tuple(zip(texts[::2], texts[1::2], strict=True)), frozenset(untrained)


def _check_speakers(talk: list[Row]) -> None:
    for number, turn in enumerate(talk, start=1):
        who = str(turn.get("from", turn.get("role", ""))).lower()
        if who == "system":
            raise ValueError(f"turn {number} is from 'system' -> {UNSUPPORTED['system']}")
        expected = USER if number % 2 else MODEL
        if who not in expected:
            raise ValueError(f"turn {number} is from '{who}' -> {' or '.join(expected)}")


def _loss(turn: Row, number: int) -> bool | None:
    """Return whether a turn says that it is trained; None where it does not say."""
    given = {key: turn[key] for key in ("loss", "weight") if turn.get(key) is not None}
    for key, value in given.items():
        if value not in (0, 1):
            raise ValueError(f"'{key}' of turn {number} is {value!r} -> true or false, 1 or 0")
    return all(given.values()) if given else None


def _text(content: Any, number: int) -> str:
    """Return a turn's text, also where it is given in parts; a part that is the video becomes its marker."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"turn {number} says {kind_of(content)} -> a text, or a list of parts")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else kind_of(part)
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "video":
            texts.append("<video>")
        else:
            raise ValueError(f"turn {number} has a part of type '{kind}' -> 'text' and 'video' are read")
    return "\n".join(texts)
