"""Molmo2's config and tokens from its sizes: for random weights, and for the embedded model that is trained here."""

from __future__ import annotations

from typing import Any

from stts_cli.config.molmo2 import Molmo2Shape

VISION_TOKENS = (  # in the order of the released checkpoints, from the end of the vocabulary on
    "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
    "<frame_start>", "<frame_end>", "<|video|>",
)  # fmt: skip


def random_config(shape: Molmo2Shape) -> Any:
    """Return transformers' Molmo2Config of given sizes."""
    from transformers import Molmo2Config

    vision, adapter, text = dict(shape.vision_config), dict(shape.adapter_config), dict(shape.text_config)

    def ids(token: str) -> int:
        return int(text["vocab_size"]) + VISION_TOKENS.index(token)

    return Molmo2Config(
        vision_config={**vision, "num_key_value_heads": vision["num_attention_heads"]},
        adapter_config={
            **adapter,
            "num_key_value_heads": adapter["num_attention_heads"],
            "text_hidden_size": text["hidden_size"],
        },
        text_config={**text, "rope_parameters": {"rope_type": "default", "rope_theta": 5_000_000.0}},
        image_start_token_id=ids("<im_start>"),
        image_end_token_id=ids("<im_end>"),
        image_patch_id=ids("<im_patch>"),
        low_res_image_start_token_id=ids("<low_res_im_start>"),
        frame_start_token_id=ids("<frame_start>"),
        frame_end_token_id=ids("<frame_end>"),
    )
