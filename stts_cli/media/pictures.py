"""Read pictures as the frames of a video: a folder of them, a list, one alone, or an animated one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stts_cli.errors import InputError
from stts_cli.media.clip import Clip
from stts_cli.media.container import check_file
from stts_cli.media.resize import DECODER, Resizer
from stts_cli.media.sampling import choose_frames
from stts_cli.media.source import ReadRequest

# by their names; gif and apng are videos here
ENDINGS = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff .ppm .pgm .jp2".split())
ASSUMED_FPS = 1.0
_KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "GIF")


def is_picture(path: Path) -> bool:
    """Return whether a file's name is that of a picture; hidden ones are none."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Return a key that sorts names as people count: 2.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part.casefold()) for part in parts]


def read_pictures(request: ReadRequest) -> Clip:
    """Read what the request's source names: pictures in their order, `Source.fps` a second, or an animation.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    source, notes = request.source, []
    files = list(source.pictures)
    if not files and source.path.is_dir():
        inside = sorted(source.path.iterdir(), key=natural_order)
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
    with _open(path) as picture:
        number = getattr(picture, "n_frames", 1)
        if number < 2 or picture.format == "TIFF":  # pages are no frames
            return None
        milliseconds = []
        for index in range(number):
            picture.seek(index)
            picture.load()  # its time on screen is known then
            milliseconds.append(max(float(picture.info.get("duration", 0)), 1.0))
    times = np.concatenate([[0.0], np.cumsum(milliseconds)]) / 1000
    chosen = choose_frames(times[:-1], request)
    frames = list(_pixels(path, set(chosen)))
    sized = dataclasses.replace(request, num_frames=len(frames)).sized(*frames[0].shape[:2])
    resizer = Resizer(sized.size, _filter(request))
    seconds = [round(float(times[index]), 4) for index in chosen]
    fps = number / float(times[-1])
    return Clip(np.stack([resizer(frame) for frame in frames]), seconds, float(times[-1]), fps, number, "pillow")


def _filter(request: ReadRequest) -> str:
    """Return the filter: there is no decoder that resizes."""
    return "bilinear" if request.resample == DECODER else request.resample


def _pixels(path: Path, wanted: set[int]) -> Iterator[np.ndarray]:
    """Yield frames of a picture as uint8 (H, W, 3), upright, what is transparent on white."""
    from PIL import Image, ImageOps

    with _open(path) as picture:
        try:
            for index in sorted(wanted):
                picture.seek(index)
                upright: Any = ImageOps.exif_transpose(picture)
                if upright.mode.startswith("I;16"):
                    upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
                if upright.has_transparency_data:
                    upright = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
                yield np.array(upright.convert("RGB"))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise InputError(f"{path}: cannot be read as a picture ({error}); it is damaged.") from error


def _open(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(check_file(path), formats=_KINDS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = "it is far too large" if isinstance(error, Image.DecompressionBombError) else "it is damaged or none"
        raise InputError(f"{path}: cannot be read as a picture; {what}.") from error
