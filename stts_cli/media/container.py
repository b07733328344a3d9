"""Open a file with PyAV, safely, and read its header. Nothing but the file itself is ever opened."""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.errors import InputError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# demuxers that open what the file names: playlists, stream descriptions, numbered pictures, parts and indices
REFERRING = {
    "concat", "dash", "hls", "image2", "imf", "lavfi", "mlv", "rtp", "rtsp", "sap", "sdp", "vobsub",
    "webm_dash_manifest",
}  # fmt: skip
MOST_PIXELS = 40_000_000  # of a frame, as 8K has 35 million: a larger one takes gigabytes, of a file of any size

ASSUMED_FPS = 25.0  # of a file that does not say when its frames are shown, nor how many come a second
_OF_TEXT = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}  # others are pictures


class DecoderError(Exception):
    """One decoder could not read the file; another may."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says.

    Attributes:
        width: of the coded frames in pixels, before they are turned upright.
        height: of the same.
        fps: frames a second, 0.0 if not said.
        duration_s: that the stream declares, or None.
        container_duration_s: that the file declares, or None.
        aspect: of a pixel, width by height.
    """

    width: int
    height: int
    fps: float
    duration_s: float | None
    container_duration_s: float | None
    aspect: float = 1.0


def check_file(path: str | Path) -> Path:
    """Return the path of a file that is there, may be read and is not empty; InputError where it is not."""
    if not str(path):
        raise InputError("the video's name is empty; give a video file.")
    given, path = str(path), Path(path)
    try:
        found = path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            if URL.match(given):
                raise InputError(f"{given}: is no file; must be a file or an http(s) address.") from error
            raise InputError(f"{given}: does not exist; must be a video file.") from error
        raise InputError(f"{given}: cannot be opened ({error.strerror}); must be a video file.") from error
    except ValueError as error:  # a zero byte
        raise InputError(f"{given}: is no name of a file; give a video file.") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{given}: is a folder; must be a video file.")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{given}: is a pipe, a socket or a device; must be a file (for a pipe: - and <).")
    if not os.access(path, os.R_OK):
        raise InputError(f"{given}: may not be read (permission denied); change its permissions.")
    if found.st_size == 0:
        raise InputError(f"{given}: is empty (0 bytes); fetch it again.")
    return path


def check_size(path: Path, width: int, height: int, most: int = MOST_PIXELS) -> None:
    """Raise InputError for frames of more than so many pixels."""
    if width * height > most:
        millions = most // 10**6
        raise InputError(f"{path}: has frames of {width} x {height} pixels; must be at most {millions} million each.")


def probe(path: str | Path) -> VideoInfo:
    """Read a file's header without decoding a frame.

    Raises:
        InputError: the file is missing, a folder, empty, unreadable, no video, or has no video stream.
    """
    path = check_file(path)
    import av

    try:
        with open_file(path) as container:
            stream = video_stream(container)
            if stream is None:
                raise InputError(f"{path}: holds only sound or data; must hold a video.")
            if stream.disposition & av.stream.Disposition.attached_pic:
                raise InputError(f"{path}: holds sound and a cover picture only; must hold a video.")
            if stream.codec_context is None:
                raise InputError(f"{path}: holds a video of an unknown codec; must be one that FFmpeg decodes.")
            check_size(path, stream.codec_context.width, stream.codec_context.height)
            duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            return VideoInfo(
                width=stream.codec_context.width,
                height=stream.codec_context.height,
                fps=float(stream.average_rate or 0.0),
                duration_s=duration_s,
                container_duration_s=container.duration / av.time_base if container.duration else None,
                aspect=float(stream.sample_aspect_ratio or 1),
            )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EINVAL:
            raise InputError(
                f"{path}: holds a playlist, or another kind of file that refers to others; must hold the video itself."
            ) from error
        reason = shorten(error)
        raise InputError(f"{path}: cannot be read as a video ({reason}); it is truncated or no video.") from error


def open_file(path: str | Path) -> Any:
    """Open a file with PyAV, whatever its name looks like, and nothing that it refers to.

    A file that refers to others raises `av.error.ArgumentError` (EINVAL).
    """
    import av
    import av.logging

    av.logging.set_level(None)
    options = {"protocol_whitelist": "file", "format_whitelist": _allowed_formats()}
    # not `options`: PyAV below 17.1 applies those to streams that it counted too early, and crashes (mpg, flv)
    return av.open(os.path.abspath(path), container_options=options)


@functools.cache
def _allowed_formats() -> str:
    import av

    return ",".join(sorted(av.formats_available - REFERRING))


def read_captions(path: str | Path) -> list[tuple[float, float, str]]:
    """Read the subtitles inside a video file: those that its maker marked as the default, else the first of text.

    Returns:
        (start, end, text) in seconds from the first frame on; the text has the tags of the ASS form. Empty where the
        file has no subtitles of text.
    """
    import av

    found: list[tuple[float, float, str]] = []
    try:
        with open_file(path) as container:
            video = video_stream(container)
            begins_s = float(video.start_time * video.time_base) if video is not None and video.start_time else 0.0
            texts = [each for each in container.streams.subtitles if each.codec_context.name in _OF_TEXT]
            marked = [each for each in texts if each.disposition & av.stream.Disposition.default]
            for stream in (marked or texts)[:1]:
                for packet in container.demux(stream):
                    if packet.size and packet.pts is not None:
                        start_s = float(packet.pts * stream.time_base) - begins_s
                        end_s = start_s + float((packet.duration or 0) * stream.time_base)
                        found += [(max(start_s, 0.0), end_s, text) for text in _texts(packet) if end_s > 0]
    except (av.error.FFmpegError, OSError, ValueError):
        pass  # damaged: what came before is used
    return found


def _texts(packet: Any) -> list[str]:
    return [text for each in packet.decode() if (text := each.dialogue.decode("utf-8", "replace").strip())]


def video_stream(container: Any) -> Any:
    """Return the stream that is read, its decoder bound to frames of `MOST_PIXELS`, or None."""
    stream = container.streams.best("video")
    if stream is not None and stream.codec_context is not None:
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    return stream


def shorten(error: BaseException) -> str:
    """Reduce a decoder's message to its last, telling line."""
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].split("Check failed: ")[-1].strip()[:120] if lines else type(error).__name__


def describe_decoders() -> str:
    """Return the versions of FFmpeg's libraries, and which common codecs they decode."""
    import av

    libraries = ", ".join(f"{name} {'.'.join(map(str, parts))}" for name, parts in sorted(av.library_versions.items()))
    codecs = [name for name in ("h264", "hevc", "vp9", "av1", "libdav1d", "mpeg4") if name in av.codecs_available]
    return f"PyAV with {libraries}; decodes {', '.join(codecs)}"
