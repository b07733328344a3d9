"""How a checkpoint was trained to be pruned: `stts.json` and the scorer's weights beside the model's own files.

A checkpoint without `stts.json` is a stock one: the paper's defaults apply and there is no learned scorer. Weights are
read from safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stts_cli.errors import InputError
from stts_cli.families.weights import is_own_file, read_names, read_tensors
from stts_cli.pruning import TokenScorer, scorer_from_state_dict
from stts_cli.settings import BIAS_RESCALES, SCORERS, Pruning

SETTINGS_FILE = "stts.json"
FORMAT = 2  # 1: the learned scorer read [current, previous] instead of [previous, current]; else the same


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prune_layer": (_is_count, "a whole number, at least 0"),
    "keep_ratio": (_is_share, "greater than 0 and at most 1"),
    "bias_rescale": (lambda value: value in BIAS_RESCALES, "row, frame or off"),
    "bias_floor": (_is_share, "greater than 0 and at most 1"),
    "prune_from_frame": (_is_count, "a whole number, at least 0"),
    "refill_lone_frames": (lambda value: isinstance(value, bool), "true or false"),
    "scorer": (lambda value: isinstance(value, str) and value in SCORERS, "one of " + ", ".join(SCORERS)),
}


def read_settings(path: Path | None) -> tuple[Pruning, dict[str, Any]]:
    """Read a checkpoint's `stts.json`.

    Args:
        path: the file, or None where there is none.

    Returns:
        (settings, the whole document; empty where there is no file).

    Raises:
        InputError: not a JSON object, of another format, or a setting out of range.
    """
    if path is None:
        return Pruning(), {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}) -> write the checkpoint again") from error
    if not isinstance(document, dict) or document.get("format") not in (1, FORMAT):
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise InputError(
            f"{path} has format {found!r} -> this version reads formats 1 and {FORMAT} -> update stts or the file"
        )
    settings = {key: value for key, value in document.items() if key in ALLOWED}
    for key, value in settings.items():
        fits, allowed = ALLOWED[key]
        if not fits(value):
            raise InputError(f"{path}: {key} {value!r}; must be {allowed}.")
    return Pruning(**settings), document


def load_scorer(
    document: dict[str, Any], find_file: Callable[[str], Path | None], sizes: dict[str, int]
) -> TokenScorer | None:
    """Load the learned scorer that a checkpoint carries.

    Args:
        document: the checkpoint's `stts.json`.
        find_file: name of a file of the checkpoint -> where it is, or None.
        sizes: arguments of `TokenScorer`.

    Returns:
        The scorer in float32, one of format 1 put into today's order; None where the checkpoint has none.

    Raises:
        InputError: the file is missing, is no safetensors file, or does not fit the model.
    """
    name = document.get("scorer_file")
    if document.get("scorer") != "learned" or name is None:
        return None
    if not is_own_file(name):
        raise InputError(
            f"{SETTINGS_FILE}: scorer_file {name!r}; must be a .safetensors file of the checkpoint's own folder."
        )
    path = find_file(name)
    if path is None:
        raise InputError(f"the checkpoint's scorer file '{name}' is missing -> restore it")
    weights = read_tensors(dict.fromkeys(read_names(path), path))
    if is_in_old_order(document) and (first := "mlp.fc1.weight") in weights:
        weights[first] = torch.cat(weights[first].chunk(2, dim=1)[::-1], 1)
    return build_scorer(weights, sizes, str(path))


def build_scorer(weights: Mapping[str, Tensor], sizes: Mapping[str, int], where: str) -> TokenScorer:
    """Build a scorer from stored weights, as `pruning.scorer_from_state_dict` does.

    Args:
        weights: its tensors.
        sizes: arguments of `TokenScorer`.
        where: what to call their place in the complaint.

    Raises:
        InputError: they are not those of a scorer for this model.
    """
    try:
        return scorer_from_state_dict(weights, sizes)
    except ValueError as error:
        detail = str(error) if len(str(error)) <= 500 else f"{str(error)[:500]}..."
        raise InputError(f"{where}: the scorer does not fit the model: {detail}.") from error


def is_in_old_order(document: dict[str, Any]) -> bool:
    """Return whether a checkpoint's learned scorer was written for [current, previous]."""
    return document.get("format") == 1 and document.get("scorer") == "learned"
