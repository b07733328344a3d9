"""Write small video files of many kinds, whose frames tell their own number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

BITS = 6
# ending: codec, pixel format, container where the ending does not say it
KINDS = {
    "mp4": ("libx264", "yuv420p", None), "mov": ("libx264", "yuv420p", None), "mkv": ("libx264", "yuv420p", None),
    "vp8.webm": ("libvpx", "yuv420p", None), "vp9.webm": ("libvpx-vp9", "yuv420p", None),
    "av1.mp4": ("libsvtav1", "yuv420p", None), "hevc10.mp4": ("libx265", "yuv420p10le", None),
    "avi": ("mpeg4", "yuv420p", None), "ogv": ("libvpx", "yuv420p", "ogg"), "ts": ("libx264", "yuv420p", None),
    "flv": ("libx264", "yuv420p", None), "mpg": ("mpeg2video", "yuv420p", None), "wmv": ("wmv2", "yuv420p", None),
    "gif": ("gif", "rgb8", None), "apng": ("apng", "rgb24", None), "png": ("apng", "rgb24", "apng"),
    "h264": ("libx264", "yuv420p", None), "hevc": ("libx265", "yuv420p", None), "ivf": ("libvpx", "yuv420p", None),
    "y4m": ("wrapped_avframe", "yuv420p", None), "mjpeg.avi": ("mjpeg", "yuvj420p", None),
}  # fmt: skip


def numbered(index: int, size: tuple[int, int]) -> np.ndarray:
    """Return a frame (H, W, 3) that tells its number in black and white bars, the lowest bit at the left."""
    bits = np.array([index >> bit & 1 for bit in range(BITS)])
    bars = bits[np.arange(size[1]) * BITS // size[1]] * 220 + 16
    return np.broadcast_to(bars[None, :, None], (*size, 3)).astype(np.uint8)


def number(frame: np.ndarray) -> int:
    """Return the number that a frame (H, W, 3) tells."""
    middles = (np.arange(BITS) * 2 + 1) * frame.shape[1] // (2 * BITS)
    bits = frame[frame.shape[0] // 4 : -(frame.shape[0] // 4), middles].mean((0, 2)) > 126
    return int((bits << np.arange(BITS)).sum())


def write_kind(
    folder: Path,
    kind: str,
    *,
    num_frames: int = 50,
    size: tuple[int, int] = (48, 64),
    rate: int = 25,
    pts: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Write a file of one of `KINDS`; its frames are `numbered`.

    Args:
        folder: where.
        kind: its ending.
        num_frames: how many frames.
        size: height and width in pixels.
        rate: frames a second, where `pts` does not say otherwise.
        pts: milliseconds at which each frame is shown.
        options: of the encoder.
        aspect: of a pixel, width by height.
    """
    import av
    import av.logging

    av.logging.set_level(None)
    codec, pixels, container_format = KINDS[kind]
    path = folder / f"a.{kind}"
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, options={"x265-params": "log-level=none", **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered(index, size), format="rgb24").reformat(format=pixels)
            if pts is not None:
                frame.pts, frame.time_base = int(pts[index]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
