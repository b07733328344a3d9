"""Qwen2-VL and Qwen2.5-VL: transformers' own classes, prompt and pixels as their stock processors make them.

What differs from the stock models:

- Windows are dropped inside the ViT, so each block gets the rotary table's rows of the patches that are left.
- Most blocks of Qwen2.5-VL attend within squares of 4x4 windows. Stock lines the patches of a unit up square by square,
  and so do we; visual tokens come out row by row. Each square is left with its kept patches, and an empty one vanishes.
  A scorer behind one of these blocks has seen squares alone: the first whole block is the eighth.
- Positions are those of the whole prompt: what is left keeps its own, and text does not move. Qwen2.5-VL's count the
  time between units, taken from the frames' own times as if they were evenly spread, to a hundredth of a second.
- Frames are what the caller chose. A unit is two frames, an odd one is filled up with its last frame, as stock does.
- A checkpoint that says nothing of videos gets the classes' limits of pixels; stock takes those of its images, up to
  12.8 million a frame.

Source: Qwen2-VL, Qwen2.5-VL; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stts_cli.config.qwen2_vl import FramePixels, Qwen2VLShape, Qwen25VLShape, unit_parts
from stts_cli.families.base import scorer_sizes
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.units import (
    UnitFamily,
    UnitProcessor,
    UnitVit,
    places,
    random_unit_parts,
    read_unit_settings,
    window_rows,
)
from stts_cli.settings import Layout

_SIZE = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}  # pixels of a frame: the class's defaults
_VIDEO_TOKENS = 128_000  # that all frames of a video may make, where that is bounded: the class's default
_CLIP = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


class _Vit(UnitVit):
    """The ViT on units of one layout; see `pruning.Vit`."""

    def __init__(self, family: Qwen2VLFamily, layout: Layout) -> None:
        self.tower = tower = family.model.model.visual
        where = places(layout, family.device)
        self.order = family.patch_order(layout)
        super().__init__(family.vit_blocks, family.taps, tower.rotary_pos_emb(where, where[self.order]))
        self.squares = family.squares(layout)

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (U, N, patch_dim) into what block 0 takes, (U, N, D)."""
        hidden: Tensor = self.tower.patch_embed(patches.to(self.tower.device, self.tower.dtype).flatten(0, 1))
        return hidden.view(len(patches), self.num_patches, -1)[:, self.order]

    def parts(self, number: int) -> Sequence[int]:
        """Return the squares that attend within themselves in a block, as patches of each."""
        return () if number in getattr(self.tower, "fullatt_block_indexes", [number]) else self.squares


