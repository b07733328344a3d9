"""Frames to patches: resize, rescale, normalise, cut; uint8 (T, H, W, 3) in, (T, N, patch_dim) out.

Comes between video reading and the ViT. Plain torch, equal to what transformers' video processors compute, without
their need of torchvision. Which frames are read is media/video.py's choice, and it has them resized already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stts_cli.errors import InputError
from stts_cli.media.resize import Resizer
from stts_cli.settings import Layout

_FRAMES_AT_ONCE = 32
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # numbers of PIL
_FILES = ("video_preprocessor_config.json", "processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class FrameProcessor:
    """A checkpoint's way from pixels to patches."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # by colour, of pixels in [0, 1]
    std: tuple[float, ...] = (0.5, 0.5, 0.5)  # by colour
    resample: str = "bilinear"  # as for `Resizer`

    def __call__(self, frames: Tensor, layout: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Turn frames, uint8 (T, H, W, 3) with T at least 1, into patches; a unit is a frame.

        Returns:
            (T, N, patch_size * patch_size * 3) of `dtype` on `device`, patches row by row, pixels row by row, colours
            last.
        """
        (rows, cols), side = layout.grid, layout.frame_size[0] // layout.grid[0]
        parts = []
        for x in self.normalized(frames, layout, device, _FRAMES_AT_ONCE):
            x = x[:, : rows * side, : cols * side].view(len(x), rows, side, cols, side, 3)
            parts.append(x.transpose(2, 3).reshape(len(x), rows * cols, side * side * 3).to(dtype))
        return torch.cat(parts)

    def normalized(self, frames: Tensor, layout: Layout, device: torch.device, at_once: int) -> Iterator[Tensor]:
        """Resize frames, uint8 (T, H, W, 3), and normalise their colours: float32 of the layout's size, in pieces.

        Yields:
            At most `at_once` frames.
        """
        mean, std = (255 * torch.tensor(values, device=device) for values in (self.mean, self.std))
        for chunk in frames.split(at_once):
            if tuple(chunk.shape[1:3]) != layout.frame_size:
                resize = Resizer(layout.frame_size, self.resample)
                chunk = torch.from_numpy(np.stack([resize(frame.numpy()) for frame in chunk.cpu()]))
            yield (chunk.to(device).float() - mean) / std


def to_images(patches: Tensor, layout: Layout) -> Tensor:
    """Put patches of `FrameProcessor`, (T, N, patch_dim), back into frames (T, 3, H, W), for a convolution to cut."""
    rows, cols = layout.grid
    side = layout.frame_size[0] // rows
    pixels = patches.view(len(patches), rows, cols, side, side, 3).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(len(patches), 3, rows * side, cols * side)


def read_video_settings(
    find_file: Callable[[str], Path | None], image_keys: Collection[str] = ("image_mean", "image_std")
) -> dict[str, Any]:
    """Read a checkpoint's video-processor settings; a key that is null is left out.

    Keys are taken from the video part of processor_config.json, else from video_preprocessor_config.json, else, if
    they are among `image_keys`, from preprocessor_config.json, which is made for images. transformers reads them so.
    """
    documents = {}
    for name in _FILES:
        path = find_file(name)
        documents[name] = json.loads(path.read_text(encoding="utf-8")) if path else {}
    video, whole, image = (documents[name] for name in _FILES)
    given = {key: image.get(key) for key in image_keys}
    for more in (video, whole.get("video_processor") or {}):
        given |= {key: value for key, value in more.items() if value is not None}
    return {key: value for key, value in given.items() if value is not None}


def read_frame_processor(
    find_file: Callable[[str], Path | None], default: Mapping[str, Any]
) -> tuple[FrameProcessor, Layout]:
    """Read a checkpoint's video-processor settings, and how every video is cut.

    `default` holds the values of keys that no file gives (size, patch_size, pooling_size).

    Raises:
        InputError: settings that cannot be honoured.
    """
    given = {**default, **read_video_settings(find_file)}
    resample = given.get("resample", 2)
    if resample not in _RESAMPLE:
        raise InputError(f"{_FILES[0]}: resample {resample}; must be 2 (bilinear) or 3 (bicubic).")
    size, side = (given["size"]["height"], given["size"]["width"]), given["patch_size"]
    if size[0] % side or size[1] % side:
        raise InputError(f"{_FILES[0]}: size {size[0]}x{size[1]}; must divide into patches of {side} px.")
    mean, std = (tuple(given.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
    layout = Layout(size, (size[0] // side, size[1] // side), tuple(given["pooling_size"]))
    return FrameProcessor(mean, std, _RESAMPLE[resample]), layout
