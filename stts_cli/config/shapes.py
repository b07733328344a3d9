"""The sizes of a model without the model: what a file of presets/shapes says, whatever the family.

A family's own keys are those of its transformers config, so that a file reads like a checkpoint's config.json, and its
own arithmetic stands in a file beside this one. No torch, so that counting is instant.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from stts_cli.config.files import Model, NotNegative, Positive, Ratio
from stts_cli.cost.savings import ModelShape
from stts_cli.settings import Layout, LayoutRule, PruneLayer

_S = TypeVar("_S", bound="Sizes")
_H = TypeVar("_H", bound="Shape")
_V = TypeVar("_V", bound="VaryingShape")
Pair = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class Sizes(Model):
    """Sizes of a part of a model."""

    @classmethod
    def of(cls: type[_S], config: Any, **changes: Any) -> _S:
        """Read the sizes of a transformers config, of which some may be changed; nothing is checked."""
        return cls.model_construct(**{k: getattr(config, k) for k in cls.model_fields if k not in changes} | changes)


class Attention(Sizes):
    """Sizes that the parts of a model each have."""

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    head_dim: Positive


class TextConfig(Attention):
    """Sizes of the language model."""

    num_hidden_layers: Positive
    num_key_value_heads: Positive
    vocab_size: Positive
    max_position_embeddings: Positive

    @property
    def mlp_parameters(self) -> int:
        """Weights of a layer's MLP."""
        return 3 * self.hidden_size * self.intermediate_size


class ExpertsTextConfig(TextConfig):
    """Sizes of a language model whose layers are all made of experts; `intermediate_size` is used by none of them."""

    num_experts: Positive
    num_experts_per_tok: Positive
    moe_intermediate_size: Positive

    @property
    def mlp_parameters(self) -> int:
        """Weights of a layer's experts and of their router."""
        return self.num_experts * self.hidden_size * (3 * self.moe_intermediate_size + 1)


