"""Model families: which video VLMs can be loaded, and by what file.

`load_family` looks at a checkpoint's `model_type` and hands over to that family's own file. transformers is imported
only inside functions, so that importing this room stays cheap.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stts_cli.errors import InputError, suggest

if TYPE_CHECKING:
    from stts_cli.families.family import Family

FAMILIES = {"molmo2": ("stts_cli.families.molmo2", "Molmo2Family")}


def load_family(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
) -> Family:
    """Load a checkpoint with the method built in.

    Args:
        model: a checkpoint folder or a hub id.
        device: where the weights go.
        dtype: dtype of the weights.
        attn_implementation: the stock model's attention, "sdpa" or "eager".
        trust_remote_code: let transformers run code that came with the checkpoint; off by default.

    Returns:
        The family. The scorer is there when the folder's stts.json names one.

    Raises:
        InputError: no such folder, no model in it, or a model type that no family handles.
    """
    name = str(model)
    if name.startswith((".", "/", "~")) or isinstance(model, Path) or Path(name).exists():
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            what = "holds no config.json" if folder.is_dir() else "is no folder"
            raise InputError(f"model '{name}' {what} -> a checkpoint folder or a hub id such as allenai/Molmo2-4B")
        name = str(folder)
    from transformers import PretrainedConfig

    model_type = PretrainedConfig.get_config_dict(name)[0].get("model_type")
    if model_type not in FAMILIES:
        raise InputError(
            f"model '{name}' is of type {model_type!r}, which no family handles{suggest(str(model_type), FAMILIES)} "
            "-> choose a checkpoint of a known type"
        )
    module, cls = FAMILIES[model_type]
    family: Family = getattr(importlib.import_module(module), cls).load(
        name,
        device=torch.device(device),
        dtype=dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    return family
