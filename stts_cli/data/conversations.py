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
from typing import TYPE_CHECKING, Any

from stts_cli.data.gold import shown
from stts_cli.data.items import Cue, QaItem
from stts_cli.data.prompts import letter_from_choices, subtitle_block
from stts_cli.data.rows import NumberedRow, Row
from stts_cli.errors import InputError

if TYPE_CHECKING:
    from stts_cli.families.base import Family

_ONE_VIDEO = "training takes one video a row; leave it out."
UNSUPPORTED = {
    "images": _ONE_VIDEO,
    "image": _ONE_VIDEO,
    "audios": "training takes no sound; leave it out.",
    "audio": "training takes no sound; leave it out.",
    "system": "training takes no system turn; put its words into the first user's turn.",
    "tools": "training takes no tool calls; leave them out.",
}
FORM = "an object with 'video', 'question' and 'answer', or with 'video' and 'conversations'"
USER, MODEL = ("human", "user"), ("gpt", "assistant")
_MARKER = r"<(?:image|video)>"
_MARKERS = re.compile(rf"(?m)^[ \t]*(?:{_MARKER}[ \t]*)+(?:\n|\Z)|\A\s*(?:{_MARKER}\s*)+|(?:\s*{_MARKER})+\s*\Z")


@dataclass(frozen=True)
class Conversation:
    """What is said about a video, which stands before the first turn."""

    turns: tuple[tuple[str, str], ...]  # (what the user says, what the model should answer), in order
    group: str = ""  # for breakdowns, for example the question type of the procedural world
    subtitles: str = ""  # text between the video and the first user turn, where evaluation has it; mostly ""
    line: int = 0  # line of the file, or entry of the list or dataset, from 1; 0 for none
    cues: tuple[Cue, ...] = ()  # `with_subtitles` makes text of those around the frames, as evaluation does
    untrained: frozenset[int] = frozenset()  # turns, from 0, that are context only: their answers take no loss

    def tokens(self, family: Family) -> tuple[list[int], list[bool]]:
        """Return the token ids of what follows the video, and of each whether a loss is taken on it."""
        ids, is_answer = family.conversation_ids(self.turns, self.subtitles)
        before = [False, *is_answer[:-1]]
        starts = itertools.accumulate(own and not last for last, own in zip(before, is_answer, strict=True))
        return ids, [own and n - 1 not in self.untrained for n, own in zip(starts, is_answer, strict=True)]

    def with_subtitles(self, timestamps_s: Sequence[float]) -> Conversation:
        """Return the conversation with the cues around these times, in seconds, as its subtitles."""
        if not self.cues:
            return self
        return dataclasses.replace(self, subtitles=subtitle_block(self.cues, timestamps_s), cues=())


def supported(row: NumberedRow) -> NumberedRow:
    """Return a row as `read_items` takes it; one that asks for what training does not do holds the error instead."""
    if not isinstance(row.fields, dict):
        return row
    fields = {key: value for key, value in row.fields.items() if value is not None}
    for key, instead in UNSUPPORTED.items():
        if fields.pop(key, None):
            return _with_error(row, f"{key} {shown(row.fields[key])}: {instead}")
    if "conversations" in fields and "messages" in fields:
        return _with_error(row, "'conversations' and 'messages': must be one of them; leave the other out.")
    if "videos" in fields and "video" not in fields:
        videos = fields.pop("videos")
        if not isinstance(videos, list) or len(videos) != 1:
            return _with_error(row, f"videos {shown(videos)}: must be a list of one; training takes one video a row.")
        fields["video"] = videos[0]
    return dataclasses.replace(row, fields=fields)


