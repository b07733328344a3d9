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
    """One benchmark.

    Attributes:
        name: what --bench says.
        title: its publishers' name.
        load: (folder, split) -> items.
        splits: the default first.
        length: "short" or "long", the paper's two classes; the registry says which, "" for a user's own file.
        questions: how many the default split has; 0 where that depends on the user.
        videos: how many they are about.
        download: size of the download, in words.
        licence: of the data.
        repos: dataset ids on the Hugging Face hub, tried in order; () where it is not there.
        revision: branch of the repository, or None for its main one.
        annotations: split -> globs of the annotation files in the repository.
        media: globs of videos, subtitles and archives in the repository.
        terms: the page where its terms are accepted, or None where it is open.
        where: where the files are, in words, for messages; "" for the page of the last of `repos`.
        prompt: item -> the user's turn.
        scorers: how replies are read: "strict", "relaxed", and where they are known "molmo2" and "official".
        max_new_tokens: the most tokens of an answer.
        headline: "micro", or the breakdown whose groups' mean is the benchmark's own headline.
        subtitles: whether its items may carry subtitles.
        remark: what a reader of the result must know.
    """

    name: str
    title: str
    load: Callable[[DataFolder, str], list[QaItem]]
    splits: tuple[str, ...] = ("test",)
    length: str = ""
    questions: int = 0
    videos: int = 0
    download: str = ""
    licence: str = "see its page"
    repos: tuple[str, ...] = ()
    revision: str | None = None
    annotations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    media: tuple[str, ...] = ()
    terms: str | None = None
    where: str = ""
    prompt: Callable[[QaItem], str] = prompts.letter_from_choices
    scorers: dict[str, scoring.Scorer] = field(default_factory=scoring.rules)
    max_new_tokens: int = 12
    headline: str = "micro"
    subtitles: bool = False
    remark: str = ""

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
    """Turn rows into items, and say which row is wrong.

    Args:
        path: where the rows come from.
        rows: as read.
        make: returns an item, or None for a row that is left out.

    Returns:
        The items, in the order of the file.

    Raises:
        InputError: a row lacks a column or holds a value that makes no sense, two rows share an id, or there is none.
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
