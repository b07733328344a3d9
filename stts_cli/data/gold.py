"""Which answer a row calls right: letters, indices or texts in, one reading for the whole file out.

An answer may be an option's letter ("B", "b", "(B)", "B. red"), its index from 0 (1, "1") or its text ("red"), and some
are two of these at once: of the options 1, 2 and 3, the answer 2 is the third by its index and the second by its text.
Such a row is read as the rest of the file is: a reading must fit every row of it. Where no reading does, or where two
do and disagree, nothing is guessed. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from stts_cli.data.items import letters_of_text
from stts_cli.errors import InputError

Letters = tuple[str, ...]
READINGS = ("letter", "index", "text")
FROM_ZERO_AFTER = 10  # so many indices none of which is 0 are worth a note: they may count from 1
_ALONE = re.compile(r"\s*\(?([A-Za-z])\)?[.:)]?\s*")
_WITH_TEXT = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[.:)])\s*(\S.*)", re.DOTALL)
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Gold:
    """What a row's answer, `given`, may mean of its bare options: the letters by reading, of readings that fit."""

    where: str
    given: Any
    options: tuple[str, ...]
    letters: dict[str, Letters]


def shown(value: Any) -> str:
    """Return a value of a row as messages quote it."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain(value: Any) -> str:
    """Return the text of a text or a number, 2 and 2.0 are both "2"; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("must be a text or a number")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def open_answers(answer: Any) -> tuple[str, ...]:
    """Return the right answers to a question without options, one or a list; ValueError for anything else, or none."""
    texts = tuple(dict.fromkeys(map(plain, answer if isinstance(answer, list) else [answer])))
    if not texts or not all(texts):
        raise ValueError("must not be empty")
    return texts


def read_gold(where: str, answer: Any, options: Sequence[str], written: Sequence[str]) -> Gold:
    """Return everything the answer of a row with options may mean; ValueError where it fits in no reading.

    Args:
        where: the row, for messages.
        answer: a letter, an index, a text, or a list of several that are all right.
        options: bare texts.
        written: the same, as the row has them, with letters perhaps.
    """
    each = [_meanings(one, options, written) for one in (answer if isinstance(answer, list) else [answer])]
    letters = {
        name: tuple(dict.fromkeys(letter for one in each for letter in one[name]))
        for name in READINGS
        if each and all(name in one for one in each)
    }
    if not letters:
        last = len(options) - 1
        raise ValueError(
            f"must be an option's letter (A to {ascii_uppercase[last]}), its index from 0 (0 to {last}) or its text"
        )
    return Gold(where, answer, tuple(options), letters)


def choose_reading(golds: Sequence[Gold], notes: list[str]) -> str:
    """Return the reading in which a whole file's answers are meant; note indices that seem to count from 1.

    Args:
        golds: of every row with options and an answer, in the order of the file.
        notes: gets the note.

    Raises:
        InputError: no reading fits every row, or several do and give different answers.
    """
    fits = list(READINGS)
    for gold in golds:
        remaining = [name for name in fits if name in gold.letters]
        if not remaining:
            raise InputError(
                f"{gold.where}: answer {shown(gold.given)}: fits as {' or '.join(gold.letters)}, the rows before it as "
                f"{' or '.join(fits)}. All rows of a file must write their answers in one way."
            )
        fits = remaining
    for gold in golds:
        if len({frozenset(gold.letters[name]) for name in fits}) > 1:
            readings = ", as ".join(f"{name} it is {_quoted(gold, name)}" for name in fits)
            instead = "indices of the options, from 0" if "letter" in fits else "letters of the options"
            raise InputError(
                f"{gold.where}: answer {shown(gold.given)}: as {readings}, and every row of the file fits as "
                f"{' or '.join(fits)}. Write the {instead}."
            )
    reading = fits[0]
    if reading == "index" and len(golds) >= FROM_ZERO_AFTER and not any("A" in gold.letters["index"] for gold in golds):
        notes.append(f"{golds[0].where} and on: no answer is 0. Indices of options count from 0, not from 1.")
    return reading


def _meanings(answer: Any, options: Sequence[str], written: Sequence[str]) -> dict[str, Letters]:
    text = str(answer) if isinstance(answer, bool) else plain(answer)
    found = {
        "letter": _as_letter(text, options),
        "index": _as_index(text, len(options)),
        "text": _same_text(text, options) or _same_text(text, written) or _same_truth(text, options),
    }
    return {name: letters for name, letters in found.items() if letters}


def _as_letter(answer: str, options: Sequence[str]) -> Letters:
    alone, with_text = _ALONE.fullmatch(answer), _WITH_TEXT.fullmatch(answer)
    name = (alone[1] if alone else with_text[1] or with_text[2] if with_text else "?").upper()
    fits = alone or (with_text and name in _same_text(with_text[3], options))
    return (name,) if fits and name in ascii_uppercase[: len(options)] else ()


def _as_index(answer: str, num_options: int) -> Letters:
    index = int(answer) if re.fullmatch("[0-9]+", answer) else num_options
    return (ascii_uppercase[index],) if index < num_options else ()


def _same_text(text: str, options: Sequence[str]) -> Letters:
    """Return the letters of the options with this text; case and spaces count only where that leaves none."""
    return letters_of_text(text, options) or letters_of_text(_folded(text), [_folded(option) for option in options])


def _same_truth(text: str, options: Sequence[str]) -> Letters:
    """Return the option that says yes where the answer is true, and so on, where the options are just these two."""
    truths = [_TRUTH.get(_folded(option)) for option in options]
    if sorted(map(str, truths)) != ["False", "True"] or _folded(text) not in _TRUTH:
        return ()
    return (ascii_uppercase[truths.index(_TRUTH[_folded(text)])],)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _quoted(gold: Gold, reading: str) -> str:
    return " and ".join(f"{name} ({shown(gold.options[ord(name) - ord('A')])})" for name in gold.letters[reading])
