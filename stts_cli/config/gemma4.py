"""Gemma 4 without torch: its sizes, by the keys of transformers' Gemma4Config, and how it words a video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from stts_cli.config.files import NotNegative, Positive
from stts_cli.config.frame_size import WindowBudget
from stts_cli.config.shapes import Attention, Pair, Shape, TextConfig, chat_length, llm_sizes
from stts_cli.cost.savings import LayerGroup, ModelShape
from stts_cli.settings import Layout

NUM_MARKS = 2  # tokens around the placeholders of a frame
SLIDING, FULL = "sliding_attention", "full_attention"


class Gemma4VisionConfig(Attention):
    """Sizes of the ViT."""

    num_hidden_layers: Positive
    patch_size: Positive
    pooling_kernel_size: Positive
    position_embedding_size: Positive


class Gemma4TextConfig(TextConfig):
    """Sizes of the language model; `head_dim` is of its sliding layers, `global_head_dim` of the others."""

    global_head_dim: Positive
    layer_types: list[Literal["sliding_attention", "full_attention"]]
    sliding_window: Positive
    num_kv_shared_layers: NotNegative
    use_double_wide_mlp: bool
    hidden_size_per_layer_input: NotNegative

    @classmethod
    def of(cls, config: Any, **changes: Any) -> Gemma4TextConfig:
        """Read the sizes of a transformers config; nothing is checked."""
        heads = {kind: config.per_layer_config[config.layer_types.index(kind)].head_dim for kind in (SLIDING, FULL)}
        own = {"head_dim": heads[SLIDING], "global_head_dim": heads[FULL], "layer_types": list(config.layer_types)}
        return cls.model_construct(**{k: getattr(config, k) for k in cls.model_fields if k not in own}, **own)

    def groups(self) -> tuple[LayerGroup, ...]:
        """Return the layers that are alike; layers that share the keys of others read a prompt's last token alone."""
        width, first_shared = self.hidden_size, self.num_hidden_layers - self.num_kv_shared_layers
        found: Counter[tuple[int, int, int, bool]] = Counter()
        for number, kind in enumerate(self.layer_types):
            shared = number >= first_shared
            head = self.head_dim if kind == SLIDING else self.global_head_dim
            mlp = self.intermediate_size * (2 if shared and self.use_double_wide_mlp else 1)
            keys = 0 if shared else self.num_key_value_heads * head
            queries = self.num_attention_heads * head
            weights = width * (2 * queries + 2 * keys + 3 * mlp + 2 * self.hidden_size_per_layer_input)
            found[weights, queries, self.sliding_window if kind == SLIDING else 0, shared] += 1
        inputs = LayerGroup(1, width * self.num_hidden_layers * self.hidden_size_per_layer_input)
        return (*(LayerGroup(number, *sizes) for sizes, number in found.items()), inputs)

    def num_parameters(self) -> int:
        """Count the weights, the vocabulary's once."""
        width, extra, layers = self.hidden_size, self.hidden_size_per_layer_input, self.num_hidden_layers
        norms = layers * width * (5 if extra else 4) + width
        for number, kind in enumerate(self.layer_types):
            head = self.head_dim if kind == SLIDING else self.global_head_dim
            norms += head * (1 if number >= layers - self.num_kv_shared_layers else 2)
        inputs = self.vocab_size * layers * extra + extra
        return sum(group.layers * group.weights for group in self.groups()) + norms + inputs + self.vocab_size * width


class Gemma4Shape(Shape):
    """A file of presets/shapes for a small Gemma 4.

    Attributes:
        model_type: of the checkpoint's config.json.
        description: one line for people.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        max_soft_tokens: the most tokens of a frame; the video processor's.
        audio_parameters: weights of the audio encoder, which videos do not use; 0 of a model without one.
        frame_size: height and width of the video that is counted, where it is about no file.
        vision_config: sizes of the ViT.
        text_config: sizes of the language model.
    """

    model_type: Literal["gemma4"]
    max_soft_tokens: Positive
    audio_parameters: NotNegative = 0
    frame_size: Pair = Field(default=[720, 1280])
    vision_config: Gemma4VisionConfig
    text_config: Gemma4TextConfig

    @classmethod
    def of(cls, config: Any, rule: WindowBudget, audio_parameters: int = 0) -> Gemma4Shape:
        """Read the sizes of a model from transformers' Gemma4Config; nothing is checked."""
        return cls.model_construct(
            description="",
            model_type="gemma4",
            max_soft_tokens=rule.most,
            audio_parameters=audio_parameters,
            vision_config=Gemma4VisionConfig.of(config.vision_config),
            text_config=Gemma4TextConfig.of(config.text_config),
        )

    @property
    def rule(self) -> WindowBudget:
        """What gives a video's frames their size."""
        return WindowBudget(self.vision_config.patch_size, self.vision_config.pooling_kernel_size, self.max_soft_tokens)

    @property
    def layout(self) -> Layout:
        """How the video that is counted is cut."""
        return self.rule(self.frame_size[0], self.frame_size[1], 1)

    def at(self, num_frames: int, frame_size: tuple[int, int] | None = None) -> Gemma4Shape:
        """Return the shape for a video of such frames; see `Shape`."""
        return self if frame_size is None else self.model_copy(update={"frame_size": list(frame_size)})

    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        return self.sizes_of(self.layout)

    def sizes_of(self, layout: Layout) -> ModelShape:
        """Return the sizes that FLOPs depend on, of a video cut in such a way."""
        vision = self.vision_config
        return ModelShape(
            patch_dim=3 * vision.patch_size**2,
            num_patches=layout.num_patches,
            num_windows=layout.num_windows,
            window_size=vision.pooling_kernel_size**2,
            vit_blocks=vision.num_hidden_layers,
            vit_width=vision.hidden_size,
            vit_heads=vision.num_attention_heads,
            vit_head_dim=vision.head_dim,
            vit_mlp=vision.intermediate_size,
            connector_flops=2 * vision.hidden_size * self.text_config.hidden_size,
            vit_mlp_products=3,
            llm_groups=self.text_config.groups(),
            **llm_sizes(self.text_config),
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        vision = self.vision_config
        width = vision.hidden_size
        block = 4 * width * vision.num_attention_heads * vision.head_dim + 3 * width * vision.intermediate_size
        block += 4 * width + 2 * vision.head_dim
        vit = vision.num_hidden_layers * block + (3 * vision.patch_size**2 + 2 * vision.position_embedding_size) * width
        connector = width * self.text_config.hidden_size
        return vit + connector + self.text_config.num_parameters() + self.audio_parameters

    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""
        frames = len(clock_words(times_s, "")) + len(times_s) * (self.layout.num_windows + NUM_MARKS)
        return 4 + frames + chat_length(question)


def clock_words(times_s: Sequence[float], frame: str) -> str:
    """Word a video as Gemma4Processor does: each frame's minutes and seconds, and `frame`."""
    return " ".join(f"{int(time // 60):02d}:{int(time % 60):02d} {frame}" for time in times_s)
