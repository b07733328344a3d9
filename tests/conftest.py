"""What several tests need: real video files, and a home folder that holds no settings of the person who runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

WriteVideo = Callable[..., Path]


def frame_value(index: int) -> int:
    """Grey level of frame `index` in the videos written here; steps of 4 survive compression."""
    return 16 + 4 * index


@pytest.fixture(scope="session")
def write_video(tmp_path_factory: pytest.TempPathFactory) -> WriteVideo:
    """Write an H.264 file whose frame i is a grey of level `frame_value(i)` with a bright left half."""
    import av

    folder = tmp_path_factory.mktemp("videos")

    def write(
        name: str, *, num_frames: int = 50, fps: int = 10, size: tuple[int, int] = (96, 128), faststart: bool = False
    ) -> Path:
        path = folder / name
        with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.options = {"crf": "12", "bf": "2", "g": "12"}
            for index in range(num_frames):
                pixels = np.full((*size, 3), frame_value(index), np.uint8)
                pixels[:, : size[1] // 2] = 255
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        return path

    return write


@pytest.fixture(scope="session")
def clip_file(write_video: WriteVideo) -> Path:
    """A five-second file: 50 frames at 10 a second."""
    return write_video("five_seconds.mp4")


@pytest.fixture(autouse=True)
def no_user_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the environment's own preset, config file and hub."""
    monkeypatch.delenv("STTS_PRESET", raising=False)
    monkeypatch.delenv("STTS_DEBUG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
