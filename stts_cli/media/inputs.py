"""What a user names as videos: files, folders, patterns, addresses, a pipe. Standard library only."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stts_cli.errors import InputError
from stts_cli.media.container import check_file
from stts_cli.media.fetch import STDIN, is_fetched
from stts_cli.media.pictures import is_picture, list_folder, natural_order
from stts_cli.media.source import Source

# by their names, in a folder; a file that is named itself may have any name
VIDEO_ENDINGS = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .ogv .ogg .ts .m2ts .mts .mpg .mpeg .vob .flv .wmv .asf .3gp .gif .apng .h264 .264 "
    ".hevc .h265 .265 .ivf .y4m .mjpeg .av1 .obu".split()
)
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Named:
    """A video, as it was named.

    Attributes:
        name: for people.
        source: where its frames come from.
        address: what is fetched into `source`'s file first (`fetch.fetched`), or empty.
        is_expanded: it is one of those that a folder or a pattern named.
    """

    name: str
    source: Source
    address: str = ""
    is_expanded: bool = False


def split_words(words: Sequence[str]) -> tuple[list[Named], list[str]]:
    """Part a command's words into videos and the rest, which are questions.

    A video is what exists: a file, a folder, a pattern that matches files; or an http(s) address, or `-`. The first
    word is always one. Pictures in a row are the frames of one video; a folder is the frames that it holds, or else
    each video in it.

    Args:
        words: at least one.

    Returns:
        The videos, and the questions in their order.

    Raises:
        InputError: the first word, or another that ends as a video's or picture's name does, names nothing; a folder
            holds neither pictures nor videos, or both; or standard input is named twice.
    """
    videos: list[Named] = []
    questions: list[str] = []
    pictures: list[Path] = []

    def close() -> None:
        if pictures:
            more = len(pictures) - 1
            name = str(pictures[0]) + (f" and {more} more picture{'s' * (more > 1)}" if more else "")
            videos.append(Named(name, Source(pictures[0], pictures=tuple(pictures))))
            pictures.clear()

    for place, word in enumerate(words):
        found = [] if is_fetched(word) else list(_files(word))
        if is_fetched(word):
            close()
            videos.append(Named("standard input" if word == "-" else word, Source(Path("-")), word))
        elif not found and (not place or _is_name(word)):
            check_file(word)  # says that there is none
        elif not found:
            questions.append(word)
        for path in found:
            if path.is_file() and is_picture(path):
                pictures.append(path)
                continue
            close()
            many = path != Path(word)
            videos.extend(_folder(path) if path.is_dir() else [Named(str(path), Source(path), is_expanded=many)])
    close()
    if sum(video.address == STDIN for video in videos) > 1:
        raise InputError("-: is named twice; standard input holds one video.")
    return videos, questions


def _is_name(word: str) -> bool:
    """Return whether a word looks like a file's name: one ending and no blank."""
    path = Path(word)
    return not re.search(r"\s", word) and (path.suffix.lower() in VIDEO_ENDINGS or is_picture(path))


def _files(word: str) -> Iterator[Path]:
    """Yield the files and folders that a word names, those of a pattern as people count."""
    try:
        exists = bool(word) and Path(word).exists()
    except (OSError, ValueError):  # far too long for a name, or with a zero byte
        return
    if exists:
        yield Path(word)
    elif _PATTERN.search(word) and not is_fetched(word):
        yield from sorted(map(Path, glob.glob(word)), key=natural_order)


def _folder(path: Path) -> list[Named]:
    inside = [each for each in list_folder(path) if not each.name.startswith(".")]
    videos = [each for each in inside if each.suffix.lower() in VIDEO_ENDINGS and each.is_file()]
    pictures = [each for each in inside if is_picture(each)]
    if videos and pictures:
        raise InputError(
            f"{path}: holds videos ({len(videos)}) and pictures ({len(pictures)}); must be one kind; name the files, "
            f"such as '{path}/*{videos[0].suffix}'."
        )
    if not videos and not pictures:
        raise InputError(f"{path}: holds neither pictures nor videos; must hold frames or video files.")
    return [Named(str(each), Source(each), is_expanded=True) for each in videos] or [Named(str(path), Source(path))]
