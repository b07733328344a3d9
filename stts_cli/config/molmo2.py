"""Molmo2 by its sizes; the keys of its shape files are those of transformers' Molmo2Config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from stts_cli.config.files import Positive
from stts_cli.config.shapes import (
    Attention,
    Pair,
    Shape,
    TextConfig,
    chat_length,
    llm_layer_parameters,
    llm_sizes,
    vit_block_parameters,
)
from stts_cli.cost.savings import ModelShape
from stts_cli.settings import Layout


class VisionConfig(Attention):
    """Sizes of the ViT."""

    num_hidden_layers: Positive
    image_size: Pair
    patch_size: Positive


class AdapterConfig(Attention):
    """Sizes of the connector."""

    vision_feature_layer: Annotated[list[Annotated[int, Field(ge=-1000)]], Field(min_length=1)]


class Molmo2TextConfig(TextConfig):
    """Sizes of the language model; behind the vocabulary stand tokens that mark frames and patches."""

    additional_vocab_size: Positive = 128


class Molmo2Shape(Shape):
    """A file of presets/shapes for a Molmo2.

    Attributes:
        model_type: of the checkpoint's config.json.
        description: one line for people.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        pooling: patch rows and columns of a window.
        vision_config: sizes of the ViT.
        adapter_config: sizes of the connector.
        text_config: sizes of the language model.
    """

    two_way = True

    model_type: Literal["molmo2"] = "molmo2"
    pooling: Pair
    vision_config: VisionConfig
    adapter_config: AdapterConfig
    text_config: Molmo2TextConfig

    @classmethod
    def of(cls, config: Any, layout: Layout) -> Molmo2Shape:
        """Read the sizes of a model from transformers' Molmo2Config; nothing is checked."""
        patch_size = layout.frame_size[0] // layout.grid[0]
        return cls.model_construct(
            description="",
            pooling=list(layout.window),
            vision_config=VisionConfig.of(
                config.vision_config, image_size=list(layout.frame_size), patch_size=patch_size
            ),
            adapter_config=AdapterConfig.of(config.adapter_config),
            text_config=Molmo2TextConfig.of(config.text_config),
        )

    @property
    def layout(self) -> Layout:
        """How every video is cut."""
        (height, width), side = self.vision_config.image_size, self.vision_config.patch_size
        return Layout((height, width), (height // side, width // side), (self.pooling[0], self.pooling[1]))

    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        vision, layout = self.vision_config, self.layout
        return ModelShape(
            patch_dim=3 * vision.patch_size**2,
            num_patches=layout.num_patches,
            num_windows=layout.num_windows,
            window_size=self.pooling[0] * self.pooling[1],
            vit_blocks=max(n % vision.num_hidden_layers for n in self.adapter_config.vision_feature_layer) + 1,
            vit_width=vision.hidden_size,
            vit_heads=vision.num_attention_heads,
            vit_head_dim=vision.head_dim,
            vit_mlp=vision.intermediate_size,
            connector_flops=self._connector_flops(),
            **llm_sizes(self.text_config),
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        vision, adapter, text = self.vision_config, self.adapter_config, self.text_config
        inner = vision.num_attention_heads * vision.head_dim
        block = vit_block_parameters(vision.hidden_size, inner, vision.intermediate_size)
        patches = 3 * vision.patch_size**2 + 1 + self.layout.num_patches
        vit = vision.num_hidden_layers * block + patches * vision.hidden_size
        inner = adapter.num_attention_heads * adapter.head_dim
        features = len(adapter.vision_feature_layer) * adapter.hidden_size
        attention = 3 * (features + 1) * inner + (inner + 1) * adapter.hidden_size
        connector = attention + adapter.intermediate_size * (2 * adapter.hidden_size + text.hidden_size)
        layer = llm_layer_parameters(text) + 2 * text.head_dim
        words = (2 * text.vocab_size + text.additional_vocab_size + 1) * text.hidden_size
        return int(vit + connector + text.num_hidden_layers * layer + words)

    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""
        times = sum(len(f"{time:.1f} ") for time in times_s)
        chat = 4 + chat_length(question)
        return times + len(times_s) * (self.layout.num_windows + 2) + (len(times_s) - 1) + chat

    def _connector_flops(self) -> int:
        """Count the connector of a visual token: attention from a window's mean to its patches, and a gated MLP."""
        adapter, slots = self.adapter_config, self.pooling[0] * self.pooling[1]
        inner = adapter.num_attention_heads * adapter.head_dim
        features = len(adapter.vision_feature_layer) * self.vision_config.hidden_size
        attention = 2 * features * inner * (1 + 2 * slots) + 4 * slots * inner
        mlp = 2 * adapter.intermediate_size * (2 * adapter.hidden_size + self.text_config.hidden_size)
        return attention + 2 * inner * adapter.hidden_size + mlp
