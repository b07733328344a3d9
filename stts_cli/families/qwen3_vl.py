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
from torch import Tensor, nn

from stts_cli.config.qwen3_vl import PixelBudget, Qwen3VLMoeShape, Qwen3VLShape, unit_times
from stts_cli.config.shapes import Shape
from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError
from stts_cli.families.base import Family
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.frames import read_video_settings
from stts_cli.families.units import UnitProcessor, UnitVit, places, window_rows
from stts_cli.settings import Layout, LayoutRule

_FILE = "video_preprocessor_config.json"
_MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_SIZE = {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32}  # pixels of a whole video: the class's defaults


class _Vit(UnitVit):
    """The ViT on units of one layout; see `pruning.Vit`."""

    def __init__(self, family: Qwen3VLFamily, layout: Layout) -> None:
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        self.tower = tower = family.model.model.visual
        self.table = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, *layout.grid]], device=family.model.device),
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=layout.window[0],
        )
        rotation = tower.rotary_pos_emb(tower.pos_embed.weight, places(layout, family.model.device))
        super().__init__(family.vit_blocks, family.taps, rotation)

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (U, N, patch_dim) into what block 0 takes, (U, N, D)."""
        hidden: Tensor = self.tower.patch_embed(patches.to(self.tower.device, self.tower.dtype).flatten(0, 1))
        index, weights = self.table
        where = (self.tower.pos_embed(index) * weights[:, :, None]).sum(1)
        return hidden.view(len(patches), self.num_patches, -1) + where.to(hidden.dtype)


class Qwen3VLFamily(Family):
    """A loaded Qwen3-VL with its scorer; its arguments are those of `Family`."""

    model_class = "Qwen3VLForConditionalGeneration"
    shape_class: ClassVar[type[Qwen3VLShape]] = Qwen3VLShape
    video_tag = placeholder = "<|video_pad|>"
    visual_words = ("<|video_pad|>",)
    part_names: ClassVar = {"connector": "merger", "vit": ".visual."}  # DeepStack's mergers too
    starts_with_bos = False
    frames_per_unit = 2

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        found = read_video_settings(checkpoint.find_file) if checkpoint else {}
        found = {**found, **{key: value for key, value in given.items() if value is not None}}
        vision = config.vision_config
        own = {
            "patch_size": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        }
        for key, value in own.items():
            if found.get(key, value) != value:
                raise InputError(f"{_FILE}: {key} {found[key]}; the model's is {value}.")
        if found.get("resample", 3) != 3:
            raise InputError(f"{_FILE}: resample {found['resample']}; must be 3 (bicubic).")
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
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order."""
        return list(self.model.model.visual.blocks)

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads: those of DeepStack, then the last."""
        return [*self.model.model.visual.deepstack_visual_indexes, len(self.blocks) - 1]

    def vit(self, layout: Layout) -> _Vit:
        """Return the ViT on units of a layout."""
        return _Vit(self, layout)

    def embed(self, patches: Tensor) -> Tensor:
        """Refuse: positions depend on the layout; see `vit`."""
        raise NotImplementedError("ask vit(layout)")

    def window_index(self, layout: Layout) -> Tensor:
        """Return the patches of each window, int64 (W, P): they stand one after the other."""
        return window_rows(layout, self.model.device)

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

    def positions(self, dense_ids: Tensor, layout: Layout) -> Tensor:
        """Return each token's time, row and column, (3, 1, L), as stock counts them in the whole prompt."""
        is_visual = dense_ids == self._token_id(self.placeholder)
        grid = torch.tensor([[int(is_visual.sum()) // layout.num_windows, *layout.grid]])
        found: Tensor = self.model.model.get_rope_index(dense_ids, 2 * is_visual.int(), video_grid_thw=grid)[0]
        return found

    def shape(self, layout: Layout | None = None) -> ModelShape:
        """Return the sizes that FLOPs depend on; see `Family`."""
        rule = self.layout_rule
        assert isinstance(rule, PixelBudget)
        return self.shape_class.of(self.model.config, rule).sizes_of(layout or self.layout)

    @classmethod
    def read_shape(cls, config: Any, rule: LayoutRule) -> Shape:
        """Read the sizes that a stock config holds; see `Family`."""
        assert isinstance(rule, PixelBudget)
        return cls.shape_class.of(config, rule)

    @classmethod
    def random_parts(cls, shape: Qwen3VLShape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        from transformers import AutoConfig

        vision, text = shape.vision_config, shape.text_config
        start = text.vocab_size - len(_MARKS)
        half = text.head_dim // 2
        config = AutoConfig.for_model(
            shape.model_type,
            vision_config={**dict(vision), "out_hidden_size": text.hidden_size},
            text_config={
                **dict(text),
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 5_000_000.0,
                    "mrope_section": [half - 2 * (half * 5 // 16), half * 5 // 16, half * 5 // 16],
                    "mrope_interleaved": True,
                },
            },
            tie_word_embeddings=shape.tie_word_embeddings,
            **{f"{token[2:-2].replace('pad', 'token_id')}": start + k for k, token in enumerate(_MARKS[:2])},
            **{f"{token[2:-2]}_token_id": start + k for k, token in enumerate(_MARKS[2:], start=2)},
        )
        size = dict(zip(("shortest_edge", "longest_edge"), shape.size, strict=True))
        return config, byte_tokenizer(start, _MARKS), {"size": size}


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
