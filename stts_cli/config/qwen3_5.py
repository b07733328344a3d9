"""Qwen3.5 without torch: its sizes, by the keys of transformers' Qwen3_5Config; ViT and frames are Qwen3-VL's."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from stts_cli.config.files import Positive
from stts_cli.config.qwen3_vl import Qwen3VisionConfig, Qwen3VLShape
from stts_cli.config.shapes import ExpertsTextConfig, TextConfig
from stts_cli.cost.savings import LayerGroup, ModelShape
from stts_cli.settings import Layout

_CHUNK = 64  # tokens that the gated delta rule takes together, in transformers and in flash-linear-attention


class Qwen35TextConfig(TextConfig):
    """Sizes of the language model, whose layers are of linear attention or of full attention with a gate."""

    layer_types: list[Literal["linear_attention", "full_attention"]]
    linear_conv_kernel_dim: Positive
    linear_num_key_heads: Positive
    linear_num_value_heads: Positive
    linear_key_head_dim: Positive
    linear_value_head_dim: Positive

    @property
    def mlp_weights(self) -> int:
        """Weights of a layer's MLP that a token goes through."""
        return self.mlp_parameters

    def groups(self) -> tuple[LayerGroup, ...]:
        """Return the layers that are alike, with what a token goes through in each.

        Of a chunk of C tokens the gated delta rule multiplies queries, keys and what corrects the values with keys, and
        each of these with the state; of a decoded token it reads the state twice and adds to it. The triangular system
        that is solved for a chunk is not counted.
        """
        wide, deep, heads = self.linear_key_head_dim, self.linear_value_head_dim, self.linear_num_value_heads
        state = 2 * 3 * wide * deep
        linear = LayerGroup(
            self.layer_types.count("linear_attention"),
            self._linear_weights() + self.mlp_weights,
            chunk=_CHUNK,
            chunk_flops=heads * _CHUNK * (2 * _CHUNK * (2 * wide + deep) + state),
            step_flops=heads * state,
        )
        queries = self.num_attention_heads * self.head_dim
        full = self.layer_types.count("full_attention")
        groups = (linear, LayerGroup(full, self._full_weights() + self.mlp_weights, queries))
        return tuple(group for group in groups if group.layers)

    def num_layer_parameters(self) -> int:
        """Count the weights of all layers."""
        linear, full = (self.layer_types.count(kind) for kind in ("linear_attention", "full_attention"))
        small = 2 * self.linear_num_value_heads + self.linear_value_head_dim
        each = self.mlp_parameters + 2 * self.hidden_size
        return (
            linear * (self._linear_weights() + small)
            + full * (self._full_weights() + 2 * self.head_dim)
            + (linear + full) * each
        )

    def _linear_weights(self) -> int:
        """Count what a token goes through in linear attention: projections in and out, and the convolution."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        values = self.linear_num_value_heads * self.linear_value_head_dim
        projections = self.hidden_size * (2 * keys + 3 * values + 2 * self.linear_num_value_heads)
        return projections + self.linear_conv_kernel_dim * (2 * keys + values)

    def _full_weights(self) -> int:
        """Count the projections of full attention; queries have a gate beside them."""
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return self.hidden_size * (3 * queries + 2 * keys)


class Qwen35MoeTextConfig(Qwen35TextConfig, ExpertsTextConfig):
    """Sizes of a language model with experts; `intermediate_size` is that of the expert which every token takes."""

    @classmethod
    def of(cls, config: Any, **changes: Any) -> Qwen35MoeTextConfig:
        """Read the sizes of a transformers config; nothing is checked."""
        return super().of(config, intermediate_size=config.shared_expert_intermediate_size, **changes)

    @property
    def mlp_parameters(self) -> int:
        """Weights of a layer's experts, the shared one and its gate among them, and of their router."""
        return super().mlp_parameters + self.hidden_size * (3 * self.intermediate_size + 1)

    @property
    def mlp_weights(self) -> int:
        """Weights of a layer's MLP that a token goes through."""
        chosen = self.num_experts_per_tok * self.moe_intermediate_size
        return self.hidden_size * (3 * (chosen + self.intermediate_size) + self.num_experts + 1)


class Qwen35Shape(Qwen3VLShape):
    """A file of presets/shapes for a Qwen3.5; its keys are those of `Qwen3VLShape`.

    Attributes:
        vision_config: sizes of the ViT, whose last block alone is read.
        text_config: sizes of the language model.
    """

    model_type: Literal["qwen3_5"]  # type: ignore[assignment]
    vision_config: Qwen3VisionConfig  # type: ignore[assignment]
    text_config: Qwen35TextConfig

    def sizes_of(self, layout: Layout) -> ModelShape:
        """Return the sizes that FLOPs depend on, of a video cut in such a way."""
        return dataclasses.replace(super().sizes_of(layout), llm_groups=self.text_config.groups())

    def _num_layer_parameters(self) -> int:
        return self.text_config.num_layer_parameters()

    @property
    def _num_mergers(self) -> int:
        return 1


class Qwen35MoeShape(Qwen35Shape):
    """A file of presets/shapes for a Qwen3.5 whose language model has experts; its keys are those of `Qwen3VLShape`.

    Attributes:
        text_config: sizes of the language model and its experts.
    """

    model_type: Literal["qwen3_5_moe"]  # type: ignore[assignment]
    text_config: Qwen35MoeTextConfig
