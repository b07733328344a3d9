"""LoRA: small trainable matrices beside the linear layers of the language model and, if asked for, of the ViT.

peft puts its layers in the place of the stock ones. The paper (arXiv 2603.18004) trains everything; LoRA is ours.
"""

from __future__ import annotations

import torch
from torch import nn

from stts_cli.errors import EnvironmentFailure, InputError, install_hint
from stts_cli.families.base import Family

ADAPTER = "default"


def add_lora(family: Family, *, rank: int = 16, alpha: int = 32, vit: bool = False) -> None:
    """Freeze a family's stock model and put trainable adapters into it, in place, or refuse one that has some already.

    The adapters start as zero, so the model says what it said before, and are scaled by alpha / rank. They are float32
    whatever the model's dtype. `vit` puts some into the ViT's blocks too, up to the deepest that the connector reads.
    The scorer is left as it is.
    """
    for name, value in (("--lora-rank", rank), ("--lora-alpha", alpha)):
        if value <= 0:
            raise InputError(f"{name} {value}: must be greater than 0.")
    if has_lora(family):
        raise InputError(f"{family.model_name}: has adapters already; load it again.")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise EnvironmentFailure(f"--train lora: needs the peft package; {install_hint('train')}") from error
    parts = [family.model.get_decoder(), *(family.vit_blocks if vit else ())]
    linear = {id(module) for part in parts for module in part.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in family.model.named_modules() if id(module) in linear]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)
    inject_adapter_in_model(config, family.model, adapter_name=ADAPTER)
    for parameter in family.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def has_lora(family: Family) -> bool:
    """Return whether `add_lora` was called on a family."""
    return ADAPTER in getattr(family.model, "peft_config", {})
