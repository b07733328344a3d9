"""Molmo2: transformers' own classes, and the prompt as transformers' Molmo2Processor words it.

Released checkpoints and transformers' own format load alike. Source: Molmo2; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stts_cli.config.molmo2 import Molmo2Shape
from stts_cli.config.shapes import Shape
from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError
from stts_cli.families.base import Family
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.checkpoints import Checkpoint, read_processor
from stts_cli.families.frames import read_frame_processor
from stts_cli.families.random_molmo2 import VISION_TOKENS, random_config
from stts_cli.settings import FixedLayout, Layout, LayoutRule

_CHUNK_TOKENS = 4_096  # visual tokens that go through the connector at once


class Molmo2Family(Family):
    """A loaded Molmo2 with its scorer.

    Args:
        model: transformers' Molmo2ForConditionalGeneration, unchanged.
        tokenizer: its tokenizer.
        processor: the checkpoint's processor_config.json: how frames are marked in the prompt.
        given: as for `Family`.
    """

    model_class = "Molmo2ForConditionalGeneration"
    video_tag = "<|video|>"
    placeholder = "<im_patch>"
    visual_words = (
        "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>",
        "<im_end>", "<frame_end>", "<im_low>",
    )  # fmt: skip
    two_way = Molmo2Shape.two_way
    prune_layer = 3
    part_names: ClassVar = {"vit": ".vision_tower.", "connector": ".multi_modal_projector."}

    def __init__(
        self, model: Any, tokenizer: Any, *, processor: Mapping[str, object] | None = None, **given: Any
    ) -> None:
        super().__init__(model, tokenizer, **given)
        (rows, cols), num_positions = self.layout.grid, model.config.vision_config.num_position_embeddings
        if rows * cols != num_positions:
            raise InputError(
                f"{self.model_name}: frames give {rows}x{cols} patches, the model has {num_positions} positions. "
                "Use the checkpoint's own video_preprocessor_config.json."
            )
        marks = processor or {}
        special = marks.get("use_frame_special_tokens", True)
        self._frame_start, self._frame_end = ("<frame_start>", "<frame_end>") if special else ("<im_start>", "<im_end>")
        self._column = "<im_col>" if marks.get("video_use_col_tokens", False) else ""

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches and are marked in the prompt; see `Family`."""
        vision = config.vision_config
        size = dict(zip(("height", "width"), vision.image_size, strict=True))
        defaults = {"size": size, "patch_size": vision.patch_size, "pooling_size": (3, 3), **given}
        frames, layout = read_frame_processor(checkpoint.find_file if checkpoint else lambda name: None, defaults)
        processor, notes = read_processor(checkpoint) if checkpoint else ({}, [])
        return {"frames": frames, "layout_rule": FixedLayout(layout), "processor": processor}, notes

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order."""
        return list(self.model.model.vision_tower.layers)

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads, 0-based, in its order."""
        return [layer % len(self.blocks) for layer in self.model.config.adapter_config.vision_feature_layer]

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (T, N, patch_dim) into what block 0 takes, (T, N, D)."""
        tower = self.model.model.vision_tower
        hidden: Tensor = tower.patch_embedding(patches.to(tower.device, tower.dtype))
        return hidden + tower.positional_embedding[None].to(hidden)

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one stock block on (B, S, D)."""
        out: Tensor = self.blocks[number](hidden, attention_mask=None)
        return out

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D * taps) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""
        connector: Callable[..., Any] = self.model.model.multi_modal_projector
        if torch.is_grad_enabled() or len(pool_index) <= _CHUNK_TOKENS:
            return connector(features, pool_index).last_hidden_state
        parts = [connector(features, part).last_hidden_state for part in pool_index.split(_CHUNK_TOKENS)]
        return torch.cat(parts)

    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: each frame's time, marks, and a placeholder a window, row by row."""
        rows, cols = layout.window_grid
        frame = self._frame_start + (self.placeholder * cols + self._column) * rows + self._frame_end
        return " ".join(f"{t:.1f} {frame}" for t in timestamps_s)

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return {
            "input_ids": input_ids,
            "mm_token_type_ids": is_visual,
            "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=tuple(visual_tokens))},
        }

    def shape(self, layout: Layout | None = None) -> ModelShape:
        """Return the sizes that FLOPs depend on; see `Family`."""
        return Molmo2Shape.of(self.model.config, layout or self.layout).sizes()

    @classmethod
    def read_shape(cls, config: Any, rule: LayoutRule) -> Shape:
        """Read the sizes that a stock config holds; see `Family`."""
        assert isinstance(rule, FixedLayout)
        return Molmo2Shape.of(config, rule.layout)

    @classmethod
    def random_parts(cls, shape: Molmo2Shape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        tokenizer = byte_tokenizer(shape.text_config.vocab_size, VISION_TOKENS)
        return random_config(shape), tokenizer, {"pooling_size": shape.pooling}