class NamedTextConfig(TextConfig):
    """Sizes of a language model of one of several kinds, which differ in a layer's biases and norms."""

    model_type: Literal["qwen2", "qwen3", "llama"]

    @classmethod
    def of(cls: type[_S], config: Any, **changes: Any) -> _S:
        """Read the sizes of a transformers config; a head's width may be left to the others."""
        wide = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return super().of(config, head_dim=wide, **changes)

    @property
    def layer_parameters(self) -> int:
        """Count a layer's weights."""
        biases = (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        return llm_layer_parameters(self) + {"qwen2": biases, "qwen3": 2 * self.head_dim, "llama": 0}[self.model_type]


class Shape(Model, ABC):
    """A file of presets/shapes: a family's sizes, and how they are pruned by default."""

    # whether the tokens of a video see each other in both directions in the language model
    two_way: ClassVar[bool] = False

    model_type: str
    description: str
    prune_layer: NotNegative
    keep_ratio: Ratio
    text_config: TextConfig

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """How every video is cut."""

    def at(self: _H, num_frames: int, frame_size: tuple[int, int] | None = None) -> _H:
        """Return the shape for a video of so many frames, of a family that does not cut all videos alike.

        `frame_size` is the height and width of the file's frames; None leaves them.
        """
        return self

    @abstractmethod
    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""

    @abstractmethod
    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""

    @abstractmethod
    def prompt_length(self, times_s: Sequence[float], question: str) -> int:
        """Count the tokens of a dense prompt about frames at these times, a token a byte, without a system prompt."""


class VaryingShape(Shape):
    """The sizes of a family that gives each video's frames their own size.

    Attributes:
        tie_word_embeddings: whether the vocabulary's weights are held once.
        size: fewest and most pixels; how they are meant is the family's own rule.
        frame_size: height and width of the video that is counted, where it is about no file.
        num_frames: of it.
    """

    tie_word_embeddings: bool
    size: Pair
    frame_size: Pair = Field(default=[720, 1280])
    num_frames: Positive = 64

    @classmethod
    def of(cls: type[_V], config: Any, rule: Any, **own: Any) -> _V:
        """Read the sizes of a model from its transformers config and the rule of its frames; nothing is checked.

        `own` are fields that differ from the config's.
        """
        for name in {"vision_config", "text_config"} - set(own):
            part: Any = cls.model_fields[name].annotation
            own[name] = part.of(getattr(config, name))
        return cls.model_construct(
            description="",
            model_type=config.model_type,
            tie_word_embeddings=config.tie_word_embeddings,
            size=[rule.least, rule.most],
            **own,
        )

    @property
    @abstractmethod
    def rule(self) -> LayoutRule:
        """What gives a video's frames their size."""

    @property
    def layout(self) -> Layout:
        """How the video that is counted is cut."""
        return self.rule(self.frame_size[0], self.frame_size[1], self.num_frames)

    def at(self: _V, num_frames: int, frame_size: tuple[int, int] | None = None) -> _V:
        """Return the shape for a video of so many frames; see `Shape`."""
        size = self.frame_size if frame_size is None else list(frame_size)
        return self.model_copy(update={"num_frames": num_frames, "frame_size": size})

    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        return self.sizes_of(self.layout)

    @abstractmethod
    def sizes_of(self, layout: Layout) -> ModelShape:
        """Return the sizes that FLOPs depend on, of a video cut in such a way."""


@dataclass(frozen=True)
class Architecture:
    """A model by its sizes: a `Shape` with a name, and how it prunes, as `settings.Pruning` says it.

    Attributes:
        notes: what a user should know about where its settings come from.
    """

    name: str
    shape: Shape
    prune_layer: PruneLayer = 3
    keep_ratio: float = 0.5
    prune_from_frame: int = 0
    refill_lone_frames: bool = False
    scorer: str = "learned"
    notes: tuple[str, ...] = ()

    @property
    def layout(self) -> Layout:
        """How a video is cut; `at` gives it a number of frames."""
        return self.shape.layout

    def at(self, num_frames: int, frame_size: tuple[int, int] | None = None) -> Architecture:
        """Return the architecture for a video of so many frames; see `Shape.at`."""
        return dataclasses.replace(self, shape=self.shape.at(num_frames, frame_size))

    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        return self.shape.sizes()

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        return self.shape.num_parameters()


def chat_length(question: str) -> int:
    """Count the tokens of a chat's words around a question, a token a byte, without its marks."""
    return len("user\n" + question + "\n" + "assistant\n")


def word_parameters(text: TextConfig, tied: bool) -> int:
    """Count the vocabulary's weights, held once if tied, and the norm before the output head."""
    return ((1 if tied else 2) * text.vocab_size + 1) * text.hidden_size


def vit_block_parameters(width: int, inner: int, mlp: int) -> int:
    """Count a ViT block's weights: attention of `inner` wide heads, a plain MLP, two norms, biases throughout."""
    return 4 * width * inner + 3 * inner + 2 * width * mlp + mlp + 6 * width


def llm_layer_parameters(text: TextConfig) -> int:
    """Count a language-model layer's weights: attention without biases, a gated MLP or experts, two norms."""
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    return text.hidden_size * (2 * queries + 2 * keys + 2) + text.mlp_parameters


def llm_sizes(text: TextConfig) -> dict[str, Any]:
    """Return the language model's part of a `ModelShape`."""
    experts = {}
    if isinstance(text, ExpertsTextConfig):
        width = text.num_experts_per_tok * text.moe_intermediate_size
        experts = {"llm_mlp": width, "llm_experts": text.num_experts}
    return {
        "llm_layers": text.num_hidden_layers,
        "llm_width": text.hidden_size,
        "llm_heads": text.num_attention_heads,
        "llm_kv_heads": text.num_key_value_heads,
        "llm_head_dim": text.head_dim,
        "llm_mlp": text.intermediate_size,
        "vocab_size": text.vocab_size,
        **experts,
    }
