"""One question about one video: the form every benchmark's rows are brought into.

Benchmarks write their options with and without letters, and their answers as letters, indices, digits in a string or
the option's whole text. All of that ends here: a `QaItem` has bare options and a letter. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase

from stts_cli.media.source import Source

_LABEL = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*")


@dataclass(frozen=True)
class Cue:
    """One subtitle: text shown from `start_s` to `end_s`, seconds from the start of the video."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class QaItem:
    """One question."""

    id: str  # unique within the benchmark
    video: str  # its name; questions of one video are drawn together in the statistics
    source: Source  # where the frames come from
    question: str  # without options
    options: tuple[str, ...] = ()  # bare texts in order, or () for an open question
    answer: str | None = None  # a letter with options, else the right text; None where the benchmark keeps it to itself
    also: tuple[str, ...] = ()  # further letters that are right (the right text is listed twice)
    subtitles: tuple[Cue, ...] = ()  # in the order of time
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by breakdown, the values it counts for
    guess: float | None = None  # probability of a blind guess being right; None where that cannot be said

    @property
    def letters(self) -> str:
        """The letters of the options, "" for an open question."""
        return ascii_uppercase[: len(self.options)]

    @property
    def chance(self) -> float | None:
        """What a blind guess gets on average."""
        return self.guess if self.guess is not None else 1 / len(self.options) if self.options else None

    @property
    def right(self) -> tuple[str, ...]:
        """Every right answer."""
        return () if self.answer is None else (self.answer, *self.also)


def bare(option: str) -> str:
    """Return an option without its letter: "A. red", "A) red" and "(A) red" are all "red"."""
    return _LABEL.sub("", option, count=1).strip()


def bare_options(options: Sequence[str]) -> tuple[str, ...]:
    """Strip the letters where every option carries the one that its place gives it, else only outer spaces."""
    return tuple(bare(option) if _are_lettered(options) else str(option).strip() for option in options)


def split_question(text: str) -> tuple[str, tuple[str, ...]]:
    """Part a question from its options, bare then, lettered "A." or "(A)" in order on lines below; () for none."""
    lines = text.strip().splitlines()
    for start in range(len(lines)):
        tail = [line for line in lines[start:] if line.strip()]
        if len(tail) > 1 and _are_lettered(tail):
            return "\n".join(lines[:start]).strip(), tuple(map(bare, tail))
    return text.strip(), ()


def letter(index: int | str, num_options: int) -> str:
    """Return the letter of a 0-based index, an integer or its digits; ValueError where there is no such option."""
    number = int(index)
    if not 0 <= number < num_options:
        raise ValueError(f"answer {number} of {num_options} options")
    return ascii_uppercase[number]


def given_letter(answer: str, num_options: int) -> str:
    """Return the letter that an answer such as "b", "B." or "(B)" names; ValueError where it names none."""
    name = answer.strip().strip("().: ").upper()
    if len(name) != 1 or name not in ascii_uppercase[:num_options]:
        raise ValueError(f"answer '{answer}' of {num_options} options")
    return name


def letters_of_text(answer: str, options: Sequence[str]) -> tuple[str, ...]:
    """Return the letters of every option whose text is the answer's; () where none is."""
    wanted = answer.strip()
    return tuple(ascii_uppercase[index] for index, option in enumerate(options) if option.strip() == wanted)


def _are_lettered(lines: Sequence[str]) -> bool:
    labels = [_LABEL.match(line) for line in lines]
    return "".join(match[1] or match[2] if match else "?" for match in labels) == ascii_uppercase[: len(lines)]
