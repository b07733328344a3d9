"""The embedded model as its training finds it: Molmo2 at a tiny configuration, its first weights, and its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stts_cli.config.architectures import load_architecture
from stts_cli.config.molmo2 import Molmo2Shape
from stts_cli.families.random_molmo2 import VISION_TOKENS, random_config
from stts_cli.families.settings import FORMAT, SETTINGS_FILE
from stts_cli.settings import Pruning

FRAME_SIZE = 96
PATCH_SIZE = 12
POOL = 2


def nano_config(tokenizer: Any) -> Any:
    """Return transformers' Molmo2Config of the embedded model, presets/shapes/nano.yaml, for a tokenizer."""
    shape = load_architecture("nano").shape
    assert isinstance(shape, Molmo2Shape)
    words = tokenizer.convert_tokens_to_ids(VISION_TOKENS[0])
    sizes = {"vocab_size": words, "additional_vocab_size": len(tokenizer) - words}
    text = shape.text_config.model_copy(update=sizes)
    config = random_config(shape.model_copy(update={"text_config": text}))
    config.vision_config.num_position_embeddings = (FRAME_SIZE // PATCH_SIZE) ** 2
    config.text_config.rope_parameters["rope_theta"] = 10_000.0
    config.update(_own_tokens(tokenizer))
    return config


def _own_tokens(tokenizer: Any) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("eos", "bos", "pad")}


def _sincos(side: int, width: int) -> torch.Tensor:
    """Return a two-dimensional sine-cosine embedding (side * side, width), so that neighbours start out alike."""
    quarter = width // 4
    rates = torch.pi / 2 ** torch.linspace(0, 3, quarter)
    angles = torch.arange(side)[:, None] * rates
    one = torch.cat((angles.sin(), angles.cos()), dim=-1)
    rows, columns = one[:, None].expand(side, side, -1), one[None].expand(side, side, -1)
    return torch.cat((rows, columns), dim=-1).reshape(side * side, width)


def build_nano(tokenizer: Any, seed: int = 0) -> Any:
    """Return a fresh Molmo2ForConditionalGeneration, float32, with rates of spread that suit Muon."""
    from transformers import Molmo2ForConditionalGeneration

    torch.manual_seed(seed)
    model = Molmo2ForConditionalGeneration(nano_config(tokenizer))
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                if name.endswith(("o_proj", "down_proj", "fc2")):
                    module.weight.mul_(0.3)
                if module.bias is not None:
                    module.bias.zero_()
        model.lm_head.weight.mul_(0.3)
        model.model.language_model.embed_tokens.weight.normal_(std=0.2)
        model.model.vision_tower.positional_embedding.copy_(0.5 * _sincos(FRAME_SIZE // PATCH_SIZE, 96))
    return model


def export_nano(model: Any, tokenizer: Any, out: Path, *, prune_layer: int) -> None:
    """Save all that `stts ask --model FOLDER` needs, in Hugging Face format and bfloat16; replaces what is there."""
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    documents = {
        "generation_config.json": {**_own_tokens(tokenizer), "do_sample": False},
        "video_preprocessor_config.json": {
            "video_processor_type": "Molmo2VideoProcessor",
            "size": {"height": FRAME_SIZE, "width": FRAME_SIZE},
            "patch_size": PATCH_SIZE,
            "pooling_size": [POOL, POOL],
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "max_fps": 2,
            "num_frames": 64,
            **{f"do_{step}": True for step in ("resize", "rescale", "normalize", "sample_frames")},
            "resample": 2,
        },
        "processor_config.json": {
            "processor_class": "Molmo2Processor",
            "video_use_col_tokens": False,
            "use_frame_special_tokens": True,
        },
        SETTINGS_FILE: {
            "format": FORMAT,
            "family": "molmo2",
            "name": "nano",
            "demonstration": True,
            **Pruning(prune_layer=prune_layer).to_dict(),
        },
    }
    for name, document in documents.items():
        (out / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
