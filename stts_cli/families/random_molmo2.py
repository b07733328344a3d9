"""Molmo2 by its sizes, for `stts profile`: an `Architecture` with random weights, or one read from a config.

Time and memory depend on a model's sizes, not on what it has learned. What such a model says is noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stts_cli.config.architectures import Architecture
from stts_cli.errors import InputError
from stts_cli.families.broken import loads_checkpoint
from stts_cli.families.checkpoints import base_chain, read_config
from stts_cli.families.frames import FrameProcessor
from stts_cli.families.molmo2 import Molmo2Family, architecture_of, scorer_sizes
from stts_cli.pruning import TokenScorer
from stts_cli.settings import FixedLayout, Layout, Pruning

BASE_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION_TOKENS = (  # in the order of the released checkpoints, from the end of the vocabulary on
    "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
    "<frame_start>", "<frame_end>", "<|video|>",
)  # fmt: skip


def byte_tokenizer(vocab_size: int) -> Any:
    """Make a tokenizer without a file: a token a byte, then `BASE_TOKENS`, and `VISION_TOKENS` from `vocab_size` on.

    Timestamps come out as long as under Qwen's tokenizer, which also splits numbers into digits.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *BASE_TOKENS]
    words += [f"<unused {k}>" for k in range(len(words), vocab_size)]
    tokenizer = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*BASE_TOKENS, *VISION_TOKENS)])
    end = "<|im_end|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def random_family(
    architecture: Architecture, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Molmo2Family:
    """Build a model of given sizes with random weights and a random learned scorer, ready to encode."""
    from transformers import Molmo2ForConditionalGeneration

    torch.manual_seed(seed)
    config = random_config(architecture)
    with torch.device(device):
        model = Molmo2ForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
        scorer = TokenScorer(**scorer_sizes(config.vision_config))
    return Molmo2Family(
        model.eval(),
        byte_tokenizer(architecture.text.vocab_size),
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

    vision, adapter, text = dict(architecture.vision), dict(architecture.adapter), dict(architecture.text)

    def ids(token: str) -> int:
        return int(text["vocab_size"]) + VISION_TOKENS.index(token)

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
    """Read the sizes and pruning settings of a checkpoint, a folder or a hub id, without its weights.

    Raises:
        InputError: no such folder, a broken file, or not a Molmo2.
        EnvironmentFailure: the hub cannot be reached and the config is not in the cache.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers import AutoConfig

    hub_logging.set_verbosity_error()
    if "/" not in model and not Path(model).is_dir():
        raise InputError(f"--model {model}: is no folder and no hub id; must be a checkpoint folder or OWNER/NAME.")
    chain = base_chain(model)
    top, root = chain[0], chain[-1]
    if (model_type := read_config(chain).get("model_type")) != "molmo2":
        raise InputError(f"--model {model}: is of type {model_type}; must be a molmo2.")
    config = AutoConfig.from_pretrained(root.model, revision=root.revision or "main", trust_remote_code=False)
    settings, has_scorer = top.settings, bool(top.document.get("scorer_file") or top.stored_scorer)
    return architecture_of(
        config,
        Molmo2Family.processing(config, root, {})[0]["layout_rule"].layout,
        name=top.name,
        prune_layer=settings.prune_layer,
        keep_ratio=settings.keep_ratio,
        prune_from_frame=settings.prune_from_frame,
        refill_lone_frames=settings.refill_lone_frames,
        scorer="temporal" if settings.scorer == "learned" and not has_scorer else settings.scorer,
        notes=top.notes,
    )
