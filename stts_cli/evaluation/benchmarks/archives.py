"""Unpack zips and (split) tars without trusting them: nothing leaves the folder, and a half-downloaded one is named.

What is there already is left alone, and a marker says which archives are done: an interrupted unpacking goes on.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from stts_cli.errors import EnvironmentFailure, InputError

MARKERS = ".unpacked"


def unpack_all(archives: Iterable[Path], into: Path) -> None:
    """Unpack archives that are not unpacked yet; parts of one split tar go together.

    Args:
        archives: zips, tars, and parts of split tars, in any order.
        into: the folder; each zip and tar is unpacked right into it.

    Raises:
        InputError: an archive is not whole, or a member wants to leave the folder.
        EnvironmentFailure: the disk is full, or the folder cannot be written.
    """
    whole: dict[str, list[Path]] = {}
    for path in sorted(archives):
        whole.setdefault(_name_without_part(path), []).append(path)
    for name, parts in whole.items():
        marker = into / MARKERS / f"{name}-{sum(path.stat().st_size for path in parts)}"
        if marker.exists():
            continue
        try:
            if parts[0].suffix == ".zip":
                unpack_zip(parts[0], into)
            else:
                unpack_tar(parts, into)
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        except OSError as error:
            raise EnvironmentFailure(
                f"{parts[0].name} cannot be unpacked into {into} ({error.strerror or error}) -> make room there, or "
                "set XDG_CACHE_HOME to another disk"
            ) from error


def check_whole(archives: Iterable[Path]) -> None:
    """Refuse a zip whose end is missing; that of a tar is only seen by reading all of it.

    Args:
        archives: of any kind.

    Raises:
        InputError: a zip is not whole.
    """
    for path in archives:
        if path.suffix == ".zip" and not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not a whole zip (its end is missing): half downloaded? -> fetch it again")


def unpack_zip(path: Path, into: Path) -> None:
    """Unpack a zip.

    Args:
        path: the archive.
        into: the folder.

    Raises:
        InputError: it is not whole, or a member wants to leave the folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                target = _target(member.filename, into, path)
                if target.exists() and target.stat().st_size == member.file_size:
                    continue
                with archive.open(member) as source:
                    _write(source, target)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise InputError(f"{path} is not a whole zip ({error}): half downloaded? -> fetch it again") from error


def unpack_tar(parts: list[Path], into: Path) -> None:
    """Unpack a tar, compressed or not, that may have been cut into parts.

    Args:
        parts: the files in order.
        into: the folder.

    Raises:
        InputError: it is not whole, or a member wants to leave the folder.
    """
    names = parts[0].name if len(parts) == 1 else f"{parts[0].name} .. {parts[-1].name}"
    try:
        stream = io.BufferedReader(_Joined(parts), 1 << 20)
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                target = _target(member.name, into, parts[0])
                source = archive.extractfile(member) if member.isfile() else None
                if source is None:
                    raise InputError(f"{parts[0]}: member '{member.name}' is a link or a device -> not unpacked")
                if not (target.exists() and target.stat().st_size == member.size):
                    _write(source, target)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:  # the disk, not the archive
            raise
        raise InputError(
            f"{parts[0].parent / names} is not a whole tar ({error}): half downloaded, or a part missing? "
            "-> fetch it again"
        ) from error


def _target(name: str, into: Path, archive: Path) -> Path:
    member = PurePosixPath(name.replace("\\", "/"))
    if member.is_absolute() or ".." in member.parts or ":" in member.parts[0]:
        raise InputError(f"{archive}: member '{name}' would be written outside {into} -> not unpacked")
    target = into.joinpath(*member.parts)
    if not target.parent.resolve().is_relative_to(into.resolve()):  # a link that was there before
        raise InputError(f"{archive}: member '{name}' would be written outside {into} -> not unpacked")
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


def _name_without_part(path: Path) -> str:
    """Return one name for all parts of a split tar: x.tar.part.aa, x_part_01.tar.gz."""
    name = re.sub(r"(\.tar(?:\.gz)?)[.-]?part[-.]?\w+$", r"\1", path.name)
    return re.sub(r"_part_\w+?(\.tar(?:\.gz)?)$", r"\1", name)


class _Joined(io.RawIOBase):
    """Several files read as one."""

    def __init__(self, parts: list[Path]) -> None:
        self._parts = list(parts)
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._file is None:
                if not self._parts:
                    return 0
                self._file = self._parts.pop(0).open("rb")
            count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
            if count:
                return count
            self._file.close()
            self._file = None
