"""GLM-4.1V and GLM-4.6V without torch: sizes by the keys of transformers' Glm4vConfig, and the size of their frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stts_cli.config.files import Positive
from stts_cli.config.qwen3_vl import PixelBudget
from stts_cli.config.shapes import (
    Sizes,
    TextConfig,
    VaryingShape,
    chat_length,
    llm_layer_parameters,
    llm_sizes,
    word_parameters,
)
from stts_cli.cost.savings import ModelShape
from stts_cli.settings import Layout


@dataclass(frozen=True)
class RoundedBudget(PixelBudget):
    """Qwen3-VL's rule, but for odd numbers of frames, which are rounded to even units before they are counted.

    Source: transformers' Glm46VVideoProcessor.
    """

    def whole(self, num_frames: int) -> int:
        """Return how many frames a video counts as."""
        return max(1, round(num_frames / self.temporal)) * self.temporal


class Glm4vVisionConfig(Sizes):
    """Sizes of the ViT, whose MLP is as wide as `out_hidden_size`; `intermediate_size` is the connector's."""

    hidden_size: Positive
    intermediate_size: Positive
    out_hidden_size: Positive
    num_heads: Positive
    depth: Positive
    image_size: Positive
    patch_size: Positive
    spatial_merge_size: Positive
    temporal_patch_size: Positive


class Glm4vTextConfig(TextConfig):
    """Sizes of the language model."""

    @classmethod
    def of(cls, config: Any, **changes: Any) -> Glm4vTextConfig:
        """Read the sizes of a transformers config, in which a head's width follows from the others."""
        return super().of(config, head_dim=config.hidden_size // config.num_attention_heads, **changes)


class Glm4vShape(VaryingShape):
    """A file of presets/shapes for a GLM-4.1V.

    Attributes:
        model_type: of the checkpoint's config.json.
        description: one line for people.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        tie_word_embeddings: whether the vocabulary's weights are held once.
        size: fewest and most pixels of all frames of a video together; they give the frames their size.
        frame_size: height and width of the video that is counted, where it is about no file.
        num_frames: of it.
        vision_config: sizes of the ViT.
        text_config: sizes of the language model.
    """

    model_type: Literal["glm4v"]
    vision_config: Glm4vVisionConfig
    text_config: Glm4vTextConfig

    @property
    def rule(self) -> RoundedBudget:
        """What gives a video's frames their size."""
        vision = self.vision_config
        return RoundedBudget(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, *self.size)

    def sizes_of(self, layout: Layout) -> ModelShape:
        """Return the sizes that FLOPs depend on, of a video cut in such a way."""
        vision = self.vision_config
        slots, out = vision.spatial_merge_size**2, vision.out_hidden_size
        return ModelShape(
            patch_dim=3 * vision.temporal_patch_size * vision.patch_size**2,
            num_patches=layout.num_patches,
            num_windows=layout.num_windows,
            window_size=slots,
            vit_blocks=vision.depth,
            vit_width=vision.hidden_size,
            vit_heads=vision.num_heads,
            vit_head_dim=vision.hidden_size // vision.num_heads,
            vit_mlp=out,
            vit_mlp_products=3,
            connector_flops=2 * out * (slots * vision.hidden_size + out + 3 * vision.intermediate_size),
            **llm_sizes(self.text_config),
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        vision, text = self.vision_config, self.text_config
        width, out = vision.hidden_size, vision.out_hidden_size
        places = (vision.image_size // vision.patch_size) ** 2
        patches = 3 * vision.temporal_patch_size * vision.patch_size**2 + 1 + places + 2
        vit = vision.depth * width * (4 * width + 3 * out + 2) + patches * width
        connector = out * (vision.spatial_merge_size**2 * width + 1 + out + 2 + 3 * vision.intermediate_size)
        biases = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
        layers = text.num_hidden_layers * (llm_layer_parameters(text) + biases + 2 * text.hidden_size)
        words = word_parameters(text, self.tie_word_embeddings)
        return vit + connector + layers + words

    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""
        layout = self.layout
        times = [len(self.time_word(time)) for time in times_s[:: layout.frames_per_unit]]
        chat = 3 + chat_length(question)
        return sum(times) + len(times) * (layout.num_windows + 2) + chat

    @staticmethod
    def time_word(time_s: float) -> str:
        """Word the time of a unit, as Glm4vProcessor does."""
        return f"{int(time_s)}"


class Glm46VShape(Glm4vShape):
    """A file of presets/shapes for a GLM-4.6V; its keys are those of `Glm4vShape`."""

    model_type: Literal["glm46v"]  # type: ignore[assignment]

    @staticmethod
    def time_word(time_s: float) -> str:
        """Word the time of a unit, as Glm46VProcessor does."""
        return f"{time_s:.1f} seconds"
