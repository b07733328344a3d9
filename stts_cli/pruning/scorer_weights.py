"""A learned scorer from its weights: the reference's names and this project's, complete and of the right shapes.

Molmo2's training code keeps the scorer inside the vision encoder as `PREFIX…temporal_token_scorer.NAME`; source: arXiv
2603.18004, its reference code. Its MLP reads [previous frame, this frame], as `TokenScorer` does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stts_cli.pruning.scorer import TokenScorer

SCORER_PART = "temporal_token_scorer."
_RENAMED = {
    "patch_token_pooler.wq.": "pool.q_proj.",
    "patch_token_pooler.wk.": "pool.k_proj.",
    "patch_token_pooler.wv.": "pool.v_proj.",
    "patch_token_pooler.wo.": "pool.o_proj.",
    "mlp.w1.": "mlp.fc1.",
    "mlp.w2.": "mlp.fc2.",
    "mlp.w3.": "mlp.fc3.",
}


def is_scorer_weight(name: str) -> bool:
    """Return whether a tensor belongs to a scorer that is stored beside the model, whatever stands before it."""
    return f".{SCORER_PART}" in f".{name}"


def scorer_from_state_dict(state_dict: Mapping[str, Tensor], sizes: Mapping[str, int]) -> TokenScorer:
    """Build a scorer from stored weights.

    Args:
        state_dict: all of its tensors and no other, by the reference's names, with or without what stands before
            them, or by `TokenScorer`'s.
        sizes: arguments of `TokenScorer`.

    Returns:
        The scorer in float32.

    Raises:
        ValueError: a tensor is missing, not known, there twice, or of another shape; all of them are named.
    """
    scorer = TokenScorer(**sizes)
    expected = scorer.state_dict()
    given: dict[str, str] = {}
    wrong: list[str] = []
    for name, value in state_dict.items():
        own = _own_name(name)
        if own not in expected:
            wrong.append(f"{name} is not known")
        elif own in given:
            wrong.append(f"{given[own]} and {name} are the same weight")
        elif value.shape != expected[own].shape:
            wrong.append(f"{name} is {_shape(value)} where the model needs {_shape(expected[own])}")
        given[own] = name
    wrong += [f"{_reference_name(name)} is missing" for name in expected if name not in given]
    if wrong:
        raise ValueError("; ".join(wrong))
    scorer.load_state_dict({own: state_dict[name].to(torch.float32) for own, name in given.items()})
    return scorer


def _own_name(name: str) -> str:
    name = f".{name}".rpartition(f".{SCORER_PART}")[2].removeprefix(".")
    for theirs, ours in _RENAMED.items():
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def _reference_name(name: str) -> str:
    for theirs, ours in _RENAMED.items():
        name = name.replace(ours, theirs)
    return name


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape))
