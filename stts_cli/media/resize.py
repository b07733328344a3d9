"""Resize decoded frames as the stock model's processor does, so that keep ratio 1 is the stock model on any video.

`--resize decoder` leaves it to the decoder instead: faster, with another filter. torch is imported by the first frame
that is resized, so that processes that only read files of the right size start without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stts_cli.errors import InputError

RESIZES = ("model", "decoder")
DECODER = "decoder"
_ANTIALIAS = "antialias-"
NOTE = "frames are resized by the decoder, not as the model's own processor does: keep ratio 1 is not the stock model"


def check_resize(resize: str) -> None:
    """Raise InputError unless it is one of `RESIZES`."""
    if resize not in RESIZES:
        raise InputError(f"--resize {resize}: must be {' or '.join(RESIZES)}.")


def choose_filter(resize: str, resample: str) -> str:
    """Return the filter that frames are resized with: the model's own, `resample`, or `DECODER`; checks `resize`."""
    check_resize(resize)
    return DECODER if resize == DECODER else resample


class Resizer:
    """Resize frames as transformers' video processors do on a CPU.

    "bilinear" and "bicubic" are Molmo2's: in float32, no antialiasing, rounded; one buffer serves all frames of a
    video, as a new one for each lets the process grow by a gigabyte and more. Behind "antialias-" a filter works on the
    bytes: "antialias-bicubic", "antialias-lanczos" (which is bicubic where torch has no Lanczos filter, as in
    torchvision); a number behind it, as in "antialias-lanczos-512", is the length that the longer edge takes first.

    Args:
        size: height and width wanted, in pixels; the aspect ratio is not kept. None leaves frames as they are.
        resample: the filter; with `DECODER`, frames are of that size already.
    """

    def __init__(self, size: tuple[int, int] | None, resample: str) -> None:
        self.size, self.resample = size, resample
        self._pixels: Any = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Return a uint8 (H, W, 3) frame as uint8 (*size, 3)."""
        if self.size is None or frame.shape[:2] == self.size:
            return frame
        import torch
        from torch.nn import functional

        planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        if self.resample.startswith(_ANTIALIAS):
            name, _, edge = self.resample.removeprefix(_ANTIALIAS).partition("-")
            for size in [*([_fit(frame.shape[:2], int(edge))] if edge else []), self.size]:
                planes = _antialiased(planes, size, name)
            smooth: np.ndarray = planes[0].permute(1, 2, 0).contiguous().numpy()
            return smooth
        if self._pixels is None or self._pixels.shape != planes.shape:
            self._pixels = torch.empty(planes.shape, dtype=torch.float32)
        self._pixels.copy_(planes)
        x = functional.interpolate(self._pixels, self.size, mode=self.resample, align_corners=False, antialias=False)
        resized: np.ndarray = x.round_().clamp_(0, 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous().numpy()
        return resized


def _fit(size: tuple[int, ...], edge: int) -> tuple[int, int]:
    """Return the size whose longer edge is `edge`, the shorter one even where it is not 1, as SmolVLM's processor."""
    height, width = size
    aspect = width / height
    shorter = int(edge / aspect) if width >= height else int(edge * aspect)
    shorter = max(shorter + shorter % 2, 1)
    return (shorter, edge) if width >= height else (edge, shorter)


def _antialiased(planes: Any, size: tuple[int, int], name: str) -> Any:
    from torch.nn import functional

    if tuple(planes.shape[-2:]) == size:
        return planes
    try:
        return functional.interpolate(planes, size, mode=name, align_corners=False, antialias=True)
    except (NotImplementedError, ValueError):
        if name != "lanczos":
            raise
        return functional.interpolate(planes, size, mode="bicubic", align_corners=False, antialias=True)
