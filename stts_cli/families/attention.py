"""The vision encoders' attention, registered with transformers, so that stock blocks run on packed patches.

`current_attention` says what the running block attends over; where it says nothing, this is transformers' SDPA.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stts_cli.pruning import current_attention

NAME = "stts"


def attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend as `AttentionInterface` asks: (B, H, S, K) each in, (B, S, H, K) and no weights out."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attention = current_attention()
    if attention is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out, None
    scaling = options.get("scaling")
    return attention(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None


def use_registered_attention(model: Any) -> None:
    """Let the vision encoder of a stock model dispatch its attention to `attention_forward`, and no other part."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation({"vision_config": NAME})
