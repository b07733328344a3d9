"""Molmo2 by its sizes: build an `Architecture` with random weights, or read one from a checkpoint's config.

For `stts profile`: time and memory depend on a model's sizes, not on what it has learned, so an architecture can be
measured without downloading its weights. What such a model says is noise.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken

from stts_cli.config.architectures import ADAPTER_KEYS, TEXT_KEYS, VISION_KEYS, Architecture
from stts_cli.errors import InputError
from stts_cli.families.broken import loads_checkpoint
from stts_cli.families.checkpoints import base_chain
from stts_cli.families.frames import FrameProcessor
from stts_cli.families.molmo2 import Molmo2Family, scorer_sizes
from stts_cli.pruning import TokenScorer
from stts_cli.settings import FixedLayout, Layout, Pruning

BASE_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION_TOKENS = (  # in the order of the released checkpoints, from the end of the vocabulary on
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<im_col>",
    "<low_res_im_start>",
    "<|image|>",
    "<im_low>",
    "<frame_start>",
    "<frame_end>",
    "<|video|>",
)
_NUM_BYTES = 256


class ByteTokenizer:
    """A tokenizer without a vocabulary file: a token a byte, and Molmo2's special tokens.

    Timestamps come out as long as under Qwen's tokenizer, which also splits numbers into digits.

    Args:
        vocab_size: where the vision tokens start.
    """

    bos_token, eos_token, chat_template = None, "<|im_end|>", None

    def __init__(self, vocab_size: int) -> None:
        self._ids = {token: _NUM_BYTES + i for i, token in enumerate(BASE_TOKENS)}
        self._ids |= {token: vocab_size + i for i, token in enumerate(VISION_TOKENS)}
        self._split = re.compile("(" + "|".join(map(re.escape, self._ids)) + ")")
        self.added_tokens_decoder = {k: AddedToken(token, special=True) for token, k in self._ids.items()}

    def __call__(
        self, text: str, add_special_tokens: bool = False, split_special_tokens: bool = False
    ) -> dict[str, list[int]]:
        """Return {"input_ids": …} of a text; special tokens in it as their bytes with `split_special_tokens`."""
        if split_special_tokens:
            return {"input_ids": list(text.encode())}
        ids: list[int] = []
        for part in self._split.split(text):
            ids += [self._ids[part]] if part in self._ids else part.encode()
        return {"input_ids": ids}

    def convert_tokens_to_ids(self, token: str) -> int:
        """Return the id of a special token."""
        return self._ids[token]

    def convert_ids_to_tokens(self, token_id: int) -> str:
        """Return the special token of an id."""
        return next(token for token, known in self._ids.items() if known == token_id)

    @property
    def pad_token_id(self) -> int:
        """Return the id that fills rows; any will do."""
        return self.eos_token_id

    @property
    def eos_token_id(self) -> int:
        """Return the id that ends an answer."""
        return self._ids[self.eos_token]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        """Return the text of byte tokens; others are left out."""
        return bytes(i for i in ids if i < _NUM_BYTES).decode(errors="replace")


def random_family(
    architecture: Architecture, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Molmo2Family:
    """Build a model of given sizes with random weights and a random learned scorer.

    Args:
        architecture: the sizes.
        device: where the weights are made.
        dtype: of the weights.
        seed: of the weights.

    Returns:
        The family, ready to encode.
    """
    from transformers import Molmo2ForConditionalGeneration

    torch.manual_seed(seed)
    config = random_config(architecture)
    with torch.device(device):
        model = Molmo2ForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
        scorer = TokenScorer(**scorer_sizes(config.vision_config))
    return Molmo2Family(
        model.eval(),
        ByteTokenizer(architecture.text["vocab_size"]),
        scorer=scorer.to(device, dtype).eval(),
        frames=FrameProcessor(),
        layout_rule=FixedLayout(Layout(architecture.frame_size, architecture.grid, architecture.pooling)),
        settings=Pruning(
            prune_layer=architecture.prune_layer,
            keep_ratio=architecture.keep_ratio,
            prune_from_frame=architecture.prune_from_frame,
            refill_lone_frames=architecture.refill_lone_frames,
            scorer="learned",
        ),
        model_name=architecture.name,
    )


def random_config(architecture: Architecture) -> Any:
    """Return transformers' Molmo2Config of an architecture."""
    from transformers import Molmo2Config

    vision, adapter, text = architecture.vision, architecture.adapter, architecture.text
    ids = ByteTokenizer(text["vocab_size"]).convert_tokens_to_ids
    return Molmo2Config(
        vision_config={**vision, "num_key_value_heads": vision["num_attention_heads"]},
        adapter_config={
            **adapter,
            "num_key_value_heads": adapter["num_attention_heads"],
            "text_hidden_size": text["hidden_size"],
        },
        text_config={
            **text,
            "additional_vocab_size": architecture.num_added_tokens,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5_000_000.0},
        },
        image_start_token_id=ids("<im_start>"),
        image_end_token_id=ids("<im_end>"),
        image_patch_id=ids("<im_patch>"),
        low_res_image_start_token_id=ids("<low_res_im_start>"),
        frame_start_token_id=ids("<frame_start>"),
        frame_end_token_id=ids("<frame_end>"),
    )


@loads_checkpoint
def read_architecture(model: str) -> Architecture:
    """Read the sizes of a checkpoint from its config, without its weights.

    Args:
        model: a checkpoint folder or a hub id.

    Returns:
        The architecture, with the checkpoint's own pruning settings.

    Raises:
        InputError: no such folder, a broken file, or not a Molmo2.
        EnvironmentFailure: the hub cannot be reached and the config is not in the cache.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers import AutoConfig

    hub_logging.set_verbosity_error()
    if "/" not in model and not Path(model).is_dir():
        raise InputError(f"model '{model}' is no folder and no hub id -> a checkpoint or OWNER/NAME -> check --model")
    chain = base_chain(model)
    top, root = chain[0], chain[-1]
    config = AutoConfig.from_pretrained(root.model, revision=root.revision or "main")
    if config.model_type != "molmo2":
        raise InputError(f"model '{model}' is of type '{config.model_type}' -> molmo2 can be profiled -> change it")
    processor = root.find_file("video_preprocessor_config.json")
    pooling = json.loads(processor.read_text(encoding="utf-8")).get("pooling_size") if processor else None
    settings = top.settings
    has_scorer = bool(top.document.get("scorer_file") or top.stored_scorer)
    return Architecture(
        name=top.name,
        description="",
        vision={key: getattr(config.vision_config, key) for key in VISION_KEYS},
        adapter={key: getattr(config.adapter_config, key) for key in ADAPTER_KEYS},
        text={key: getattr(config.text_config, key) for key in TEXT_KEYS},
        pooling=tuple(pooling) if pooling else (3, 3),
        prune_layer=settings.prune_layer,
        keep_ratio=settings.keep_ratio,
        prune_from_frame=settings.prune_from_frame,
        refill_lone_frames=settings.refill_lone_frames,
        scorer="temporal" if settings.scorer == "learned" and not has_scorer else settings.scorer,
        num_added_tokens=config.text_config.additional_vocab_size,
        notes=top.notes,
    )
