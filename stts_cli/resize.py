"""Resize decoded frames as the stock model's processor does, so that keep ratio 1 is the stock model on any video.

`--resize decoder` leaves it to the decoder instead: faster, with another filter. torch is imported by the first frame
that is resized, so that processes that only read files of the right size start without it.
"""

from __future__ import annotations

import numpy as np

from stts_cli.errors import InputError

RESIZES = ("model", "decoder")
DECODER = "decoder"
NOTE = "frames are resized by the decoder, not as the model's own processor does: keep ratio 1 is not the stock model"


def check_resize(resize: str) -> None:
    """Raise InputError unless it is one of `RESIZES`."""
    if resize not in RESIZES:
        raise InputError(f"--resize {resize}: must be {' or '.join(RESIZES)}.")


def choose_filter(resize: str, resample: str) -> str:
    """Return the filter that frames are resized with.

    Args:
        resize: one of `RESIZES`.
        resample: the model's own filter, `Family.resample`.

    Returns:
        `resample`, or `DECODER`.

    Raises:
        InputError: no such way.
    """
    check_resize(resize)
    return DECODER if resize == DECODER else resample


def resize_frame(frame: np.ndarray, size: tuple[int, int], resample: str) -> np.ndarray:
    """Resize one frame as transformers' video processor of Molmo2 does: in float32, no antialiasing, rounded.

    Args:
        frame: uint8 (H, W, 3).
        size: height and width wanted, in pixels; the aspect ratio is not kept.
        resample: "bilinear" or "bicubic".

    Returns:
        uint8 (*size, 3).
    """
    import torch
    from torch.nn import functional

    x = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].contiguous().float()
    x = functional.interpolate(x, size, mode=resample, align_corners=False, antialias=False)
    resized: np.ndarray = x.round_().clamp_(0, 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous().numpy()
    return resized
