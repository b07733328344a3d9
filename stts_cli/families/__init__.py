"""Model families: which video VLMs can be loaded, and by what file.

`load_family` looks at a checkpoint's `model_type` and hands over to that family's own file. transformers is imported
only inside functions, so that importing this room stays cheap.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stts_cli.errors import EnvironmentFailure, InputError, suggest
from stts_cli.families.broken import check_json_files, check_words, loads_checkpoint
from stts_cli.families.checkpoints import base_chain

if TYPE_CHECKING:
    from stts_cli.families.base import Family

FAMILIES = {"molmo2": ("stts_cli.families.molmo2", "Molmo2Family")}


@loads_checkpoint
def load_family(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Family:
    """Load a checkpoint with the method built in.

    A folder whose stts.json names a base model (written by a scorer-only or LoRA training) is loaded through it: the
    base's weights, a LoRA merged into them, the folder's own scorer.

    Args:
        model: a checkpoint folder or a hub id.
        device: where the weights go.
        dtype: dtype of the weights.
        attn_implementation: attention of all but the vision encoder, whose own is ours: "sdpa" or "eager".
        trust_remote_code: let transformers run code that came with the checkpoint; off by default.
        revision: commit, branch or tag of a hub id; None for the newest.

    Returns:
        The family. The scorer is there when the folder's stts.json names one.

    Raises:
        InputError: no such folder, no model in it or in its base, a broken file, or a type that no family handles.
        EnvironmentFailure: a model or a base model on the hub that cannot be reached, or a LoRA and no peft.
    """
    from transformers import PretrainedConfig

    name = str(model)
    if isinstance(model, Path) and not model.is_absolute():
        name = f"./{name}"
    chain = base_chain(name, revision)
    check_json_files(chain)
    root = chain[-1]
    try:
        config = PretrainedConfig.get_config_dict(root.model, revision=root.revision or "main")[0]
    except OSError as error:
        if len(chain) == 1 or root.is_local:
            raise
        raise EnvironmentFailure(
            f"the base model '{root.model}' of '{model}' cannot be loaded -> it holds the weights that were not "
            "trained -> check the network, or the name in its stts.json"
        ) from error
    if "transformers_weights" in config:  # it names another file of weights, which would go unchecked
        raise InputError(f"{root.model}/config.json: transformers_weights; must not be there: rename the file instead.")
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise InputError(
            f"model '{root.model}' is of type {model_type!r}, which no family handles"
            f"{suggest(str(model_type), FAMILIES)} -> choose a checkpoint of a known type"
        )
    module, cls = FAMILIES[model_type]
    family: Family = getattr(importlib.import_module(module), cls).load(
        chain,
        device=torch.device(device),
        dtype=dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    check_words(family)
    family.chain = tuple(chain)
    return family


def family_of(model: Any, tokenizer: Any, *, scorer: Any = None, video_processor: Any = None) -> Family:
    """Put the method into a stock model that is loaded already.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer.
        scorer: a `pruning.TokenScorer` on the model's device, or None.
        video_processor: the checkpoint's own, whose frame size, filter and normalisation are taken; None for the
            model's defaults.

    Returns:
        The family.

    Raises:
        InputError: a model of a type that no family handles.
    """
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise InputError(f"a model of type {model_type}: no family handles it{suggest(model_type, FAMILIES)}")
    module, cls = FAMILIES[model_type]
    family: Family = getattr(importlib.import_module(module), cls).wrap(model, tokenizer, scorer, video_processor)
    check_words(family)
    return family
