"""Read pictures as the frames of a video: a folder of them, a list, one alone, or an animated one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.clip import Clip
from stts_cli.media.container import check_file, check_size, shorten
from stts_cli.media.resize import DECODER, Resizer
from stts_cli.media.sampling import choose_frames
from stts_cli.media.source import ReadRequest

# by their names; gif and apng are videos here
ENDINGS = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff .ppm .pgm .jp2".split())
ASSUMED_FPS = 1.0
_KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "GIF")
_SILENT = logging.NullHandler()


def is_picture(path: Path) -> bool:
    """Return whether a file's name is that of a picture; hidden ones are none."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Return a key that sorts names as people count: 2.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part.casefold()) for part in parts]


def list_folder(path: Path) -> list[Path]:
    """Return what a folder holds, as people count; InputError where it cannot be opened."""
    try:
        return sorted(path.iterdir(), key=natural_order)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); must be a folder to read.") from error


def read_pictures(request: ReadRequest) -> Clip:
    """Read what the request's source names: pictures in their order, `Source.fps` a second, or an animation.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    source, notes = request.source, []
    files = list(source.pictures)
    if not files and source.path.is_dir():
        inside = list_folder(source.path)
        files = [path for path in inside if is_picture(path)]
        if not files:
            raise InputError(f"{source.path}: holds no pictures; must hold frames (.jpg, .png, .webp, ...).")
        if others := [path.name for path in inside if path not in set(files) and not path.name.startswith(".")]:
            notes.append(f"{len(others)} other files of the folder are not looked at, such as {others[0]}")
    files = files or [source.path]
    if len(files) == 1 and (animated := _animation(files[0], request)) is not None:
        return animated
    fps = source.fps or ASSUMED_FPS
    if source.fps is None and len(files) > 1:
        notes.append(f"pictures have no times; {fps:g} a second is assumed, say how many with --fps")
    chosen = choose_frames(np.arange(len(files)) / fps, request)
    frames, sizes = _stack([files[index] for index in chosen], request)
    if sizes > 1:
        notes.append(f"the pictures are of {sizes} sizes; all were made as large as the first")
    times_s = [round(index / fps, 4) for index in chosen]
    return Clip(frames, times_s, len(files) / fps, fps, len(files), "pillow", tuple(notes))


def _stack(files: list[Path], request: ReadRequest) -> tuple[np.ndarray, int]:
    """Return the frames (T, H, W, 3), all as large as the first becomes, and how many sizes the files have."""
    frames: list[np.ndarray] = []
    sizes, resizer = set(), Resizer(None, request.resample)
    for path in files:
        pixels = next(_pixels(path, {0}))
        if not frames:
            size = dataclasses.replace(request, num_frames=len(files)).sized(*pixels.shape[:2]).size or pixels.shape[:2]
            resizer = Resizer((size[0], size[1]), _filter(request))
        sizes.add(pixels.shape)
        frames.append(resizer(pixels))
    return np.stack(frames), len(sizes)


def _animation(path: Path, request: ReadRequest) -> Clip | None:
    """Return the clip of an animated picture; None where it holds one frame."""
    milliseconds: list[float] = []
    damage: tuple[str, ...] = ()
    with _open(path) as picture:
        number = 1 if picture.format == "TIFF" else getattr(picture, "n_frames", 1)  # its pages are no frames
        if number < 2:
            return None
        try:
            with _quietly():
                for index in range(number):
                    picture.seek(index)
                    check_size(path, *picture.size)  # a later frame may be larger
                    picture.load()  # its time on screen is known then
                    milliseconds.append(max(float(picture.info.get("duration", 0)), 1.0))
        except Exception as error:
            if not milliseconds:
                raise InputError(_damaged(path, error)) from error
            number, damage = index, (f"the file is damaged: {index} of its {number} frames can be read",)
    times = np.concatenate([[0.0], np.cumsum(milliseconds)]) / 1000
    chosen = choose_frames(times[:-1], request)
    resizer = Resizer(None, request.resample)
    frames: list[np.ndarray] = []
    for pixels in _pixels(path, set(chosen)):
        if not frames:
            sized = dataclasses.replace(request, num_frames=len(chosen)).sized(*pixels.shape[:2])
            resizer = Resizer(sized.size, _filter(request))
        frames.append(resizer(pixels))
    seconds, fps = [round(float(times[index]), 4) for index in chosen], number / float(times[-1])
    own = "the picture is animated and has times of its own; --fps has no effect"
    notes = (own,) if request.source.fps is not None else ()
    return Clip(np.stack(frames), seconds, float(times[-1]), fps, number, "pillow", notes, damage)


def _filter(request: ReadRequest) -> str:
    """Return the filter: there is no decoder that resizes."""
    return "bilinear" if request.resample == DECODER else request.resample


def _pixels(path: Path, wanted: set[int]) -> Iterator[np.ndarray]:
    """Yield frames of a picture as uint8 (H, W, 3), upright, what is transparent on white."""
    with _open(path) as picture:
        for index in sorted(wanted):
            try:
                with _quietly():
                    picture.seek(index)
                    pixels = _upright(picture)
            except Exception as error:
                raise InputError(_damaged(path, error)) from error
            yield pixels


def _upright(picture: Any) -> np.ndarray:
    from PIL import Image, ImageOps

    upright: Any = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.array(upright.convert("RGB"))


def _damaged(path: Path, error: Exception) -> str:
    """Return the message on what Pillow raised while it decoded: anything at all, of damaged files."""
    return f"{path}: cannot be read as a picture ({shorten(error)}); it is damaged."


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let Pillow say nothing of its own about a damaged file."""
    logging.getLogger("PIL").addHandler(_SILENT)  # added once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # a picture of more pixels than Pillow likes, fewer than ours
        yield


def _open(path: Path) -> Any:
    from PIL import Image

    try:
        with _quietly():
            picture = Image.open(check_file(path), formats=_KINDS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = "it is far too large" if isinstance(error, Image.DecompressionBombError) else "it is damaged or none"
        raise InputError(f"{path}: cannot be read as a picture; {what}.") from error
    check_size(path, *picture.size)
    return picture
