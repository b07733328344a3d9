"""SmolVLM2: transformers' own classes, and prompt and pixels as transformers' SmolVLMProcessor makes them.

What differs from the stock model:

- Windows are dropped inside the ViT, so the pixel shuffle before the connector, a gather over whole frames, is done by
  the table of kept windows: the patches of a window, row by row, are one long vector. `post_layernorm` comes before it.
- Frames are what the caller chose, not 1 a second. Each is resized twice as stock does, the longer edge to the
  processor's size and then squashed to a square, but always on the CPU by Lanczos' filter, which a GPU lacks.
- The blank lines behind a video are tokenized with the question, as stock does, so that a prefix that questions share
  ends before them. With subtitles, which stock does not know, it ends behind these.

Source: SmolVLM2; the method is arXiv 2603.18004's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stts_cli.config.shapes import Shape
from stts_cli.config.smolvlm import SmolVLMShape, video_words
from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError
from stts_cli.families.base import Family
from stts_cli.families.byte_tokenizer import byte_tokenizer
from stts_cli.families.checkpoints import Checkpoint
from stts_cli.families.frames import FrameProcessor, read_video_settings, to_images
from stts_cli.settings import FixedLayout, Layout, LayoutRule

_FILE = "preprocessor_config.json"
_KEYS = ("image_mean", "image_std", "resample", "size", "max_image_size", "video_sampling")  # made for videos too
_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # numbers of PIL


class SmolVLMFamily(Family):
    """A loaded SmolVLM2 with its scorer; its arguments are those of `Family`."""

    model_class = "SmolVLMForConditionalGeneration"
    video_tag = "<video>"
    placeholder = "<image>"
    visual_words = ("<image>", "<fake_token_around_image>", "<global-img>")
    part_names: ClassVar = {"vit": ".vision_model.", "connector": ".connector."}
    video_end = "\n\n"
    answer_start = " "

    def __init__(self, model: Any, tokenizer: Any, **given: Any) -> None:
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        super().__init__(model, tokenizer, **given)
        self.chat_template = DEFAULT_CHAT_TEMPLATE  # stock takes it for videos, whatever the checkpoint's own is

    @classmethod
    def processing(
        cls, config: Any, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Read how frames become patches; see `Family`."""
        found = read_video_settings(checkpoint.find_file, _KEYS) if checkpoint else {}
        found = {**found, **{key: value for key, value in given.items() if value is not None}}
        vision, window = config.vision_config, config.scale_factor
        side = _edge(found.get("max_image_size"), vision.image_size)
        edge = _edge(found.get("size", found.get("video_sampling", {}).get("video_size")), side)  # as stock prefers
        resample = found.get("resample", 1)
        if resample not in _FILTERS:
            raise InputError(f"{_FILE}: resample {resample}; must be 1 (lanczos), 2 (bilinear) or 3 (bicubic).")
        rows = side // vision.patch_size
        if not rows or rows % window:
            raise InputError(
                f"{_FILE}: max_image_size {side}; must make a multiple of {window} patches of {vision.patch_size} px."
            )
        layout = Layout(frame_size=(side, side), grid=(rows, rows), window=(window, window))
        mean, std = (tuple(found.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
        frames = FrameProcessor(mean, std, f"antialias-{_FILTERS[resample]}-{edge}")
        return {"frames": frames, "layout_rule": FixedLayout(layout)}, []

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the ViT in order."""
        return list(self.model.model.vision_model.encoder.layers)

    @property
    def taps(self) -> list[int]:
        """Blocks whose outputs the connector reads, 0-based, in its order."""
        return [len(self.blocks) - 1]

    def embed(self, patches: Tensor) -> Tensor:
        """Turn patches (T, N, patch_dim) into what block 0 takes, (T, N, D)."""
        tower = self.model.model.vision_model
        pixels = to_images(patches.to(tower.device, tower.dtype), self.layout)
        whole = torch.ones(len(patches), *self.layout.grid, dtype=torch.bool, device=pixels.device)
        embedded: Tensor = tower.embeddings(pixel_values=pixels, patch_attention_mask=whole)
        return embedded

    def run_block(self, number: int, hidden: Tensor) -> Tensor:
        """Run one stock block on (B, S, D)."""
        out: Tensor = self.blocks[number](hidden, attention_mask=None)
        return out

    def connect(self, features: Tensor, pool_index: Tensor) -> Tensor:
        """Turn features (M, D) of kept patches and their table (V, P) into visual tokens (V, D of the LM)."""
        model = self.model.model
        windows = model.vision_model.post_layernorm(features)[pool_index].flatten(1)
        visual_tokens: Tensor = model.connector.modality_projection(windows)
        return visual_tokens

    def video_text(self, timestamps_s: Sequence[float], layout: Layout, duration_s: float) -> str:
        """Word a video: how many frames of how long a video, then each frame's time, marks and placeholders."""
        frame = "<fake_token_around_image><global-img>" + self.placeholder * layout.num_windows
        return video_words(timestamps_s, duration_s, frame + "<fake_token_around_image>")

    def language_inputs(
        self, input_ids: Tensor, is_visual: Tensor, visual_tokens: Sequence[Tensor]
    ) -> Mapping[str, Any]:
        """Return what the stock model is called with to read prompts with videos in them; see `Family`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        outputs = {"image": BaseModelOutputWithPooling(pooler_output=tuple(visual_tokens))}
        return {"input_ids": input_ids, "mm_encoder_outputs": outputs}

    def shape(self, layout: Layout | None = None) -> ModelShape:
        """Return the sizes that FLOPs depend on; see `Family`."""
        return SmolVLMShape.of(self.model.config, layout or self.layout).sizes()

    @classmethod
    def read_shape(cls, config: Any, rule: LayoutRule) -> Shape:
        """Read the sizes that a stock config holds; see `Family`."""
        assert isinstance(rule, FixedLayout)
        return SmolVLMShape.of(config, rule.layout)

    @classmethod
    def random_parts(cls, shape: SmolVLMShape) -> tuple[Any, Any, Mapping[str, Any]]:
        """Return what a model with random weights is made of; see `Family`."""
        from transformers import SmolVLMConfig

        added = (*cls.visual_words, "<end_of_utterance>")
        start = shape.text_config.vocab_size - len(added)
        config = SmolVLMConfig(
            vision_config=dict(shape.vision_config),
            text_config={**dict(shape.text_config), "model_type": "llama", "pad_token_id": None},
            scale_factor=shape.scale_factor,
            image_token_id=start + added.index(cls.placeholder),
        )
        return config, byte_tokenizer(start, added, bos="<|im_start|>", eos="<end_of_utterance>"), {}


def _edge(size: Any, default: int) -> int:
    """Return the longest edge of a processor's size, which may be a dictionary."""
    if isinstance(size, Mapping):
        size = size.get("longest_edge") or size.get("height")
    return int(size or default)
