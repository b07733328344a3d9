"""What a benchmark is: where its files are, how its rows become items, how they are asked and scored.

Each file beside this one describes one benchmark in a `Benchmark` and a `load` function; nothing else in the program
knows their names. Counts and sizes are what the publishers give; an item count is checked nowhere, files get corrected.
README.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem
from stts_cli.data.rows import Row
from stts_cli.errors import InputError, suggest
from stts_cli.evaluation import scoring


@dataclass(frozen=True)
class Benchmark:
    """One benchmark; README.md beside this file says how to add one."""

    name: str  # what --bench says
    title: str  # its publishers' name
    load: Callable[[DataFolder, str], list[QaItem]]  # (folder, split) -> items
    splits: tuple[str, ...] = ("test",)  # the default first
    length: str = ""  # "short" or "long", the paper's classes, from the registry; "" for a user's own file
    questions: int = 0  # of the default split; 0 where that depends on the user
    videos: int = 0  # that they are about
    download: str = ""  # its size, in words
    licence: str = "see its page"  # of the data
    repos: tuple[str, ...] = ()  # dataset ids on the Hugging Face hub, tried in order; () where it is not there
    revision: str | None = None  # branch of the repository; None for its main one
    annotations: dict[str, tuple[str, ...]] = field(default_factory=dict)  # split -> globs of its files there
    media: tuple[str, ...] = ()  # globs of videos, subtitles and archives there
    terms: str | None = None  # the page where its terms are accepted; None where it is open
    where: str = ""  # where the files are, for messages; "" for the page of the last of `repos`
    prompt: Callable[[QaItem], str] = prompts.letter_from_choices  # item -> the user's turn
    scorers: dict[str, scoring.Scorer] = field(default_factory=scoring.rules)  # "molmo2", "official" where known
    max_new_tokens: int = 12  # of an answer
    headline: str = "micro"  # or the breakdown whose groups' mean is the benchmark's own headline
    subtitles: bool = False  # whether its items may carry any
    remark: str = ""  # what a reader of the result must know

    def __post_init__(self) -> None:
        if self.repos and not self.where:
            object.__setattr__(self, "where", f"https://huggingface.co/datasets/{self.repos[-1]}")

    def folder(self, *roots: Path) -> DataFolder:
        """Return the folders its files are looked for in."""
        return DataFolder(*roots, name=self.name, where=self.where)

    def check_split(self, split: str | None) -> str:
        """Return the split to use, the default for None; InputError where there is no such split."""
        if split is None:
            return self.splits[0]
        if split not in self.splits:
            raise InputError(f"--split {split}: is no split of {self.name}{suggest(split, self.splits)}")
        return split


def build_items(path: Path, rows: Iterable[Row], make: Callable[[Row], QaItem | None]) -> list[QaItem]:
    """Turn rows into items, in their order; `make` returns None for a row that is left out.

    InputError names the row that lacks a column, holds a value that makes no sense or repeats an id; also for no item.
    """

    def made() -> Iterator[tuple[str, QaItem]]:
        for number, row in enumerate(rows, start=1):
            where = f"{path}, row {number}"
            try:
                item = make(row)
            except KeyError as error:
                columns = ", ".join(map(str, row))
                raise InputError(
                    f"{where}: column {error} is missing; it has {columns}. Is it the right file?"
                ) from error
            except (ValueError, TypeError, IndexError, AttributeError) as error:
                raise InputError(f"{where}: {error}; check that it is the right file, and whole.") from error
            if item is not None:
                yield where, item

    return collect(path, made())


def collect(path: Path, found: Iterable[tuple[str, QaItem | InputError]]) -> list[QaItem]:
    """Gather the items of a file, given with their rows; raise one that is an error, and for equal ids or no item."""
    items: dict[str, QaItem] = {}
    for where, item in found:
        if isinstance(item, InputError):
            raise item
        if item.id in items:
            raise InputError(f"{where}: id '{item.id}': must be unique; a row before has it.")
        items[item.id] = item
    if not items:
        raise InputError(f"{path}: holds no question; check the file and --split.")
    return list(items.values())


def text_of(row: Row, key: str) -> str:
    """Return a row's value as text without outer spaces; KeyError where it is missing."""
    return str(row[key]).strip()