class Qwen2VLFamily(UnitFamily):
    """A loaded Qwen2-VL with its scorer; its arguments are those of `Family`."""

    model_class = "Qwen2VLForConditionalGeneration"
    shape_class: ClassVar[Any] = Qwen2VLShape
    video_tag = "<|vision_start|><|video_pad|><|vision_end|>"

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        vision = config.vision_config
        found = {**_CLIP, **read_unit_settings(vision, checkpoint, given)}
        size = {**_SIZE, **(found.get("size") or {})}
        least, most = found.get("min_pixels", size["shortest_edge"]), found.get("max_pixels", size["longest_edge"])
        factor = vision.patch_size * vision.spatial_merge_size
        total = int(found.get("max_video_tokens", _VIDEO_TOKENS) * factor * factor * 0.9)
        rule = FramePixels(
            vision.patch_size,
            vision.spatial_merge_size,
            vision.temporal_patch_size,
            int(least),
            int(most),
            total if found.get("cap_pixels_per_frame") else 0,
        )
        frames = UnitProcessor(tuple(found["image_mean"]), tuple(found["image_std"]), "antialias-bicubic")
        return {"frames": frames, "layout_rule": rule}, []

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads: the last."""
        return [len(self.blocks) - 1]

    @property
    def scorer_sizes(self) -> dict[str, int]:
        """Arguments of a `TokenScorer` for this ViT."""
        vision = self.model.config.vision_config
        width = vision.embed_dim
        sizes = {"hidden_size": width, "num_heads": vision.num_heads, "mlp_size": int(width * vision.mlp_ratio)}
        return {**sizes, "head_dim": width // vision.num_heads}

    def vit(self, layout: Layout) -> _Vit:
        """Return the ViT on units of a layout."""
        return _Vit(self, layout)

    def patch_order(self, layout: Layout) -> Tensor:
        """Return the patches of a unit in the order of the ViT, int64 (N,), numbered as `UnitProcessor` has them."""
        return torch.arange(layout.num_patches, device=self.device)

    def squares(self, layout: Layout) -> Sequence[int]:
        """Return the parts of a unit that attend within themselves in some blocks, as patches of each."""
        return ()

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D) of kept patches and their table (V, P) into (V, D of the LM)."""
        order = pool_index[:, 0].argsort()  # as the features stand
        merged: Tensor = self.model.model.visual.merger(features.index_select(0, pool_index[order].flatten()))
        return merged[order.argsort()]

    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: marks and a placeholder a window; of times it says nothing."""
        pads = self.placeholder * (layout.num_units(len(timestamps_s)) * layout.num_windows)
        return f"<|vision_start|>{pads}<|vision_end|>"

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        outputs = {"video": BaseModelOutputWithPooling(pooler_output=tuple(visual_tokens))}
        return {"input_ids": input_ids, "mm_token_type_ids": 2 * is_visual, "mm_encoder_outputs": outputs}

    @classmethod
    def random_parts(cls, shape: Any) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        text, half = shape.text_config, shape.text_config.head_dim // 2
        sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
        rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": sections}
        own = {key: value for key, value in dict(text).items() if key not in ("model_type", "head_dim")}
        own |= {"rope_parameters": rope, "bos_token_id": None, "eos_token_id": None}
        vision = {"out_hidden_size": text.hidden_size, **dict(shape.vision_config)}
        return random_unit_parts(shape, vision, own)


class Qwen25VLFamily(Qwen2VLFamily):
    """A loaded Qwen2.5-VL with its scorer; its arguments are those of `Family`."""

    model_class = "Qwen2_5_VLForConditionalGeneration"
    shape_class = Qwen25VLShape

    @property
    def scorer_sizes(self) -> dict[str, int]:
        """Arguments of a `TokenScorer` for this ViT."""
        return scorer_sizes(self.model.config.vision_config)

    def patch_order(self, layout: Layout) -> Tensor:
        """Return the patches of a unit square by square, int64 (N,), numbered as `UnitProcessor` has them."""
        return window_rows(layout, self.device)[self._window_order(layout)].flatten()

    def squares(self, layout: Layout) -> Sequence[int]:
        """Return the squares of a unit that attend within themselves in most blocks, as patches of each."""
        return unit_parts(layout, self.model.config.vision_config.window_size)

    def window_index(self, layout: Layout) -> Tensor:
        """Return the patches of each window, int64 (W, P), numbered as `embed` has them."""
        return window_rows(layout, self.device)[self._window_order(layout).argsort()]

    def time_scale(self, timestamps_s: Sequence[float]) -> Mapping[str, Any]:
        """Return the seconds between units, for `positions`."""
        between = (timestamps_s[-1] - timestamps_s[0]) / max(1, len(timestamps_s) - 1)
        return {"second_per_grid_ts": [self.frames_per_unit * round(between, 2)]}

    def _window_order(self, layout: Layout) -> Tensor:
        """Return the windows of a unit in the order of the ViT, int64 (W,)."""
        from transformers.vision_utils import get_vision_window_index

        vision = self.model.config.vision_config
        grid = torch.tensor([[1, *layout.grid]])
        order, _ = get_vision_window_index(grid, layout.window[0], vision.window_size, vision.patch_size)
        return order.to(self.device)
