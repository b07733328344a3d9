"""Qwen3.5: transformers' own classes, and prompt and pixels as transformers' Qwen3VLProcessor makes them.

What differs from the stock model: all that differs in Qwen3-VL, whose ViT and processor these are but for DeepStack,
which is not there, and

- Three of four layers of the language model are linear attention: a state that every token changes. It cannot be cut
  back, so the cache of a video is copied for each question, and heeds no mask, so that in training each conversation
  has a row of its own; and dropping a token is not what masking it would be.
- An answer comes without thinking. Earlier answers of a conversation keep the empty thinking that they were given
  behind, which the stock template leaves out.

Source: Qwen3.5; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from stts_cli.config.qwen3_5 import Qwen35MoeShape, Qwen35Shape
from stts_cli.config.qwen3_vl import Qwen3VLShape
from stts_cli.families.qwen3_vl import Qwen3VLFamily
from stts_cli.families.units import random_unit_parts


class Qwen35Family(Qwen3VLFamily):
    """A loaded Qwen3.5 with its scorer; its arguments are those of `Family`."""

    model_class = "Qwen3_5ForConditionalGeneration"
    shape_class: ClassVar[type[Qwen35Shape]] = Qwen35Shape
    cache_reuse = "copy"
    shared_rows = False
    no_thinking = "<think>\n\n</think>\n\n"

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads: the last."""
        return [len(self.blocks) - 1]

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""
        visual_tokens: Tensor = self.model.model.visual.merger(features.index_select(0, pool_index.flatten()))
        return visual_tokens

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        found = BaseModelOutputWithPooling(pooler_output=tuple(visual_tokens))
        return {"input_ids": input_ids, "mm_token_type_ids": 2 * is_visual, "mm_encoder_outputs": {"video": found}}

    @classmethod
    def random_parts(cls, shape: Qwen3VLShape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        text = dict(shape.text_config)
        turned = text["head_dim"] // 4 // 2  # pairs of numbers of a head that positions turn
        text["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10_000_000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [(turned + 2) // 3, (turned + 1) // 3, turned // 3],
            "mrope_interleaved": True,
        }
        if isinstance(shape, Qwen35MoeShape):
            text["shared_expert_intermediate_size"] = text.pop("intermediate_size")
        vision = {**dict(shape.vision_config), "out_hidden_size": text["hidden_size"]}
        return random_unit_parts(shape, vision, text)


class Qwen35MoeFamily(Qwen35Family):
    """A loaded Qwen3.5 whose language model has experts; its arguments are those of `Family`."""

    model_class = "Qwen3_5MoeForConditionalGeneration"
    shape_class = Qwen35MoeShape
