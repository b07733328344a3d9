"""Placeholders: delete from the prompt what was dropped from the video.

Comes after selection and before the prompt is embedded: token ids (L,) and keep mask (T, W) in, shorter ids and the
index that shortens attention mask and token types alike out. Frame markers and timestamps stay, also those of a frame
that kept nothing. Source: arXiv 2603.18004, pruning for the language model. Positions are those of the shortened
sequence.
"""

from __future__ import annotations

from torch import Tensor


def shrink_placeholders(input_ids_L: Tensor, placeholder_id: int, keep_mask_TW: Tensor) -> tuple[Tensor, Tensor]:
    """Delete the placeholders of dropped windows.

    Args:
        input_ids_L: int64 (L,) one prompt, with one placeholder for each window of each frame, in order.
        placeholder_id: the token that stands for one visual token.
        keep_mask_TW: bool (T, W), True = kept.

    Returns:
        (kept ids int64 (L',), index bool (L,)): `x[index]` shortens anything that runs along the prompt.

    Raises:
        ValueError: the prompt does not hold exactly T * W placeholders.
    """
    is_placeholder = input_ids_L == placeholder_id
    found, expected = int(is_placeholder.sum()), keep_mask_TW.numel()
    if found != expected:
        raise ValueError(
            f"the prompt holds {found} placeholders (token {placeholder_id}), the video has {expected} windows: "
            "they must agree before pruning"
        )
    index = ~is_placeholder
    index[is_placeholder] = keep_mask_TW.reshape(-1).to(index.device)
    return input_ids_L[index], index
