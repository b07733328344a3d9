"""Gemma 4, its small sizes: transformers' own classes, and prompt and pixels as Gemma4Processor makes them.

What differs from the stock model:

- Frames are not filled up to the most patches that one may have, which the stock ViT then masks away. The mean of a
  window's patches is taken window by window, as dropped ones have none: features are stock's to rounding, not to the
  bit.
- Most layers of the language model see a sliding window of the prompt, so that dropping a token lets others see
  further back than if it were masked. Its cache cannot be cut, and is copied for each question; in training each
  conversation has a row of its own, as a mask of ours would replace the sliding window.
- Frames are what the caller chose, not 32. A picture is asked as a video of one frame, of fewer tokens than stock's.

The larger sizes, whose visual tokens see each other in both directions or whose layers have experts, are refused.

Source: Gemma 4; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stts_cli.config.frame_size import WindowBudget
from stts_cli.config.gemma4 import Gemma4Shape, clock_words
from stts_cli.config.shapes import Shape
from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError
from stts_cli.families.base import Family
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.frames import FrameProcessor, read_video_settings
from stts_cli.pruning import current_attention
from stts_cli.settings import Layout, LayoutRule

_FILE = "video_preprocessor_config.json"
_MARKS = ("<bos>", "<|video|>", "<|image>", "<image|>")
_MOST = 70  # the video processor's default


class _Vit:
    """The ViT on frames of one layout; see `pruning.Vit`."""

    def __init__(self, family: Gemma4Family, layout: Layout) -> None:
        self.vit_blocks, self.taps = family.vit_blocks, family.taps
        self.tower, device = family.model.model.vision_tower, family.device
        rows, cols = (torch.arange(number, device=device) for number in layout.grid)
        self.places = torch.stack(torch.meshgrid(cols, rows, indexing="xy"), -1).view(1, -1, 2)  # column first
        self.rotation = self.tower.encoder.rotary_emb(self.tower.patch_embedder.input_proj.weight, self.places)

    def parts(self, number: int) -> Sequence[int]:
        """Return none: the patches of a frame see each other."""
        return ()

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (T, N, patch_dim) into what block 0 takes, (T, N, D)."""
        where = self.places.expand(len(patches), -1, -1)
        is_filling = torch.zeros(where.shape[:2], dtype=torch.bool, device=where.device)
        embedded: Tensor = self.tower.patch_embedder(patches.to(self.tower.device), where, is_filling)
        return embedded

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one stock block on frames (T, N, D), or on the packed patches of several (1, M, D)."""
        attention, tables = current_attention(), (*self.rotation, self.places)
        if attention is not None and attention.packed is not None:
            index = attention.packed.index % self.places.shape[1]
            cos, sin, where = (table[:, index] for table in tables)
        else:
            cos, sin, where = (table.expand(len(hidden), -1, -1) for table in tables)
        out: Tensor = self.vit_blocks[number](hidden, position_embeddings=(cos, sin), position_ids=where)
        return out


class Gemma4Family(Family):
    """A loaded Gemma 4 with its scorer; its arguments are those of `Family`."""

    model_class = "Gemma4ForConditionalGeneration"
    video_tag = placeholder = "<|video|>"
    visual_words = ("<|video|>",)
    part_names: ClassVar = {"vit": ".vision_tower.", "connector": ".embed_vision."}
    cache_reuse = "copy"
    shared_rows = False

    def __init__(self, model: Any, tokenizer: Any, **given: Any) -> None:
        super().__init__(model, tokenizer, **given)
        if tokenizer is not None:
            tokenizer.add_special_tokens({"additional_special_tokens": [self.placeholder]})  # as stock does
            found, own = self._token_id(self.placeholder), model.config.video_token_id
            if found != own:
                raise InputError(f"tokenizer.json: {self.placeholder} is token {found}; the model's is {own}.")
            ids = [model.config.boi_token_id, model.config.eoi_token_id]
            self._begin, self._end = tokenizer.convert_ids_to_tokens(ids)

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        _check(config)
        found = read_video_settings(checkpoint.find_file) if checkpoint else {}
        found = {**found, **{key: value for key, value in given.items() if value is not None}}
        vision = config.vision_config
        for key in ("patch_size", "pooling_kernel_size"):
            if found.get(key, getattr(vision, key)) != getattr(vision, key):
                raise InputError(f"{_FILE}: {key} {found[key]}; the model's is {getattr(vision, key)}.")
        if found.get("resample", 3) != 3:
            raise InputError(f"{_FILE}: resample {found['resample']}; must be 3 (bicubic).")
        rule = WindowBudget(vision.patch_size, vision.pooling_kernel_size, int(found.get("max_soft_tokens", _MOST)))
        mean, std = tuple(found.get("image_mean", (0.0,) * 3)), tuple(found.get("image_std", (1.0,) * 3))
        return {"frames": FrameProcessor(mean, std, "antialias-bicubic"), "layout_rule": rule}, []

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order."""
        return list(self.model.model.vision_tower.encoder.layers)

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads, 0-based, in its order."""
        return [len(self.blocks) - 1]

    def vit(self, layout: Layout) -> _Vit:
        """Return the ViT on frames of a layout."""
        return _Vit(self, layout)

    def embed(self, patches: Tensor) -> Tensor:
        """Refuse: positions depend on the layout; see `vit`."""
        raise NotImplementedError("ask vit(layout)")

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""
        model = self.model.model
        tower = model.vision_tower
        means = features.float()[pool_index].mean(1).to(features.dtype).float() * tower.pooler.root_hidden_size
        if tower.config.standardize:
            means = (means - tower.std_bias.float()) * tower.std_scale.float()
        visual_tokens: Tensor = model.embed_vision(inputs_embeds=means.to(features.dtype))
        return visual_tokens

    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: each frame's time, marks and a placeholder a window."""
        return clock_words(timestamps_s, f"{self._begin}{self.placeholder * layout.num_windows}{self._end}")

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        found = BaseModelOutputWithPooling(pooler_output=tuple(visual_tokens))
        return {"input_ids": input_ids, "mm_encoder_outputs": {"video": found}}

    def shape(self, layout: Layout | None = None) -> ModelShape:
        """Return the sizes that FLOPs depend on; see `Family`."""
        rule = self.layout_rule
        assert isinstance(rule, WindowBudget)
        return Gemma4Shape.of(self.model.config, rule).sizes_of(layout or self.layout)

    @classmethod
    def read_shape(cls, config: Any, rule: LayoutRule) -> Shape:
        """Read the sizes that a stock config holds; see `Family`."""
        from transformers import AutoModel

        assert isinstance(rule, WindowBudget)
        audio, number = config.audio_config, 0
        if audio is not None:
            with torch.device("meta"):
                number = sum(p.numel() for p in AutoModel.from_config(audio).parameters())
            number += audio.output_proj_dims * config.text_config.hidden_size
        return Gemma4Shape.of(config, rule, number)

    @classmethod
    def random_parts(cls, shape: Gemma4Shape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        from transformers import Gemma4Config

        text = dict(shape.text_config)
        start = shape.text_config.vocab_size - len(_MARKS)
        vision = dict(shape.vision_config)
        config = Gemma4Config(
            vision_config={**vision, "num_key_value_heads": vision["num_attention_heads"]},
            text_config={**text, "vocab_size_per_layer_input": text["vocab_size"]},
            audio_config={} if shape.audio_parameters else None,
            video_token_id=start + 1,
            boi_token_id=start + 2,
            eoi_token_id=start + 3,
        )
        return config, byte_tokenizer(start, _MARKS, bos=_MARKS[0]), {"max_soft_tokens": shape.max_soft_tokens}


def _check(config: Any) -> None:
    """Refuse, with the key, what the small sizes do not have."""
    if config.vision_config is None:
        raise InputError("config.json: vision_config is missing; must be there: the model sees nothing.")
    text, vision = config.text_config, config.vision_config
    must = {
        "text_config.use_bidirectional_attention": (text.use_bidirectional_attention, None),
        "text_config.enable_moe_block": (text.enable_moe_block, False),
        "text_config.attention_k_eq_v": (text.attention_k_eq_v, False),
        "vision_config.num_key_value_heads": (vision.num_key_value_heads, vision.num_attention_heads),
    }
    for key, (value, allowed) in must.items():
        if value != allowed:
            raise InputError(f"config.json: {key} {value}; must be {allowed}: of Gemma 4 the small sizes are handled.")
