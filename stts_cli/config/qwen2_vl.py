"""Qwen2-VL and Qwen2.5-VL without torch: the size of their frames, and their sizes by the keys of their configs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stts_cli.config.files import NotNegative, Positive
from stts_cli.config.frame_size import fit_frame
from stts_cli.config.shapes import (
    NamedTextConfig,
    Sizes,
    VaryingShape,
    chat_length,
    llm_sizes,
    vit_block_parameters,
    word_parameters,
)
from stts_cli.cost.savings import ModelShape
from stts_cli.settings import Layout


@dataclass(frozen=True)
class FramePixels:
    """The rule that gives frames their size: so that each holds so many pixels.

    Source: transformers' Qwen2VLVideoProcessor.
    """

    patch: int  # side of a patch in pixels
    merge: int  # side of a window in patches
    temporal: int  # frames of a unit
    least: int  # pixels of a frame
    most: int
    total: int = 0  # the most pixels of all units together, which makes many frames smaller; 0 for any number

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        """Return the layout of a video of such frames; InputError where they are too long, see `check_aspect`."""
        most = self.most
        if self.total:
            most = max(min(most, self.total * self.temporal // num_frames), int(self.least * 1.05))
        size = fit_frame(height, width, self.patch * self.merge, self.least, most)
        grid = (size[0] // self.patch, size[1] // self.patch)
        return Layout(size, grid, (self.merge, self.merge), self.temporal)


class Qwen2VLVisionConfig(Sizes):
    """Sizes of the ViT, `embed_dim` wide; `hidden_size` is the language model's."""

    embed_dim: Positive
    hidden_size: Positive
    mlp_ratio: Positive
    num_heads: Positive
    depth: Positive
    patch_size: Positive
    spatial_merge_size: Positive
    temporal_patch_size: Positive


class Qwen25VLVisionConfig(Sizes):
    """Sizes of the ViT, whose blocks attend within squares of `window_size` pixels, but for `fullatt_block_indexes`."""

    hidden_size: Positive
    intermediate_size: Positive
    num_heads: Positive
    depth: Positive
    patch_size: Positive
    spatial_merge_size: Positive
    temporal_patch_size: Positive
    window_size: Positive
    fullatt_block_indexes: list[NotNegative]


