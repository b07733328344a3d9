"""InternVL without torch: its sizes, by the keys of transformers' InternVLConfig."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from stts_cli.config.files import Positive, Ratio
from stts_cli.config.shapes import NamedTextConfig, Shape, Sizes, chat_length, llm_sizes, word_parameters
from stts_cli.cost.savings import ModelShape
from stts_cli.settings import Layout

NUM_MARKS = 2  # tokens around the placeholders of a frame


class InternVLVisionConfig(Sizes):
    """Sizes of the ViT, and which of its parts are there; frames are `image_size` pixels high and wide."""

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    image_size: Positive
    patch_size: Positive
    norm_type: Literal["layer_norm", "rms_norm"]
    attention_bias: bool
    use_qk_norm: bool
    use_mean_pooling: bool
    use_absolute_position_embeddings: bool


class InternVLShape(Shape):
    """A file of presets/shapes for an InternVL in transformers' format.

    Attributes:
        model_type: of the checkpoint's config.json.
        description: one line for people.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        tie_word_embeddings: whether the vocabulary's weights are held once.
        downsample_ratio: 1 over the patch rows and columns of a window.
        vision_config: sizes of the ViT.
        text_config: sizes of the language model.
    """

    model_type: Literal["internvl"]
    tie_word_embeddings: bool
    downsample_ratio: Ratio
    vision_config: InternVLVisionConfig
    text_config: NamedTextConfig

    @classmethod
    def of(cls, config: Any) -> InternVLShape:
        """Read the sizes of a model from transformers' InternVLConfig; nothing is checked."""
        vision = config.vision_config
        sides = {"image_size": vision.image_size[0], "patch_size": vision.patch_size[0]}
        return cls.model_construct(
            description="",
            model_type="internvl",
            tie_word_embeddings=config.tie_word_embeddings,
            downsample_ratio=config.downsample_ratio,
            vision_config=InternVLVisionConfig.of(vision, **sides),
            text_config=NamedTextConfig.of(config.text_config),
        )

    @property
    def window(self) -> int:
        """Patch rows and columns of a window."""
        return int(1 / self.downsample_ratio)

    @property
    def layout(self) -> Layout:
        """How every video is cut."""
        side = self.vision_config.image_size
        rows = side // self.vision_config.patch_size
        return Layout((side, side), (rows, rows), (self.window, self.window), num_class_tokens=1)

    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        vision, layout, text = self.vision_config, self.layout, self.text_config
        return ModelShape(
            patch_dim=3 * vision.patch_size**2,
            num_patches=layout.num_patches,
            num_windows=layout.num_windows,
            window_size=self.window**2,
            vit_blocks=vision.num_hidden_layers,
            vit_width=vision.hidden_size,
            vit_heads=vision.num_attention_heads,
            vit_head_dim=vision.hidden_size // vision.num_attention_heads,
            vit_mlp=vision.intermediate_size,
            connector_flops=2 * text.hidden_size * (self.window**2 * vision.hidden_size + text.hidden_size),
            class_tokens=layout.num_class_tokens,
            **llm_sizes(text),
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        vision, text = self.vision_config, self.text_config
        width, mlp = vision.hidden_size, vision.intermediate_size
        norm = width * (2 if vision.norm_type == "layer_norm" else 1)
        block = 4 * width * width + width + 2 * width * mlp + mlp + width  # the way out has a bias always
        block += 2 * norm + 2 * width + 3 * width * vision.attention_bias + 2 * width * vision.use_qk_norm
        places = (self.layout.num_patches + 1) * vision.use_absolute_position_embeddings
        around = 3 * vision.patch_size**2 + 1 + 1 + places + 2 * (not vision.use_mean_pooling)
        wide = self.window**2 * width
        connector = 2 * wide + (wide + 1) * text.hidden_size + (text.hidden_size + 1) * text.hidden_size
        words = word_parameters(text, self.tie_word_embeddings)
        vit = vision.num_hidden_layers * block + around * width
        return int(vit + connector + text.num_hidden_layers * text.layer_parameters + words)

    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""
        frames = len(frame_words(len(times_s), "")) + len(times_s) * (self.layout.num_windows + NUM_MARKS)
        return frames + 3 + chat_length(question)


def frame_words(num_frames: int, frame: str) -> str:
    """Word a video as InternVLProcessor does: each frame's number, from 1 on, and `frame`."""
    return "\n".join(f"Frame{number}: {frame}" for number in range(1, num_frames + 1))