def converse(row: NumberedRow, item: QaItem) -> Conversation:
    """Return what a row, as `supported` returns it, says about its video; `item` is the same row, read as a question.

    Raises:
        InputError: it lacks an answer, or its turns make no sense.
    """
    given = row.fields.get("conversations", row.fields.get("messages"))
    if given is None and item.answer is None:
        raise InputError(f"{row.where}: field 'answer' is missing; it has {', '.join(map(str, row.fields))}.")
    turns: tuple[tuple[str, str], ...]
    if given is None:  # of several right answers the first is trained
        turns, untrained = ((letter_from_choices(item), str(item.answer)),), frozenset[int]()
    else:
        try:
            turns, untrained = _pairs(given)
        except ValueError as error:
            raise InputError(f"{row.where}: {error}") from error
    group = next((values[0] for values in item.groups.values() if values), "")
    return Conversation(turns, group, "", row.number, item.subtitles, untrained)


def _with_error(row: NumberedRow, what: str) -> NumberedRow:
    return dataclasses.replace(row, fields=InputError(f"{row.where}: {what}"))


def _pairs(given: Any) -> tuple[tuple[tuple[str, str], ...], frozenset[int]]:
    """Return the pairs of a list of {from, value} or {role, content}, and which of them take no loss."""
    if not isinstance(given, list) or not all(isinstance(turn, dict) for turn in given):
        raise ValueError(f"conversations {shown(given)}: must be a list of objects with 'from' and 'value'.")
    for number, turn in enumerate(given, start=1):
        _check_speaker(turn, number)
    if not given or len(given) % 2:
        raise ValueError(f"conversations: {len(given)} turns; must be the user and the model in turn, the model last.")
    texts = [_text(turn, number) for number, turn in enumerate(given, start=1)]
    losses = [_loss(turn, number) for number, turn in enumerate(given, start=1)]
    runs = [(number, run) for number, text in enumerate(texts, start=1) if number % 2 for run in _MARKERS.findall(text)]
    marked = [number for number, run in runs for _ in re.findall(_MARKER, run)]
    if marked and marked != [1]:
        places = ", ".join(map(str, marked))
        raise ValueError(f"<video> or <image> in turn {places}: must stand once, in turn 1; a row is about one video.")
    untrained = frozenset(k for k, loss in enumerate(losses[1::2]) if loss is False)
    if 2 * len(untrained) == len(given):
        raise ValueError("conversations: no turn of the model's has a loss; must be one at least, or drop the row.")
    asked = [_MARKERS.sub("", text).strip() for text in texts[::2]]
    return tuple(zip(asked, map(str.strip, texts[1::2]), strict=True)), untrained


def _check_speaker(turn: Row, number: int) -> None:
    who = str(turn.get("from", turn.get("role", ""))).lower()
    if who == "system":
        raise ValueError(f"turn {number}: {UNSUPPORTED['system']}")
    expected = USER if number % 2 else MODEL
    if who not in expected:
        raise ValueError(f"turn {number} from '{who}': must be from {' or '.join(expected)}.")


def _loss(turn: Row, number: int) -> bool | None:
    """Return whether a turn says that it is trained; None where it does not say."""
    given = {key: turn[key] for key in ("loss", "weight") if turn.get(key) is not None}
    for key, value in given.items():
        if value not in (0, 1):
            raise ValueError(f"turn {number}, {key} {shown(value)}: must be true or false, 1 or 0.")
    loss = all(given.values()) if given else None
    if loss and number % 2:
        raise ValueError(f"turn {number}: the user's turn must have no loss; only the model's turns are trained.")
    return loss


def _text(turn: Row, number: int) -> str:
    """Return a turn's text, also where it is given in parts; a part that is the video becomes its marker."""
    if "value" not in turn and "content" not in turn:
        raise ValueError(f"turn {number}: field 'value' is missing; it has {', '.join(map(str, turn))}.")
    content = turn.get("value", turn.get("content"))
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"turn {number} {shown(content)}: must be a text, or a list of parts.")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "video":
            texts.append("<video>")
        else:
            raise ValueError(f"turn {number}, part {shown(part)}: must be of type 'text' or 'video'.")
    return "\n".join(texts)
