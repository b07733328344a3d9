"""VideoLLaMA3 in transformers' format: its own classes, and prompt and pixels as VideoLlama3Processor makes them.

What differs from the stock model:

- Windows are dropped inside the ViT, so each block gets the rotary table's rows of the patches that are left, and the
  bilinear shrinking before the connector is done window by window, which gives the same numbers.
- The stock processor drops tokens too, behind the connector, where pixels hardly changed (`use_token_compression`).
  That is off here: at keep ratio 1 every token is there.
- Frames are what the caller chose. The more there are the smaller each is, as stock does.
- A picture is asked as a video of one frame; stock makes a token of each of its patches, and of four in videos.

Checkpoints whose model_type is videollama3_qwen2 run code of their own and are refused.

Source: VideoLLaMA3; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from stts_cli.config.frame_size import PixelShare
from stts_cli.config.video_llama_3 import VideoLlama3Shape, time_words
from stts_cli.errors import InputError
from stts_cli.families.base import check_language_model
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.units import UnitFamily, UnitProcessor, UnitVit, places, read_unit_settings
from stts_cli.settings import Layout

_FILE = "video_preprocessor_config.json"
_MARKS = ("<|image_pad|>", "<|video_pad|>")
_MERGE = 2  # the video processor's defaults
_SIZE = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
_COMPRESSION = "use_token_compression of the stock processor is off: at keep ratio 1 every token of a video is there"


class _Vit(UnitVit):
    """The ViT on frames of one layout; see `pruning.Vit`."""

    def __init__(self, family: VideoLlama3Family, layout: Layout) -> None:
        self.tower = family.model.model.vision_model
        where = places(layout, family.device)
        super().__init__(family.vit_blocks, family.taps, self.tower.rotary_pos_emb(where, where))

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (T, N, patch_dim) into what block 0 takes, (T, N, D)."""
        hidden: Tensor = self.tower.embeddings(patches.to(self.tower.device, self.tower.dtype))
        return hidden.view(*patches.shape[:2], -1)


class VideoLlama3Family(UnitFamily):
    """A loaded VideoLLaMA3 with its scorer; its arguments are those of `Family`."""

    model_class = "VideoLlama3ForConditionalGeneration"
    shape_class = VideoLlama3Shape
    part_names: ClassVar = {"vit": ".vision_model.", "connector": ".projector."}
    frames_per_unit = 1

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        check_language_model(config.text_config)
        found = read_unit_settings(config.vision_config, checkpoint, given)
        if found.get("temporal_patch_size", 1) != 1:
            raise InputError(f"{_FILE}: temporal_patch_size {found['temporal_patch_size']}; must be 1.")
        size = {**_SIZE, **(found.get("size") or {})}
        least = found.get("min_pixels", size["shortest_edge"])  # older names, which count more
        most = found.get("max_pixels", size["longest_edge"])
        rule = PixelShare(config.vision_config.patch_size, int(found.get("merge_size", _MERGE)), int(least), int(most))
        mean, std = (tuple(found.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
        notes = [_COMPRESSION] if checkpoint and found.get("use_token_compression", True) else []
        return {"frames": UnitProcessor(mean, std, "antialias-bicubic"), "layout_rule": rule}, notes

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order."""
        return list(self.model.model.vision_model.encoder.layers)

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads, 0-based, in its order."""
        return [len(self.blocks) - 1]

    def vit(self, layout: Layout) -> _Vit:
        """Return the ViT on frames of a layout."""
        return _Vit(self, layout)

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""
        model, side = self.model.model, round(pool_index.shape[1] ** 0.5)
        windows = model.vision_model.post_layernorm(features)[pool_index].unflatten(1, (side, side))
        means = functional.interpolate(windows.permute(0, 3, 1, 2), size=(1, 1), mode="bilinear").flatten(1)
        visual_tokens: Tensor = model.projector(means)
        return visual_tokens

    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: each frame's time, and a placeholder a window."""
        return time_words(timestamps_s, self.placeholder * layout.num_windows)

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        found = BaseModelOutputWithPooling(pooler_output=tuple(visual_tokens))
        return {"input_ids": input_ids, "mm_encoder_outputs": {"video": found}}

    def positions(self, dense_ids: Tensor, layout: Layout, timestamps_s: Sequence[float]) -> None:
        """Return nothing: the language model counts the tokens that are left."""

    @classmethod
    def random_parts(cls, shape: VideoLlama3Shape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        from transformers import VideoLlama3Config

        start = shape.text_config.vocab_size - len(_MARKS)
        config = VideoLlama3Config(
            vision_config=dict(shape.vision_config),
            text_config={**dict(shape.text_config), "pad_token_id": None},
            image_token_id=start,
            video_token_id=start + 1,
            tie_word_embeddings=shape.tie_word_embeddings,
        )
        size = dict(zip(("shortest_edge", "longest_edge"), shape.size, strict=True))
        return config, byte_tokenizer(start, _MARKS), {"size": size, "merge_size": shape.merge_size}
