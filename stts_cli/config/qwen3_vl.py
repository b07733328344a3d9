"""Qwen3-VL without torch: the size of its frames, and its sizes by the keys of transformers' Qwen3VLConfig."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from stts_cli.config.files import NotNegative, Positive
from stts_cli.config.frame_size import check_aspect
from stts_cli.config.shapes import (
    ExpertsTextConfig,
    Sizes,
    VaryingShape,
    chat_length,
    llm_layer_parameters,
    llm_sizes,
    vit_block_parameters,
    word_parameters,
)
from stts_cli.cost.savings import ModelShape
from stts_cli.settings import Layout


@dataclass(frozen=True)
class PixelBudget:
    """The rule that gives a video's frames their size: so that all of them together hold so many pixels.

    The more frames a video has, the smaller they are. Source: transformers' Qwen3VLVideoProcessor.
    """

    patch: int  # side of a patch in pixels
    merge: int  # side of a window in patches
    temporal: int  # frames of a unit
    least: int  # pixels of all frames together
    most: int

    def __call__(self, height: int, width: int, num_frames: int) -> Layout:
        """Return the layout of a video of such frames.

        Raises:
            InputError: frames more than 200 times as long as wide.
        """
        factor = self.patch * self.merge
        frames = self.whole(num_frames)
        if min(height, width) < factor:
            scale = factor / min(height, width)
            height, width = int(height * scale), int(width * scale)
        check_aspect(height, width)
        size = [max(round(edge / factor), 1) * factor for edge in (height, width)]
        pixels = frames * size[0] * size[1]
        if pixels > self.most:
            shrink = math.sqrt(num_frames * height * width / self.most)
            size = [max(math.floor(edge / shrink / factor), 1) * factor for edge in (height, width)]
        elif pixels < self.least:
            grow = math.sqrt(self.least / (num_frames * height * width))
            size = [math.ceil(edge * grow / factor) * factor for edge in (height, width)]
        rows, cols = (edge // self.patch for edge in size)
        return Layout((size[0], size[1]), (rows, cols), (self.merge, self.merge), self.temporal)

    def whole(self, num_frames: int) -> int:
        """Return how many frames a video counts as: stock fills up to a whole unit."""
        return -(-num_frames // self.temporal) * self.temporal


class Qwen3VisionConfig(Sizes):
    """Sizes of the ViT and of the connector."""

    hidden_size: Positive
    intermediate_size: Positive
    num_heads: Positive
    depth: Positive
    patch_size: Positive
    spatial_merge_size: Positive
    temporal_patch_size: Positive
    num_position_embeddings: Positive


class Qwen3VLVisionConfig(Qwen3VisionConfig):
    """Sizes of the ViT and of the connector, which is run once more for each DeepStack index."""

    deepstack_visual_indexes: Annotated[list[NotNegative], Field(min_length=1)]


class Qwen3VLShape(VaryingShape):
    """A file of presets/shapes for a Qwen3-VL.

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

    model_type: Literal["qwen3_vl"]
    vision_config: Qwen3VLVisionConfig

    @property
    def rule(self) -> PixelBudget:
        """What gives a video's frames their size."""
        vision = self.vision_config
        return PixelBudget(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, *self.size)

    def sizes_of(self, layout: Layout) -> ModelShape:
        """Return the sizes that FLOPs depend on, of a video cut in such a way."""
        vision, slots = self.vision_config, self.vision_config.spatial_merge_size**2
        wide = slots * vision.hidden_size
        return ModelShape(
            patch_dim=3 * vision.temporal_patch_size * vision.patch_size**2,
            num_patches=layout.num_patches,
            num_windows=layout.num_windows,
            window_size=slots,
            vit_blocks=vision.depth,
            vit_width=vision.hidden_size,
            vit_heads=vision.num_heads,
            vit_head_dim=vision.hidden_size // vision.num_heads,
            vit_mlp=vision.intermediate_size,
            vit_taps=self._num_mergers,
            connector_flops=self._num_mergers * 2 * wide * (wide + self.text_config.hidden_size),
            **llm_sizes(self.text_config),
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        vision, text = self.vision_config, self.text_config
        width = vision.hidden_size
        wide = vision.spatial_merge_size**2 * width
        patches = 3 * vision.temporal_patch_size * vision.patch_size**2 + 1 + vision.num_position_embeddings
        vit = vision.depth * vit_block_parameters(width, width, vision.intermediate_size) + patches * width
        mergers = self._num_mergers * (wide * (wide + 1) + (wide + 1) * text.hidden_size)
        norms = 2 * width + 2 * wide * (self._num_mergers - 1)
        layers = self._num_layer_parameters()
        words = word_parameters(text, self.tie_word_embeddings)
        return int(vit + mergers + norms + layers + words)

    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""
        layout = self.layout
        times = [len(f"<{time:.1f} seconds>") for time in unit_times(times_s, layout.frames_per_unit)]
        chat = 3 + chat_length(question)
        return sum(times) + len(times) * (layout.num_windows + 2) + chat

    def _num_layer_parameters(self) -> int:
        """Count the weights of the language model's layers together."""
        text = self.text_config
        return text.num_hidden_layers * (llm_layer_parameters(text) + 2 * text.head_dim)

    @property
    def _num_mergers(self) -> int:
        return 1 + len(self.vision_config.deepstack_visual_indexes)


class Qwen3VLMoeShape(Qwen3VLShape):
    """A file of presets/shapes for a Qwen3-VL whose language model has experts; its keys are those of `Qwen3VLShape`.

    Attributes:
        text_config: sizes of the language model and its experts.
    """

    model_type: Literal["qwen3_vl_moe"]  # type: ignore[assignment]
    text_config: ExpertsTextConfig


def unit_times(times_s: Sequence[float], frames_per_unit: int) -> list[float]:
    """Return the mean of the first and the last frame's time of each unit, in seconds."""
    units = [times_s[start : start + frames_per_unit] for start in range(0, len(times_s), frames_per_unit)]
    return [(unit[0] + unit[-1]) / 2 for unit in units]
