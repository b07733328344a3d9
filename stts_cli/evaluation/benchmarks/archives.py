"""Unpack zips and (split) tars without trusting them: nothing leaves the folder, and a half-downloaded one is named.

What is there already is left alone, and a marker says which archives are done: an interrupted unpacking goes on.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from stts_cli.errors import EnvironmentFailure, InputError

MARKERS = ".unpacked"
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError)


def unpack_all(archives: Iterable[Path], into: Path) -> None:
    """Unpack zips, tars and parts of split tars, in any order, right into a folder, unless that was done before.

    InputError for one that is not whole, or a member that wants to leave the folder; EnvironmentFailure where the disk
    is full or the folder cannot be written.
    """
    whole: dict[str, list[Path]] = {}
    for path in sorted(archives):
        whole.setdefault(_name_without_part(path), []).append(path)
    for name, parts in whole.items():
        marker = into / MARKERS / f"{name}-{sum(path.stat().st_size for path in parts)}"
        if marker.exists():
            continue
        try:
            _unpack(parts, into)
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        except OSError as error:
            raise EnvironmentFailure(
                f"{into}: {parts[0].name} cannot be unpacked there ({error.strerror or error}); make room, or set "
                "XDG_CACHE_HOME to another disk."
            ) from error


def check_whole(archives: Iterable[Path]) -> None:
    """Refuse a zip whose end is missing (InputError); that of a tar is only seen by reading all of it."""
    for path in archives:
        if path.suffix == ".zip" and not zipfile.is_zipfile(path):
            raise _damaged(path, "its end is missing")


def _unpack(parts: list[Path], into: Path) -> None:
    try:
        for name, size, source in _zip_members(parts[0]) if parts[0].suffix == ".zip" else _tar_members(parts):
            target = _target(name, into, parts[0])
            if not (target.exists() and target.stat().st_size == size):
                _write(source, target)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk, not the archive
            raise
        names = parts[0] if len(parts) == 1 else Path(f"{parts[0]} .. {parts[-1].name}")
        raise _damaged(names, error) from error


def _zip_members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of every file."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                with archive.open(member) as source:
                    yield member.filename, member.file_size, source


def _tar_members(parts: list[Path]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of every file of a tar, compressed or not, that may have been cut into parts."""
    with tarfile.open(fileobj=_Joined(parts), mode="r|*") as archive:  # type: ignore[call-overload]
        for member in archive:
            if member.isdir():
                continue
            source = archive.extractfile(member) if member.isfile() else None
            if source is None:
                raise InputError(f"{parts[0]}: member '{member.name}' is a link or a device; only files are unpacked.")
            yield member.name, member.size, source


def _target(name: str, into: Path, archive: Path) -> Path:
    member = PurePosixPath(name.replace("\\", "/"))
    leaves = member.is_absolute() or ".." in member.parts or ":" in member.parts[0]
    target = into.joinpath(*member.parts)
    if leaves or not target.parent.resolve().is_relative_to(into.resolve()):  # through a link that was there before
        raise InputError(f"{archive}: member '{name}' would be written outside {into}; do not trust this archive.")
    return target


def _write(source: IO[bytes], target: Path) -> None:
    """Write beside the target first, so that a broken run leaves no half video."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _damaged(path: Path, reason: object) -> InputError:
    kind = "zip" if path.suffix == ".zip" else "tar"
    return InputError(f"{path}: is not a whole {kind} ({reason}); half downloaded or a part missing: fetch it again.")


def _name_without_part(path: Path) -> str:
    """Return one name for all parts of a split tar: x.tar.part.aa, x_part_01.tar.gz."""
    name = re.sub(r"(\.tar(?:\.gz)?)[.-]?part[-.]?\w+$", r"\1", path.name)
    return re.sub(r"_part_\w+?(\.tar(?:\.gz)?)$", r"\1", name)


class _Joined:
    """Several files read as one."""

    def __init__(self, parts: list[Path]) -> None:
        self._files = (path.open("rb") for path in parts)
        self._file: IO[bytes] | None = next(self._files)

    def read(self, size: int) -> bytes:
        while self._file is not None:
            if data := self._file.read(size):
                return data
            self._file.close()
            self._file = next(self._files, None)
        return b""
