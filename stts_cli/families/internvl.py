"""InternVL in transformers' format (3, 3.5): its own classes, and prompt and pixels as InternVLProcessor makes them.

What differs from the stock model:

- Windows are dropped inside the ViT. Its class token stands before the patches of every frame, is in no window and
  stays with a frame that keeps anything.
- The pixel shuffle before the connector, a gather over whole frames, is done by the table of kept windows: the patches
  of a window, row by row, are one long vector.
- Frames are what the caller chose, each squashed to the model's square. The prompt numbers them and has no times.
- A picture is asked as a video of one frame; stock cuts pictures into tiles, videos never.

Checkpoints whose model_type is internvl_chat run code of their own and are refused; those in transformers' format have
names that end in -hf or -HF.

Source: InternVL3.5; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stts_cli.config.internvl import InternVLShape, frame_words
from stts_cli.config.shapes import Shape
from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError
from stts_cli.families.base import Family, check_language_model
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.checkpoints import Checkpoint, parse
from stts_cli.families.frames import FrameProcessor, read_video_settings, to_images
from stts_cli.settings import FixedLayout, Layout, LayoutRule

_FILE = "preprocessor_config.json"
_KEYS = ("image_mean", "image_std", "resample", "size")  # those of pictures count for videos too
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # the class's defaults


class InternVLFamily(Family):
    """A loaded InternVL with its scorer; its arguments are those of `Family`."""

    model_class = "InternVLForConditionalGeneration"
    video_tag = "<video>"
    placeholder = "<IMG_CONTEXT>"
    visual_words = ("<IMG_CONTEXT>", "<img>", "</img>")
    part_names: ClassVar = {"vit": ".vision_tower.", "connector": ".multi_modal_projector."}
    starts_with_bos = False

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        check_language_model(config.text_config)
        layout = _layout(config)
        found = read_video_settings(checkpoint.find_file, _KEYS) if checkpoint else {}
        found = {**found, **{key: value for key, value in given.items() if value is not None}}
        height, width = layout.frame_size
        size = found.get("size", {"height": height, "width": width})
        if (size.get("height"), size.get("width")) != (height, width):
            raise InputError(f"{_FILE}: size {dict(size)}; the model's is {height}x{width}.")
        if found.get("resample", 3) != 3:
            raise InputError(f"{_FILE}: resample {found['resample']}; must be 3 (bicubic).")
        path = checkpoint.find_file("processor_config.json") if checkpoint else None
        tokens = parse(path, json.loads).get("image_seq_length") if path else None
        if tokens not in (None, layout.num_windows):
            raise InputError(f"processor_config.json: image_seq_length {tokens}; the model's is {layout.num_windows}.")
        mean, std = (tuple(found.get(key, own)) for key, own in (("image_mean", _MEAN), ("image_std", _STD)))
        return {"frames": FrameProcessor(mean, std, "antialias-bicubic"), "layout_rule": FixedLayout(layout)}, []

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order."""
        return list(self.model.model.vision_tower.encoder.layer)

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads, 0-based, in its order."""
        return [len(self.blocks) - 1]

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (T, N, patch_dim) into what block 0 takes, (T, 1 + N, D), the class token first."""
        tower = self.model.model.vision_tower
        embedded: Tensor = tower.embeddings(to_images(patches.to(tower.device, tower.dtype), self.layout))
        return embedded

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""
        model = self.model.model
        windows = model.vision_tower.layernorm(features)[pool_index].flatten(1)
        visual_tokens: Tensor = model.multi_modal_projector(windows)
        return visual_tokens

    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: each frame's number, marks and a placeholder a window."""
        return frame_words(len(timestamps_s), f"<img>{self.placeholder * layout.num_windows}</img>")

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        found = BaseModelOutputWithPooling(pooler_output=torch.cat(list(visual_tokens)))  # one tensor, no tuple
        return {"input_ids": input_ids, "mm_encoder_outputs": {"image": found}}

    def shape(self, layout: Layout | None = None) -> ModelShape:
        """Return the sizes that FLOPs depend on; see `Family`."""
        return InternVLShape.of(self.model.config).sizes()

    @classmethod
    def read_shape(cls, config: Any, rule: LayoutRule) -> Shape:
        """Read the sizes that a stock config holds; see `Family`."""
        return InternVLShape.of(config)

    @classmethod
    def random_parts(cls, shape: InternVLShape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        from transformers import InternVLConfig

        start = shape.text_config.vocab_size - len(cls.visual_words)
        config = InternVLConfig(
            vision_config=dict(shape.vision_config),
            text_config={**dict(shape.text_config), "pad_token_id": None},
            downsample_ratio=shape.downsample_ratio,
            image_token_id=start + cls.visual_words.index(cls.placeholder),
            tie_word_embeddings=shape.tie_word_embeddings,
        )
        return config, byte_tokenizer(start, cls.visual_words), {}


def _layout(config: Any) -> Layout:
    """Return how every video is cut; InputError, which names the key, where the config has parts that are not read."""
    vision, window = config.vision_config, int(1 / config.downsample_ratio)
    (height, width), (side, across) = vision.image_size, vision.patch_size
    rows = height // side
    must = {
        "vision_feature_layer": (config.vision_feature_layer == -1, "-1, the last block"),
        "vision_feature_select_strategy": (config.vision_feature_select_strategy == "default", "default"),
        "vision_config.image_size": (
            height == width and side == across and height % (side * window) == 0,
            f"a square of a multiple of {window} patches of {side} px",
        ),
    }
    for key, (is_so, allowed) in must.items():
        if not is_so:
            value: Any = config
            for name in key.split("."):
                value = getattr(value, name)
            raise InputError(f"config.json: {key} {value}; must be {allowed}.")
    return Layout((height, width), (rows, rows), (window, window), num_class_tokens=1)
