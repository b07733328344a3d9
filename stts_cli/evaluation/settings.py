"""What a run was made with, so that two runs can be distinguished: settings, weights, questions, versions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

from stts_cli import __version__
from stts_cli.data.items import QaItem
from stts_cli.versions import installed

SAMPLED = 4096  # numbers of each weight that enter the hash
PACKAGES = ("torch", "transformers", "decord2", "av", "numpy")


def weights_hash(family: Any) -> str:
    """Return 16 hex digits of a hash over name, shape and evenly spread numbers of every weight, scorer included."""
    digest = hashlib.sha256()
    modules = [family.model, *([family.scorer] if family.scorer is not None else [])]
    with torch.inference_mode():
        for module in modules:
            for name, weight in module.state_dict().items():
                numbers = weight.detach().reshape(-1)[:: max(1, weight.numel() // SAMPLED)]
                digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
                digest.update(numbers.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def items_hash(items: Iterable[QaItem]) -> str:
    """Return 16 hex digits that stand for the questions, their options and answers."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.id, item.video, item.question, item.options, item.answer, item.also)).encode())
        source = item.source
        digest.update(repr((source.start_s, source.end_s, source.end_frame, item.subtitles)).encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of stts and of the packages that can change an answer."""
    return {"stts": __version__, **installed(*PACKAGES)}
