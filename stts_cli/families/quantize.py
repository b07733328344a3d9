"""Weights in 4 bits, by transformers' own way of calling bitsandbytes; the vision encoder stays as it is.

Windows are scored and dropped inside the vision encoder, so that is never rounded; it holds few of the weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

from stts_cli.errors import EnvironmentFailure, install_hint


def four_bit(left_out: Sequence[str], dtype: torch.dtype) -> Any:
    """Return the `quantization_config` of `from_pretrained` for linear layers in 4 bits (NF4, its scales in 8).

    Args:
        left_out: patterns of modules that stay as they are.
        dtype: of products.

    Raises:
        EnvironmentFailure: bitsandbytes is not there, or runs on no device here.
    """
    from transformers import BitsAndBytesConfig

    check_bitsandbytes()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(left_out),
    )


def check_bitsandbytes() -> None:
    """Raise the EnvironmentFailure that bitsandbytes is not there, or runs on no device here."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentFailure(f"--quantize 4bit: needs the bitsandbytes package; {install_hint('4bit')}")
    from transformers.integrations import validate_bnb_backend_availability

    try:
        validate_bnb_backend_availability(raise_exception=True)
    except (ImportError, RuntimeError) as error:
        raise EnvironmentFailure("--quantize 4bit: bitsandbytes runs on no device of this machine.") from error


def quantized_note(model: Any, dtype: torch.dtype) -> str:
    """Say what of a model is in 4 bits."""
    name = str(dtype).removeprefix("torch.")
    rest = "the vision encoder, the connector and the output head"
    if hasattr(model.config.text_config, "num_experts_per_tok"):
        rest += ", and the experts, which bitsandbytes does not take,"
    return f"--quantize 4bit: of the language model's linear layers; {rest} stay in {name}"
