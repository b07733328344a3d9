"""Vision encoders of Qwen's kind: patches run through the frames of a unit, and are turned by their row and column.

The patches of a window stand one after the other, windows row by row. All units of a call stand in one row, so what a
block attends over is said by borders, and its rotary table has a row a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stts_cli.config.shapes import Shape
from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError
from stts_cli.families.base import Family
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.frames import FrameProcessor, read_video_settings
from stts_cli.pruning import current_attention
from stts_cli.settings import Layout, LayoutRule

_UNITS_AT_ONCE = 16
_FILE = "video_preprocessor_config.json"
_MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


class UnitProcessor(FrameProcessor):
    """From pixels to patches through the frames of a unit, the patches of a window one after the other."""

    def __call__(self, frames: Tensor, layout: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Turn frames, uint8 (T, H, W, 3) with T at least 1, into (U, N, 3 * frames * side * side): colours first."""
        deep = layout.frames_per_unit
        if missing := -len(frames) % deep:
            frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
        (rows, cols), (merge, _) = layout.grid, layout.window
        side = layout.frame_size[0] // rows
        parts = []
        for x in self.normalized(frames, layout, device, _UNITS_AT_ONCE * deep):
            x = x.view(-1, deep, rows // merge, merge, side, cols // merge, merge, side, 3)
            x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
            parts.append(x.reshape(len(x), rows * cols, 3 * deep * side * side).to(dtype))
        return torch.cat(parts)


class UnitVit:
    """The ViT on units of one layout; see `pruning.Vit`. A family's own adds `embed`.

    Args:
        blocks: the stock blocks, up to the deepest that is read.
        taps: blocks whose outputs are read.
        rotation: cosines and sines, (N, head width) each, of the patches of a unit.
    """

    def __init__(self, blocks: Sequence[nn.Module], taps: Sequence[int], rotation: Sequence[Tensor]) -> None:
        self.vit_blocks, self.taps, self.rotation = blocks, taps, rotation
        self.num_patches = len(rotation[0])

    def parts(self, number: int) -> Sequence[int]:
        """Return the parts of a unit that attend within themselves in a block; see `pruning.pruned_vit.Vit`."""
        return ()

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one stock block on units (U, N, D), or on the packed patches of several (1, M, D)."""
        attention, (batch, length) = current_attention(), hidden.shape[:2]
        borders = [0, batch * length]  # what is attended over is the context's affair
        if attention is not None and attention.packed is not None:
            rotation = tuple(part[attention.packed.index % self.num_patches] for part in self.rotation)
        else:
            rotation = tuple(part.repeat(batch, 1) for part in self.rotation)
            if attention is None or attention.key_bias is None:
                borders = [0, *accumulate([*(self.parts(number) or [length])] * batch)]
        ends = torch.tensor(borders, dtype=torch.int32)
        out: Tensor = self.vit_blocks[number](hidden.flatten(0, 1), cu_seqlens=ends, position_embeddings=rotation)
        return out.view(batch, length, -1)


class UnitFamily(Family):
    """A loaded model of Qwen's kind with its scorer; its arguments are those of `Family`."""

    shape_class: ClassVar[Any]  # the `VaryingShape` of its sizes
    video_tag = placeholder = "<|video_pad|>"
    visual_words = ("<|video_pad|>",)
    part_names: ClassVar = {"connector": "merger", "vit": ".visual."}
    starts_with_bos = False
    frames_per_unit = 2

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order."""
        return list(self.model.model.visual.blocks)

    def embed(self, patches: Tensor) -> Tensor:
        """Refuse: positions depend on the layout; see `vit`."""
        raise NotImplementedError("ask vit(layout)")

    def window_index(self, layout: Layout) -> Tensor:
        """Return the patches of each window, int64 (W, P): they stand one after the other."""
        return window_rows(layout, self.device)

    def positions(self, dense_ids: Tensor, layout: Layout, timestamps_s: Sequence[float]) -> Tensor | None:
        """Return each token's time, row and column, (3, 1, L), as stock counts them in the whole prompt."""
        is_visual = dense_ids == self._token_id(self.placeholder)
        found: Tensor = self.model.model.get_rope_index(
            dense_ids,
            2 * is_visual.int(),
            video_grid_thw=torch.tensor([[layout.num_units(len(timestamps_s)), *layout.grid]]),
            **self.time_scale(timestamps_s),
        )[0]
        return found

    def time_scale(self, timestamps_s: Sequence[float]) -> Mapping[str, Any]:
        """Return what the stock model is told about the time between units, for `positions`."""
        return {}

    def shape(self, layout: Layout | None = None) -> ModelShape:
        """Return the sizes that FLOPs depend on; see `Family`."""
        found: ModelShape = self.shape_class.of(self.model.config, self.layout_rule).sizes_of(layout or self.layout)
        return found

    @classmethod
    def read_shape(cls, config: Any, rule: LayoutRule) -> Shape:
        """Read the sizes that a stock config holds; see `Family`."""
        found: Shape = cls.shape_class.of(config, rule)
        return found


def read_unit_settings(vision: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the settings of a video processor that resizes by bicubic; the rest are arguments of `Family.processing`.

    Raises:
        InputError: they contradict the model's vision config.
    """
    found = read_video_settings(checkpoint.find_file) if checkpoint else {}
    found |= {key: value for key, value in given.items() if value is not None}
    own = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}
    for key, name in own.items():
        value = getattr(vision, name, found.get(key))  # a model that does not say takes the processor's
        if found.get(key, value) != value:
            raise InputError(f"{_FILE}: {key} {found[key]}; the model's is {value}.")
    if found.get("resample", 3) != 3:
        raise InputError(f"{_FILE}: resample {found['resample']}; must be 3 (bicubic).")
    return found


def random_unit_parts(
    shape: Any, vision: Mapping[str, Any], text: Mapping[str, Any]
) -> tuple[Any, Any, Mapping[str, Any]]:
    """Return what a model of given sizes is made of, see `Family.random_parts`; two are the stock config's parts."""
    from transformers import AutoConfig

    start = shape.text_config.vocab_size - len(_MARKS)
    config = AutoConfig.for_model(
        shape.model_type,
        vision_config=dict(vision),
        text_config=dict(text),
        tie_word_embeddings=shape.tie_word_embeddings,
        **{f"{token[2:-2].replace('pad', 'token_id')}": start + k for k, token in enumerate(_MARKS[:2])},
        **{f"{token[2:-2]}_token_id": start + k for k, token in enumerate(_MARKS[2:], start=2)},
    )
    size = dict(zip(("shortest_edge", "longest_edge"), shape.size, strict=True))
    return config, byte_tokenizer(start, _MARKS), {"size": size}


def places(layout: Layout, device: Any) -> Tensor:
    """Return the row and the column of each patch of a unit, int64 (N, 2), in the order that `UnitProcessor` makes."""
    from transformers.vision_utils import get_vision_position_ids

    found: Tensor = get_vision_position_ids(torch.tensor([[1, *layout.grid]], device=device), layout.window[0])
    return found


def window_rows(layout: Layout, device: Any) -> Tensor:
    """Return the patches of each window, int64 (W, P): they stand one after the other."""
    return torch.arange(layout.num_patches, device=device).view(layout.num_windows, -1)
