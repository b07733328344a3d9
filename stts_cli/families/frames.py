"""Frames to patches: resize, rescale, normalise, cut; uint8 (T, H, W, 3) in, (T, N, patch_dim) out.

Comes between video reading and the ViT. Plain torch, equal to what transformers' video processors compute, without
their need of torchvision. Which frames are read is media/video.py's choice, and it has them resized already.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stts_cli.errors import InputError
from stts_cli.media.resize import Resizer

_FRAMES_AT_ONCE = 32
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # numbers of PIL
_FILES = ("video_preprocessor_config.json", "processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class FrameProcessor:
    """A checkpoint's way from pixels to patches.

    Attributes:
        size: height and width of a frame in pixels.
        patch_size: side of a patch in pixels.
        pool: patch rows and columns of a window.
        mean: by colour, of pixels in [0, 1].
        std: by colour.
        resample: "bilinear" or "bicubic".
    """

    size: tuple[int, int]
    patch_size: int
    pool: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: str = "bilinear"

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns of a frame."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    def __call__(self, frames: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Turn frames into patches.

        Args:
            frames: uint8 (T, H, W, 3).
            dtype: of the result.
            device: of the result.

        Returns:
            (T, N, patch_size * patch_size * 3), patches row by row, pixels row by row, colours last.

        Raises:
            InputError: not a uint8 tensor of that shape, or no frame at all.
        """
        if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[-1] != 3 or len(frames) == 0:
            raise InputError(f"frames are {frames.dtype} {tuple(frames.shape)} -> uint8 (T, H, W, 3) with T at least 1")
        rows, cols, side = *self.grid, self.patch_size
        mean = torch.tensor(self.mean, device=device) * 255
        std = torch.tensor(self.std, device=device) * 255
        parts = []
        for chunk in frames.split(_FRAMES_AT_ONCE):
            if tuple(chunk.shape[1:3]) != self.size:
                resize = Resizer(self.size, self.resample)
                chunk = torch.from_numpy(np.stack([resize(frame.numpy()) for frame in chunk.cpu()]))
            x = (chunk.to(device).float() - mean) / std
            x = x[:, : rows * side, : cols * side].view(len(x), rows, side, cols, side, 3)
            parts.append(x.transpose(2, 3).reshape(len(x), rows * cols, side * side * 3).to(dtype))
        return torch.cat(parts)


def read_frame_processor(find_file: Callable[[str], Path | None], default: dict[str, Any]) -> FrameProcessor:
    """Read a checkpoint's video-processor settings.

    Args:
        find_file: name of a file of the checkpoint -> where it is, or None.
        default: values of keys that the checkpoint does not give (size, patch_size, pooling_size).

    Returns:
        The processor. Keys are taken from video_preprocessor_config.json, else from the video part of
        processor_config.json; preprocessor_config.json (made for images) gives only mean and std.

    Raises:
        InputError: settings that cannot be honoured.
    """
    documents = {}
    for name in _FILES:
        path = find_file(name)
        documents[name] = json.loads(path.read_text(encoding="utf-8")) if path else {}
    video, whole, image = (documents[name] for name in _FILES)
    given = {key: image[key] for key in ("image_mean", "image_std") if image.get(key) is not None}
    given |= {k: v for k, v in (whole.get("video_processor") or {}).items() if v is not None}
    given = {**default, **given, **{k: v for k, v in video.items() if v is not None}}
    resample = given.get("resample", 2)
    if resample not in _RESAMPLE:
        raise InputError(
            f"the checkpoint resizes with filter {resample} -> 2 (bilinear) or 3 (bicubic) -> change its settings"
        )
    size, side = (given["size"]["height"], given["size"]["width"]), given["patch_size"]
    if size[0] % side or size[1] % side:
        raise InputError(
            f"frames of {size[0]}x{size[1]} px do not divide into patches of {side} px -> fix the checkpoint"
        )
    mean, std = (tuple(given.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
    return FrameProcessor(size, side, tuple(given["pooling_size"]), mean, std, _RESAMPLE[resample])
