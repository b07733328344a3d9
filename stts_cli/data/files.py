"""Find the files of a benchmark, or of a user's rows, in a folder however it was unpacked.

Everyone unpacks differently, so a video is looked for in the usual sub-folders, doubled ones too, and under several
extensions; the error about a missing file names everything that was tried.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from stts_cli.data.rows import Row, read_rows
from stts_cli.errors import InputError
from stts_cli.media.source import Source

EXTENSIONS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
FOLDERS = ("", "videos", "video", "data")
ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tar.part*", "*.tar.gz.part*", "*_part_*.tar.gz")


class DataFolder:
    """One or more folders, searched in order, that together hold the benchmark `name`; messages say `where` to get it.

    Its `notes` are what a loader guessed, put right or left out.
    """

    def __init__(self, *roots: Path, name: str, where: str) -> None:
        self.roots = roots
        self.name = name
        self.where = where
        self.notes: list[str] = []
        self._listed: dict[Path, frozenset[str]] = {}

    def find(self, *patterns: str) -> Path:
        """Return the first file or folder under a root that matches a glob, the likeliest glob first.

        Raises:
            InputError: there is none; it says what was looked for, where, and where to get it.
        """
        if found := self.find_all(*patterns):
            return found[0]
        looked = ", ".join(map(str, self.roots))
        raise InputError(f"{self.name}: none of {', '.join(patterns)} is in {looked}; get it: {self.where}.")

    def find_all(self, *patterns: str) -> list[Path]:
        """Return what matches the first pattern that matches anything, sorted; [] for nothing."""
        found = (sorted(root.glob(pattern)) for pattern, root in itertools.product(patterns, self.roots))
        return next(filter(None, found), [])

    def rows(self, *patterns: str) -> tuple[Path, list[Row]]:
        """Read a table that may be cut into files: the first one that `find` finds, and the rows of all beside it.

        Raises:
            InputError: there is none, or one is damaged.
        """
        first = self.find(*patterns)
        pieces = [path for path in self.find_all(*patterns) if path.parent == first.parent]
        return first, [row for path in pieces for row in read_rows(path)]

    def source(self, name: str, *folders: str) -> Source:
        """Return a whole video, looked for as `video` does."""
        return Source(self.video(name, *folders))

    def video(self, name: str, *folders: str) -> Path:
        """Return where a video is, or where it is expected when it is not there.

        Args:
            name: file name with or without extension, possibly with folders in front.
            *folders: this benchmark's own sub-folders, tried before the usual ones.
        """
        stem = name if Path(name).suffix not in EXTENSIONS else str(Path(name).with_suffix(""))
        names = dict.fromkeys([name, *(stem + extension for extension in EXTENSIONS)])
        places = [(folder, f"{folder}/{Path(folder).name}") if folder else ("",) for folder in (*folders, *FOLDERS)]
        for root, place, candidate in itertools.product(self.roots, itertools.chain(*places), names):
            path = root / place / candidate
            if path.name in self._names(path.parent):
                return path
        expected = name if Path(name).suffix in EXTENSIONS else name + EXTENSIONS[0]
        return self.roots[0] / (folders[0] if folders else FOLDERS[1]) / expected

    def own(self, name: str) -> Path:
        """Return where a file that a user's row names is: the path from the first root, or as `video` finds it."""
        path = self.roots[0] / Path(name).expanduser()
        found = path if path.exists() else self.video(name)
        return found if found.exists() else path

    def archives(self) -> list[Path]:
        """Return zips, tars and parts of split tars anywhere in the folders, sorted; they may not be unpacked yet."""
        return sorted({path for root in self.roots for pattern in ARCHIVES for path in root.glob(f"**/{pattern}")})

    def _names(self, folder: Path) -> frozenset[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(path.name for path in folder.iterdir())
            except OSError:
                self._listed[folder] = frozenset()
        return self._listed[folder]


def cache_folder(*names: str) -> Path:
    """Return a folder for what can be made anew: $XDG_CACHE_HOME/stts/NAMES, under ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").joinpath("stts", *names)
