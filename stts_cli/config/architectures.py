"""The sizes of a model without the model: a file of presets/shapes becomes an `Architecture`.

`stts profile --shape NAME` builds such an architecture with random weights, and `--analytic` counts on it alone. The
keys are those of transformers' Molmo2 configs, so that a file reads like a checkpoint's config.json. No torch, so that
counting is instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from stts_cli.config import files
from stts_cli.config.files import Model, NotNegative, Positive, Ratio
from stts_cli.config.presets import presets_folder
from stts_cli.cost.savings import ModelShape
from stts_cli.settings import PruneLayer

ADDED_TOKENS = 128  # rows of the embedding behind the vocabulary, for the tokens that mark frames and patches
_A = TypeVar("_A", bound="Attention")
Pair = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class Attention(Model):
    """Sizes that the ViT, the connector and the language model each have."""

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    head_dim: Positive

    @classmethod
    def of(cls: type[_A], config: Any, **changes: Any) -> _A:
        """Read the sizes of a transformers config, of which some may be changed; nothing is checked."""
        return cls.model_construct(**{key: getattr(config, key) for key in cls.model_fields} | changes)


class VisionConfig(Attention):
    """Sizes of the ViT."""

    num_hidden_layers: Positive
    image_size: Pair
    patch_size: Positive


class AdapterConfig(Attention):
    """Sizes of the connector."""

    vision_feature_layer: Annotated[list[Annotated[int, Field(ge=-1000)]], Field(min_length=1)]


class TextConfig(Attention):
    """Sizes of the language model."""

    num_hidden_layers: Positive
    num_key_value_heads: Positive
    vocab_size: Positive
    max_position_embeddings: Positive


class Shape(Model):
    """A file of presets/shapes.

    Attributes:
        description: one line for people.
        pooling: patch rows and columns of a window.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept.
        vision_config: sizes of the ViT.
        adapter_config: sizes of the connector.
        text_config: sizes of the language model.
    """

    description: str
    pooling: Pair
    prune_layer: NotNegative
    keep_ratio: Ratio
    vision_config: VisionConfig
    adapter_config: AdapterConfig
    text_config: TextConfig


@dataclass(frozen=True)
class Architecture:
    """A Molmo2 by its sizes: a `Shape` with a name, and how it prunes by default, as `settings.Pruning` says it.

    Attributes:
        num_added_tokens: rows of the embedding behind the vocabulary.
        notes: what a user should know about where its settings come from.
    """

    name: str
    description: str
    vision: VisionConfig
    adapter: AdapterConfig
    text: TextConfig
    pooling: tuple[int, int]
    prune_layer: PruneLayer = 3
    keep_ratio: float = 0.5
    prune_from_frame: int = 0
    refill_lone_frames: bool = False
    scorer: str = "learned"
    num_added_tokens: int = ADDED_TOKENS
    notes: tuple[str, ...] = ()

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        height, width = self.vision.image_size
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns of a frame."""
        height, width = self.frame_size
        return height // self.vision.patch_size, width // self.vision.patch_size

    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        vision, adapter, text = self.vision, self.adapter, self.text
        rows, cols = self.grid
        return ModelShape(
            patch_dim=3 * vision.patch_size**2,
            num_patches=rows * cols,
            num_windows=-(-rows // self.pooling[0]) * -(-cols // self.pooling[1]),
            window_size=self.pooling[0] * self.pooling[1],
            vit_blocks=max(n % vision.num_hidden_layers for n in adapter.vision_feature_layer) + 1,
            vit_width=vision.hidden_size,
            vit_heads=vision.num_attention_heads,
            vit_head_dim=vision.head_dim,
            vit_mlp=vision.intermediate_size,
            connector_flops=self._connector_flops(),
            llm_layers=text.num_hidden_layers,
            llm_width=text.hidden_size,
            llm_heads=text.num_attention_heads,
            llm_kv_heads=text.num_key_value_heads,
            llm_head_dim=text.head_dim,
            llm_mlp=text.intermediate_size,
            vocab_size=text.vocab_size,
        )

    def _connector_flops(self) -> int:
        """Count the connector of a visual token: attention from a window's mean to its patches, and a gated MLP."""
        adapter, slots = self.adapter, self.pooling[0] * self.pooling[1]
        inner = adapter.num_attention_heads * adapter.head_dim
        features = len(adapter.vision_feature_layer) * self.vision.hidden_size
        attention = 2 * features * inner * (1 + 2 * slots) + 4 * slots * inner
        mlp = 2 * adapter.intermediate_size * (2 * adapter.hidden_size + self.text.hidden_size)
        return attention + 2 * inner * adapter.hidden_size + mlp

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        s = self.sizes()
        inner = s.vit_heads * s.vit_head_dim
        block = 4 * s.vit_width * inner + 3 * inner + 2 * s.vit_width * s.vit_mlp + s.vit_mlp + 6 * s.vit_width
        layers: int = self.vision.num_hidden_layers
        vit = layers * block + (s.patch_dim + 1 + s.num_patches) * s.vit_width
        adapter = self.adapter
        inner = adapter.num_attention_heads * adapter.head_dim
        features = len(adapter.vision_feature_layer) * adapter.hidden_size
        attention = 3 * (features + 1) * inner + (inner + 1) * adapter.hidden_size
        connector = attention + adapter.intermediate_size * (2 * adapter.hidden_size + s.llm_width)
        queries, keys = s.llm_heads * s.llm_head_dim, s.llm_kv_heads * s.llm_head_dim
        layer = s.llm_width * (2 * queries + 2 * keys + 3 * s.llm_mlp + 2) + 2 * s.llm_head_dim
        words = (2 * s.vocab_size + self.num_added_tokens + 1) * s.llm_width
        return vit + connector + s.llm_layers * layer + words


def shapes_folder() -> Path:
    """Return the folder of the architectures that ship."""
    return presets_folder() / "shapes"


def load_architecture(name_or_path: str | Path) -> Architecture:
    """Read a shipped architecture by its name, or a YAML file with the same keys; raises what `files.load` does."""
    path = files.find("shape", str(name_or_path), shapes_folder())
    shape = files.load(path, Shape)
    return Architecture(
        name=path.stem,
        description=shape.description,
        vision=shape.vision_config,
        adapter=shape.adapter_config,
        text=shape.text_config,
        pooling=(shape.pooling[0], shape.pooling[1]),
        prune_layer=shape.prune_layer,
        keep_ratio=shape.keep_ratio,
    )
