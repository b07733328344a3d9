"""Read pictures as the frames of a video: a folder of them, a list, one alone, or an animated one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.clip import Clip
from stts_cli.media.container import MOST_PIXELS, check_file, check_size, shorten
from stts_cli.media.resize import DECODER, Resizer
from stts_cli.media.sampling import choose_frames
from stts_cli.media.source import ReadRequest, Source

# by their names; gif and apng are videos here
ENDINGS = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff .ppm .pgm .jp2".split())
ASSUMED_FPS = 1.0
# of a picture that does not move, read at half its size above `MOST_PIXELS`: what decodes to less than 2 GB
MOST_OF_JPEG = 4 * MOST_PIXELS  # halved while it is decoded
MOST_OF_OTHERS = 64_000_000
_JPEG = ("JPEG", "MPO")
_PAGED = ("TIFF", "MPO")  # their further pages are no frames
_ORIENTATION = 0x0112
_STRIP = 512  # rows halved at once; even
_KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "GIF")
_SILENT = logging.NullHandler()


def is_picture(path: Path) -> bool:
    """Return whether a file's name is that of a picture; hidden ones are none."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def holds_pictures(source: Source) -> bool:
    """Return whether a source's frames are pictures, by its name."""
    return bool(source.pictures) or os.path.isdir(source.path) or is_picture(source.path)


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
    frames, more = _stack([files[index] for index in chosen], request)
    times_s = [round(index / fps, 4) for index in chosen]
    return Clip(frames, times_s, len(files) / fps, fps, len(files), "pillow", (*notes, *more))


def _stack(files: list[Path], request: ReadRequest) -> tuple[np.ndarray, list[str]]:
    """Return the frames (T, H, W, 3), all as large as the first becomes, and notes on the sizes of the files."""
    frames: list[np.ndarray] = []
    sizes, resizer, num_halved = set(), Resizer(None, request.resample), 0
    for path in files:
        pixels, is_halved = next(_pixels(path, {0}))
        num_halved += is_halved
        if not frames:
            size = dataclasses.replace(request, num_frames=len(files)).sized(*pixels.shape[:2]).size or pixels.shape[:2]
            resizer = Resizer((size[0], size[1]), _filter(request))
        sizes.add(pixels.shape)
        frames.append(resizer(pixels))
    notes = []
    if num_halved:
        most, which = MOST_PIXELS // 10**6, "the picture has" if len(files) == 1 else f"{num_halved} pictures have"
        notes.append(f"{which} more than {most} million pixels; read at half the width and height")
    if len(sizes) > 1:
        notes.append(f"the pictures are of {len(sizes)} sizes; all were made as large as the first")
    return np.stack(frames), notes


def _animation(path: Path, request: ReadRequest) -> Clip | None:
    """Return the clip of an animated picture; None where it holds one frame."""
    milliseconds: list[float] = []
    damage: tuple[str, ...] = ()
    with _open(path) as picture:
        number = 1 if picture.format in _PAGED else getattr(picture, "n_frames", 1)
        if number < 2:
            return None
        check_size(path, *picture.size)
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
    for pixels, _ in _pixels(path, set(chosen)):
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


def _pixels(path: Path, wanted: set[int]) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield frames of a picture, uint8 (H, W, 3), upright, what is transparent on white, and whether each is halved."""
    from PIL import ImageOps

    with _open(path) as picture:
        for index in sorted(wanted):
            try:
                with _quietly():
                    picture.seek(index)
                    is_halved = picture.width * picture.height > MOST_PIXELS
                    upright = ImageOps.exif_transpose(_halved(picture) if is_halved else picture)
                    pixels = np.array(_opaque(upright))
            except Exception as error:
                raise InputError(_damaged(path, error)) from error
            yield pixels, is_halved


def _halved(picture: Any) -> Any:
    """Return a picture of half the width and height: decoded so where its format can, else halved strip by strip."""
    from PIL import Image

    width, height = picture.size
    picture.draft(None, (width // 2, height // 2))
    if picture.size != (width, height):
        return picture
    half = Image.new("RGB", ((width + 1) // 2, (height + 1) // 2))
    for top in range(0, height, _STRIP):
        strip = picture.crop((0, top, width, min(top + _STRIP, height)))
        half.paste(_opaque(strip).reduce(2), (0, top // 2))
    half.getexif()[_ORIENTATION] = picture.getexif().get(_ORIENTATION, 1)
    return half


def _opaque(picture: Any) -> Any:
    """Return a picture as RGB, what is transparent on white."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


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
    check_size(path, *picture.size, MOST_OF_JPEG if picture.format in _JPEG else MOST_OF_OTHERS)
    return picture
