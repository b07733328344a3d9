"""Write a fresh embedded model as a checkpoint folder in Hugging Face format, from which its training starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stts_cli.families.settings import FORMAT, SETTINGS_FILE
from stts_cli.settings import Pruning
from stts_cli.toy.nano_model import FRAME_SIZE, PATCH_SIZE, POOL


def export_nano(model: Any, tokenizer: Any, out: Path, *, prune_layer: int) -> None:
    """Save everything that `stts ask --model FOLDER` needs.

    Args:
        model: Molmo2ForConditionalGeneration; saved in bfloat16.
        tokenizer: the embedded tokenizer.
        out: the folder; made if needed, files in it are replaced.
        prune_layer: 0-based ViT block after which windows are to be scored.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    generation = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
    }
    _write(out / "generation_config.json", generation)
    video = {
        "video_processor_type": "Molmo2VideoProcessor",
        "size": {"height": FRAME_SIZE, "width": FRAME_SIZE},
        "patch_size": PATCH_SIZE,
        "pooling_size": [POOL, POOL],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_fps": 2,
        "num_frames": 64,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_sample_frames": True,
        "resample": 2,
    }
    _write(out / "video_preprocessor_config.json", video)
    _write(
        out / "processor_config.json",
        {"processor_class": "Molmo2Processor", "video_use_col_tokens": False, "use_frame_special_tokens": True},
    )
    settings: dict[str, Any] = {
        "format": FORMAT,
        "family": "molmo2",
        "name": "nano",
        "demonstration": True,
        **Pruning(prune_layer=prune_layer).to_dict(),
    }
    _write(out / SETTINGS_FILE, settings)


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
