"""GLM-4.1V and GLM-4.6V: transformers' own classes, and prompt and pixels as its processors for them make them.

What differs from the stock model:

- Windows are dropped inside the ViT, so each block gets the rotary table's rows of the patches that are left. Patches
  stay in the stock order, the four of a window one after the other.
- Positions are those of the whole prompt: what is left keeps its own, and text does not move.
- Frames are what the caller chose. A unit is two frames, an odd one is filled up with its last frame, as stock does; a
  picture is asked as a video of one frame.
- GLM-4.6V answers without thinking unless asked to. GLM-4.1V-Thinking always thinks: its chat template has no choice.

Source: GLM-4.1V, GLM-4.6V; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stts_cli.config.glm4v import Glm4vShape, Glm46VShape, RoundedBudget
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.units import (
    UnitFamily,
    UnitProcessor,
    UnitVit,
    places,
    read_unit_settings,
)
from stts_cli.settings import Layout

_SIZE = {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 2 * 30000}  # pixels of a whole video: the defaults
_MARKS = {  # special tokens, and their keys in the config
    "<|image|>": "image_token_id",
    "<|video|>": "video_token_id",
    "<|begin_of_image|>": "image_start_token_id",
    "<|end_of_image|>": "image_end_token_id",
    "<|begin_of_video|>": "video_start_token_id",
    "<|end_of_video|>": "video_end_token_id",
}
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class _Vit(UnitVit):
    """The ViT on units of one layout; see `pruning.Vit`."""

    def __init__(self, family: Glm4vFamily, layout: Layout) -> None:
        self.tower = tower = family.model.model.visual
        device, weight = family.model.device, tower.embeddings.position_embedding.weight
        where = places(layout, device)
        grid = torch.tensor([[1, *layout.grid]], device=device)
        nothing = torch.zeros(len(where), weight.shape[1], dtype=weight.dtype, device=device)
        self.table = tower.embeddings(nothing, [len(where)], grid, where[:, 0], where[:, 1])
        super().__init__(family.vit_blocks, family.taps, tower.rotary_pos_emb(weight, where))

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (U, N, patch_dim) into what block 0 takes, (U, N, D)."""
        hidden = self.tower.patch_embed(patches.to(self.tower.device, self.tower.dtype).flatten(0, 1))
        embedded: Tensor = self.tower.post_conv_layernorm(hidden).view(len(patches), self.num_patches, -1) + self.table
        return embedded


class Glm4vFamily(UnitFamily):
    """A loaded GLM-4.1V with its scorer; its arguments are those of `Family`."""

    model_class = "Glm4vForConditionalGeneration"
    shape_class: ClassVar[type[Glm4vShape]] = Glm4vShape
    video_tag = "<|video|>"
    placeholder = "<|image|>"
    visual_words = ("<|image|>",)

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        vision = config.vision_config
        found = read_unit_settings(vision, checkpoint, given)
        size = {**_SIZE, **(found.get("size") or {})}
        edges = int(size["shortest_edge"]), int(size["longest_edge"])
        rule = RoundedBudget(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, *edges)
        mean, std = tuple(found.get("image_mean", _MEAN)), tuple(found.get("image_std", _STD))
        return {"frames": UnitProcessor(mean, std, "antialias-bicubic"), "layout_rule": rule}, []

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads: the last."""
        return [len(self.blocks) - 1]

    @property
    def scorer_sizes(self) -> dict[str, int]:
        """Arguments of a `TokenScorer` for this ViT, whose MLP is as wide as what comes out of the connector."""
        return {**super().scorer_sizes, "mlp_size": self.model.config.vision_config.out_hidden_size}

    def vit(self, layout: Layout) -> _Vit:
        """Return the ViT on units of a layout."""
        return _Vit(self, layout)

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""
        tower = self.model.model.visual
        rows, side = tower.post_layernorm(features.index_select(0, pool_index.flatten())), tower.spatial_merge_size
        windows = rows.view(-1, side, side, rows.shape[-1]).permute(0, 3, 1, 2)
        visual_tokens: Tensor = tower.merger(tower.downsample(windows).flatten(1))
        return visual_tokens

    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: of each unit marks, a placeholder a window, and its first frame's time."""
        unit = "<|begin_of_image|>" + self.placeholder * layout.num_windows + "<|end_of_image|>"
        return "".join(unit + self.shape_class.time_word(time) for time in timestamps_s[:: layout.frames_per_unit])

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        found = BaseModelOutputWithPooling(pooler_output=tuple(visual_tokens))
        return {"input_ids": input_ids, "mm_token_type_ids": 2 * is_visual, "mm_encoder_outputs": {"video": found}}

    @classmethod
    def random_parts(cls, shape: Glm4vShape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        from transformers import AutoConfig

        text, turned = dict(shape.text_config), shape.text_config.head_dim // 4  # pairs that positions turn
        rows = (turned - turned // 4) // 2
        text["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [turned - 2 * rows, rows, rows],
        }
        start = shape.text_config.vocab_size - len(_MARKS)
        config = AutoConfig.for_model(
            shape.model_type,
            vision_config=dict(shape.vision_config),
            text_config=text,
            tie_word_embeddings=shape.tie_word_embeddings,
            **{name: start + number for number, name in enumerate(_MARKS.values())},
        )
        size = dict(zip(("shortest_edge", "longest_edge"), shape.size, strict=True))
        return config, byte_tokenizer(start, list(_MARKS)), {"size": size}


class Glm46VFamily(Glm4vFamily):
    """A loaded GLM-4.6V with its scorer; its arguments are those of `Family`."""

    model_class = "Glm46VForConditionalGeneration"
    shape_class = Glm46VShape
    answer_start = "\n"
