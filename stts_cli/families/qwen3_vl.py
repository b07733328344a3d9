"""Qwen3-VL: transformers' own classes, and prompt and pixels as transformers' Qwen3VLProcessor makes them.

What differs from the stock model:

- Windows are dropped inside the ViT, so each block gets the rotary table's rows of the patches that are left. Patches
  stay in the stock order, the four of a window one after the other.
- The features of the deeper taps (DeepStack) are pruned alike: a visual token here is the token and what is added to it
  in the language model's first layers, side by side.
- Positions are those of the whole prompt: what is left keeps its own, and text does not move.
- Frames are what the caller chose. A unit is two frames, an odd one is filled up with its last frame, as stock does.

Source: Qwen3-VL; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stts_cli.config.qwen3_vl import PixelBudget, Qwen3VLMoeShape, Qwen3VLShape, unit_times
from stts_cli.errors import InputError
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.units import (
    UnitFamily,
    UnitProcessor,
    UnitVit,
    places,
    random_unit_parts,
    read_unit_settings,
)
from stts_cli.settings import Layout

_SIZE = {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32}  # pixels of a whole video: the class's defaults


class _Vit(UnitVit):
    """The ViT on units of one layout; see `pruning.Vit`."""

    def __init__(self, family: Qwen3VLFamily, layout: Layout) -> None:
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        self.tower = tower = family.model.model.visual
        self.table = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, *layout.grid]], device=family.device),
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=layout.window[0],
        )
        rotation = tower.rotary_pos_emb(tower.pos_embed.weight, places(layout, family.device))
        super().__init__(family.vit_blocks, family.taps, rotation)

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (U, N, patch_dim) into what block 0 takes, (U, N, D)."""
        hidden: Tensor = self.tower.patch_embed(patches.to(self.tower.device, self.tower.dtype).flatten(0, 1))
        index, weights = self.table
        where = (self.tower.pos_embed(index) * weights[:, :, None]).sum(1)
        return hidden.view(len(patches), self.num_patches, -1) + where.to(hidden.dtype)


class Qwen3VLFamily(UnitFamily):
    """A loaded Qwen3-VL with its scorer; its arguments are those of `Family`."""

    model_class = "Qwen3VLForConditionalGeneration"
    shape_class: ClassVar[type[Qwen3VLShape]] = Qwen3VLShape

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        vision = config.vision_config
        found = read_unit_settings(vision, checkpoint, given)
        size = {**_SIZE, **(found.get("size") or {})}
        rule = PixelBudget(
            vision.patch_size,
            vision.spatial_merge_size,
            vision.temporal_patch_size,
            int(size["shortest_edge"]),
            int(size["longest_edge"]),
        )
        mean, std = (tuple(found.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
        return {"frames": UnitProcessor(mean, std, "antialias-bicubic"), "layout_rule": rule}, []

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads: those of DeepStack, then the last."""
        return [*self.model.model.visual.deepstack_visual_indexes, len(self.blocks) - 1]

    def vit(self, layout: Layout) -> _Vit:
        """Return the ViT on units of a layout."""
        return _Vit(self, layout)

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D * taps) of kept patches and their table (V, P) into (V, D of the LM * taps).

        The first D are the visual token itself, the others what DeepStack adds to it.
        """
        tower = self.model.model.visual
        *deep, last = features.chunk(len(self.taps), -1)
        rows = pool_index.flatten()
        mergers = zip([tower.merger, *tower.deepstack_merger_list], [last, *deep], strict=True)
        return torch.cat([merger(part.index_select(0, rows)) for merger, part in mergers], -1)

    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: of each unit its mean time, marks and a placeholder a window."""
        unit = "<|vision_start|>" + self.placeholder * layout.num_windows + "<|vision_end|>"
        return "".join(f"<{time:.1f} seconds>{unit}" for time in unit_times(timestamps_s, layout.frames_per_unit))

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        tokens, *deep = zip(*(video.chunk(len(self.taps), -1) for video in visual_tokens), strict=True)
        found = BaseModelOutputWithDeepstackFeatures(pooler_output=tokens, deepstack_features=deep)
        return {"input_ids": input_ids, "mm_token_type_ids": 2 * is_visual, "mm_encoder_outputs": {"video": found}}

    @classmethod
    def random_parts(cls, shape: Qwen3VLShape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        text, half = shape.text_config, shape.text_config.head_dim // 2
        rope = {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_section": [half - 2 * (half * 5 // 16), half * 5 // 16, half * 5 // 16],
            "mrope_interleaved": True,
        }
        vision = {**dict(shape.vision_config), "out_hidden_size": text.hidden_size}
        return random_unit_parts(shape, vision, {**dict(text), "rope_parameters": rope})


class Qwen3VLMoeFamily(Qwen3VLFamily):
    """A loaded Qwen3-VL whose language model has experts; its arguments are those of `Family`."""

    model_class = "Qwen3VLMoeForConditionalGeneration"
    shape_class = Qwen3VLMoeShape

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        text = config.text_config
        if text.mlp_only_layers or text.decoder_sparse_step != 1:
            plain = f"mlp_only_layers {text.mlp_only_layers}, decoder_sparse_step {text.decoder_sparse_step}"
            raise InputError(f"config.json: {plain}; must be [] and 1: every layer must have experts.")
        return super().processing(config, checkpoint, given)
