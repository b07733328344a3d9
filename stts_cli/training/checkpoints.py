"""Checkpoints and logs of a training stage: saved whole or not at all, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def load(path: Path) -> dict[str, Any] | None:
    """Return what `save` wrote, or None where nothing was saved yet."""
    return torch.load(path, weights_only=False) if path.exists() else None


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; a run that is killed meanwhile leaves the one before."""
    part = path.with_suffix(".tmp")
    torch.save(state, part)
    part.replace(path)


def log(path: Path, line: dict[str, Any]) -> None:
    """Print a line and append it to a log."""
    text = json.dumps(line)
    print(text, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
