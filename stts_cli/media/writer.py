"""Write frames as a video file: the one place that does."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np


def write_video(path: Path, frames: Iterable[np.ndarray], fps: Fraction) -> None:
    """Write an H.264 mp4 that every browser plays; a broken run leaves no half file.

    Args:
        path: of the file.
        frames: at least one, uint8 (H, W, 3) RGB, all of one size; an odd last row or column is doubled.
        fps: frames a second.
    """
    import av

    part = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    with av.open(os.path.abspath(part), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast", "threads": "1"}
        for number, frame in enumerate(frames):
            height, width = frame.shape[:2]
            if height % 2 or width % 2:
                frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if not number:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    part.replace(path)