class _QwenShape(VaryingShape):
    """What the sizes of both have in common."""

    vision_config: Any
    text_config: NamedTextConfig

    @classmethod
    def of(cls, config: Any, rule: Any, **own: Any) -> Any:
        """Read the sizes of a model from transformers' config; nothing is checked."""
        text = NamedTextConfig.of(config.text_config, model_type="qwen2")
        return super().of(config, rule, text_config=text, **own)

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of the ViT."""

    @property
    @abstractmethod
    def block_parameters(self) -> int:
        """Weights of one of the ViT's blocks."""

    @abstractmethod
    def vit_sizes(self, layout: Layout) -> dict[str, Any]:
        """Return what a `ModelShape` has of the ViT's MLP and of the parts that blocks attend within."""

    @property
    def rule(self) -> FramePixels:
        """What gives frames their size."""
        vision = self.vision_config
        return FramePixels(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, *self.size)

    def sizes_of(self, layout: Layout) -> ModelShape:
        """Return the sizes that FLOPs depend on, of a video cut in such a way."""
        vision, slots = self.vision_config, self.vision_config.spatial_merge_size**2
        wide = slots * self.width
        return ModelShape(
            patch_dim=3 * vision.temporal_patch_size * vision.patch_size**2,
            num_patches=layout.num_patches,
            num_windows=layout.num_windows,
            window_size=slots,
            vit_blocks=vision.depth,
            vit_width=self.width,
            vit_heads=vision.num_heads,
            vit_head_dim=self.width // vision.num_heads,
            connector_flops=2 * wide * (wide + self.text_config.hidden_size),
            **self.vit_sizes(layout),
            **llm_sizes(self.text_config),
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        vision, text = self.vision_config, self.text_config
        wide = vision.spatial_merge_size**2 * self.width
        patches = 3 * vision.temporal_patch_size * vision.patch_size**2 * self.width
        merger = wide * (wide + 1) + (wide + 1) * text.hidden_size
        layers = text.num_hidden_layers * text.layer_parameters
        words = word_parameters(text, self.tie_word_embeddings)
        return int(patches + vision.depth * self.block_parameters + merger + self.norm_parameters + layers + words)

    @property
    @abstractmethod
    def norm_parameters(self) -> int:
        """Weights of the norm before the connector."""

    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""
        layout = self.layout
        marks = 5  # around the video, and of the chat
        return layout.num_units(len(times_s)) * layout.num_windows + marks + chat_length(question)


class Qwen2VLShape(_QwenShape):
    """A file of presets/shapes for a Qwen2-VL.

    Attributes:
        model_type: of the checkpoint's config.json.
        description: one line for people.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        tie_word_embeddings: whether the vocabulary's weights are held once.
        size: fewest and most pixels of a frame.
        frame_size: height and width of the video that is counted, where it is about no file.
        num_frames: of it.
        vision_config: sizes of the ViT.
        text_config: sizes of the language model, a Qwen2.
    """

    model_type: Literal["qwen2_vl"]
    vision_config: Qwen2VLVisionConfig

    @property
    def width(self) -> int:
        """Width of the ViT."""
        return int(self.vision_config.embed_dim)

    @property
    def block_parameters(self) -> int:
        """Weights of one of the ViT's blocks."""
        return vit_block_parameters(self.width, self.width, self.width * self.vision_config.mlp_ratio)

    @property
    def norm_parameters(self) -> int:
        """Weights of the norm before the connector."""
        return 2 * self.width

    def vit_sizes(self, layout: Layout) -> dict[str, Any]:
        """Return what a `ModelShape` has of the ViT's MLP."""
        return {"vit_mlp": self.width * self.vision_config.mlp_ratio}


class Qwen25VLShape(_QwenShape):
    """A file of presets/shapes for a Qwen2.5-VL.

    Attributes:
        model_type: of the checkpoint's config.json.
        description: one line for people.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        tie_word_embeddings: whether the vocabulary's weights are held once.
        size: fewest and most pixels of a frame.
        frame_size: height and width of the video that is counted, where it is about no file.
        num_frames: of it.
        vision_config: sizes of the ViT.
        text_config: sizes of the language model, a Qwen2.
    """

    model_type: Literal["qwen2_5_vl"]
    vision_config: Qwen25VLVisionConfig

    @property
    def width(self) -> int:
        """Width of the ViT."""
        return int(self.vision_config.hidden_size)

    @property
    def block_parameters(self) -> int:
        """Weights of one of the ViT's blocks: norms without biases, a gated MLP."""
        width, mlp = self.width, self.vision_config.intermediate_size
        return int(4 * width * width + 3 * width * mlp + 7 * width + 2 * mlp)

    @property
    def norm_parameters(self) -> int:
        """Weights of the norm before the connector."""
        return self.width

    def vit_sizes(self, layout: Layout) -> dict[str, Any]:
        """Return what a `ModelShape` has of the ViT's MLP and of the parts that blocks attend within."""
        vision = self.vision_config
        return {
            "vit_mlp": vision.intermediate_size,
            "vit_mlp_products": 3,
            "vit_parts": unit_parts(layout, vision.window_size),
            "vit_part_blocks": tuple(k for k in range(vision.depth) if k not in vision.fullatt_block_indexes),
        }


def unit_parts(layout: Layout, window_size: int) -> tuple[int, ...]:
    """Return the patches of each square of so many pixels that blocks of Qwen2.5-VL attend within, row by row."""
    patch = layout.frame_size[0] // layout.grid[0]
    side = window_size // patch // layout.window[0]
    heights, widths = (
        [min(side, edge - start) for start in range(0, edge, side)] for edge in layout.window_grid
    )  # in visual tokens
    slots = layout.window[0] * layout.window[1]
    return tuple(slots * height * width for height in heights for width in widths)
