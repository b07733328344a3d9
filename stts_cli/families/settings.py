"""How a checkpoint was trained to be pruned: `stts.json` and the scorer's weights beside the model's own files.

A checkpoint without `stts.json` is a stock one: the paper's defaults apply and there is no learned scorer. Weights are
read from safetensors only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stts_cli.errors import InputError
from stts_cli.pruning import TokenScorer, scorer_from_state_dict
from stts_cli.settings import SCORERS, Pruning, what_is_allowed

SETTINGS_FILE = "stts.json"
FORMAT = 2  # 1: the learned scorer read [current, previous] instead of [previous, current]; else the same
_FIELDS = {field.name for field in dataclasses.fields(Pruning)} - {"seed"}  # the seed belongs to a run


def read_settings(path: Path | None) -> tuple[Pruning, Mapping[str, Any]]:
    """Read a checkpoint's `stts.json`: the settings and the whole document, which is empty where there is no file.

    Raises:
        InputError: not a JSON object, of another format, or a setting out of range.
    """
    if path is None:
        return Pruning(), {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}). Write the checkpoint again.") from error
    found = document.get("format") if isinstance(document, dict) else type(document).__name__
    if found not in (1, FORMAT):
        raise InputError(f"{path}: format {found!r}; must be 1 or {FORMAT}. Update stts, or write the file again.")
    settings = {key: value for key, value in document.items() if key in _FIELDS}
    for key, value in settings.items():
        allowed = what_is_allowed(key, value)
        if key == "scorer" and not allowed and value not in SCORERS:  # a checkpoint names no code to run
            allowed = f"one of {', '.join(SCORERS)}"
        if allowed:
            raise InputError(f"{path}: {key} {value!r}; must be {allowed}.")
    return Pruning(**settings), document


def build_scorer(weights: Mapping[str, Tensor], sizes: Mapping[str, int], where: str) -> TokenScorer:
    """Build a scorer from stored weights; an InputError that names `where` says what does not fit."""
    try:
        return scorer_from_state_dict(weights, sizes)
    except ValueError as error:
        detail = str(error) if len(str(error)) <= 500 else f"{str(error)[:500]}..."
        raise InputError(f"{where}: the scorer does not fit the model: {detail}.") from error


def is_in_old_order(document: Mapping[str, object]) -> bool:
    """Return whether a checkpoint's learned scorer was written for [current, previous]."""
    return document.get("format") == 1 and document.get("scorer") == "learned"


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write one of a checkpoint's JSON files."""
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
