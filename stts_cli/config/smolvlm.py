"""SmolVLM2 without torch: its sizes, by the keys of transformers' SmolVLMConfig, and how it words a video."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from stts_cli.config.files import Positive
from stts_cli.config.shapes import Shape, Sizes, TextConfig, llm_layer_parameters, llm_sizes, vit_block_parameters
from stts_cli.cost.savings import ModelShape
from stts_cli.settings import Layout

NUM_MARKS = 3  # tokens around the placeholders of a frame
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()


class SmolVLMVisionConfig(Sizes):
    """Sizes of the ViT."""

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    image_size: Positive
    patch_size: Positive


class SmolVLMShape(Shape):
    """A file of presets/shapes for a SmolVLM2, whose input and output embeddings are not tied.

    Attributes:
        model_type: of the checkpoint's config.json.
        description: one line for people.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        scale_factor: patch rows and columns of a window.
        vision_config: sizes of the ViT.
        text_config: sizes of the language model, a Llama.
    """

    model_type: Literal["smolvlm"]
    scale_factor: Positive
    vision_config: SmolVLMVisionConfig

    @classmethod
    def of(cls, config: Any, layout: Layout) -> SmolVLMShape:
        """Read the sizes of a model from transformers' SmolVLMConfig; nothing is checked."""
        return cls.model_construct(
            description="",
            model_type="smolvlm",
            scale_factor=config.scale_factor,
            vision_config=SmolVLMVisionConfig.of(config.vision_config, image_size=layout.frame_size[0]),
            text_config=TextConfig.of(config.text_config),
        )

    @property
    def layout(self) -> Layout:
        """How every video is cut."""
        side, window = self.vision_config.image_size, self.scale_factor
        rows = side // self.vision_config.patch_size
        return Layout((side, side), (rows, rows), (window, window))

    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        vision, layout, slots = self.vision_config, self.layout, self.scale_factor**2
        return ModelShape(
            patch_dim=3 * vision.patch_size**2,
            num_patches=layout.num_patches,
            num_windows=layout.num_windows,
            window_size=slots,
            vit_blocks=vision.num_hidden_layers,
            vit_width=vision.hidden_size,
            vit_heads=vision.num_attention_heads,
            vit_head_dim=vision.hidden_size // vision.num_attention_heads,
            vit_mlp=vision.intermediate_size,
            connector_flops=2 * slots * vision.hidden_size * self.text_config.hidden_size,
            **llm_sizes(self.text_config),
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        vision, text = self.vision_config, self.text_config
        width = vision.hidden_size
        block = vit_block_parameters(width, width, vision.intermediate_size)
        patches = 3 * vision.patch_size**2 + 1 + self.layout.num_patches
        vit = vision.num_hidden_layers * block + (patches + 2) * width
        connector = self.scale_factor**2 * width * text.hidden_size
        words = (2 * text.vocab_size + 1) * text.hidden_size
        return int(vit + connector + text.num_hidden_layers * llm_layer_parameters(text) + words)

    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""
        marks = len(times_s) * (self.layout.num_windows + NUM_MARKS)
        chat = 2 + len("User: " + "\n\n" + question + "\n" + "Assistant:")
        return marks + chat + len(video_words(times_s, times_s[-1], ""))


def video_words(times_s: Sequence[float], duration_s: float, frame: str) -> str:
    """Word a video as SmolVLMProcessor does: how many frames of how long a video, then each one's time and `frame`."""
    count, length = number_words(len(times_s)), timedelta(seconds=int(duration_s))
    text = f"You are provided the following series of {count} frames from a {length} [H:MM:SS] video.\n"
    return text + "".join(f"\nFrame from {int(time // 60):02d}:{int(time % 60):02d}:{frame}" for time in times_s)


def number_words(number: int) -> str:
    """Return a number below a million in English words, as the package num2words writes it."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    head, rest = f"{number_words(number // size)} {name}", number % size
    if not rest:
        return head
    return head + (", " if rest >= 100 else " and ") + number_words(rest)
