"""VideoLLaMA3 without torch: its sizes, by the keys of transformers' VideoLlama3Config, and how it words a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from stts_cli.config.files import Positive
from stts_cli.config.frame_size import PixelShare
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


class VideoLlama3VisionConfig(Sizes):
    """Sizes of the ViT."""

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    patch_size: Positive


class VideoLlama3Shape(VaryingShape):
    """A file of presets/shapes for a VideoLLaMA3.

    Attributes:
        model_type: of the checkpoint's config.json.
        description: one line for people.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        tie_word_embeddings: whether the vocabulary's weights are held once.
        merge_size: patch rows and columns of a window; the video processor's.
        size: fewest pixels of a frame, and most of all frames of a video together.
        frame_size: height and width of the video that is counted, where it is about no file.
        num_frames: of it.
        vision_config: sizes of the ViT.
        text_config: sizes of the language model.
    """

    model_type: Literal["video_llama_3"]
    merge_size: Positive
    vision_config: VideoLlama3VisionConfig
    text_config: NamedTextConfig

    @classmethod
    def of(cls, config: Any, rule: Any, **own: Any) -> VideoLlama3Shape:
        """Read the sizes of a model from transformers' VideoLlama3Config; nothing is checked."""
        return super().of(config, rule, merge_size=rule.merge, **own)

    @property
    def rule(self) -> PixelShare:
        """What gives a video's frames their size."""
        return PixelShare(self.vision_config.patch_size, self.merge_size, *self.size)

    def sizes_of(self, layout: Layout) -> ModelShape:
        """Return the sizes that FLOPs depend on, of a video cut in such a way."""
        vision, text = self.vision_config, self.text_config
        return ModelShape(
            patch_dim=3 * vision.patch_size**2,
            num_patches=layout.num_patches,
            num_windows=layout.num_windows,
            window_size=self.merge_size**2,
            vit_blocks=vision.num_hidden_layers,
            vit_width=vision.hidden_size,
            vit_heads=vision.num_attention_heads,
            vit_head_dim=vision.hidden_size // vision.num_attention_heads,
            vit_mlp=vision.intermediate_size,
            connector_flops=2 * text.hidden_size * (vision.hidden_size + text.hidden_size),
            **llm_sizes(text),
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        vision, text = self.vision_config, self.text_config
        width = vision.hidden_size
        block = vit_block_parameters(width, width, vision.intermediate_size)
        vit = vision.num_hidden_layers * block + (3 * vision.patch_size**2 + 1 + 2) * width
        connector = (width + 1 + text.hidden_size + 1) * text.hidden_size
        words = word_parameters(text, self.tie_word_embeddings)
        return int(vit + connector + text.num_hidden_layers * text.layer_parameters + words)

    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""
        frames = len(time_words(times_s, "")) + len(times_s) * self.layout.num_windows
        return frames + 3 + chat_length(question)


def time_words(times_s: Sequence[float], frame: str) -> str:
    """Word a video as VideoLlama3Processor does: each frame's time, and `frame`."""
    return ",".join(f"Time {time:.1f}s:{frame}" for time in times_s)
