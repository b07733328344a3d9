"""How weights that the paper's authors released were trained to be pruned, from their training code's own settings.

Molmo2's training code writes `prune_at` (the layer), `topk` (the share that is *dropped*), `prune_method`,
`prune_from_frame` and `rescale_bias_min` among a vision encoder's settings; a converted folder may carry them at any
depth of its config.json, or a config.yaml beside it. The mapping that holds `prune_at` is the one that counts: the
preprocessor repeats `topk`. Source: arXiv 2603.18004 and its reference code; no released file could be read where this
was written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stts_cli.errors import InputError
from stts_cli.settings import Pruning

PAPER = Pruning(scorer="learned", refill_lone_frames=True)
FRAME_TOKENS = "use_frame_special_tokens"
_LAYER = "prune_at"
_METHODS = {"scorer": "learned", "random": "random", "heuristic": "reference", "easy": "temporal"}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# their key -> (our field, what is allowed, whether a value is, their value -> ours)
_Rule = tuple[str, str, Callable[[Any], bool], Callable[[Any], Any]]
_RULES: dict[str, _Rule] = {
    _LAYER: ("prune_layer", "a whole number, at least 0", _is_count, int),
    "topk": (
        "keep_ratio",
        "the share that is dropped, at least 0 and less than 1",
        lambda value: _is_number(value) and 0 <= value < 1,
        lambda value: round(1 - value, 9),
    ),
    "prune_method": (
        "scorer",
        f"one of {', '.join(_METHODS)}",
        lambda value: isinstance(value, str) and value in _METHODS,
        lambda value: _METHODS[value],
    ),
    "prune_from_frame": ("prune_from_frame", "a whole number, at least 0", _is_count, int),
    "rescale_bias_min": (
        "bias_floor",
        "greater than 0 and at most 1",
        lambda value: _is_number(value) and 0 < value <= 1,
        float,
    ),
}


def find_values(configs: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Find a key at any depth.

    Args:
        configs: file name -> its parsed content.
        key: what to look for.

    Returns:
        Where it stands, such as "config.yaml: model.vision_backbone.vit.topk", -> its value, in the order of the files.
    """
    return {
        _place(name, [*path, key]): mapping[key]
        for name, config in configs.items()
        for path, mapping in _mappings(config)
        if key in mapping
    }


def is_pruned_config(configs: Mapping[str, Any]) -> bool:
    """Return whether a config says that its weights were trained with a learned scorer."""
    settings = list(_pruned_mappings(configs))
    return any(mapping.get("prune", True) and mapping.get("prune_method") == "scorer" for _, mapping in settings)


def released_settings(configs: Mapping[str, Any]) -> tuple[Pruning, list[str]]:
    """Read how weights of the training code were trained to be pruned.

    Args:
        configs: file name -> its parsed content, the one to believe first.

    Returns:
        The settings, and notes for the user: where each comes from, and what was passed over.

    Raises:
        InputError: a value out of range.
    """
    pruned = next(_pruned_mappings(configs), None)
    values: dict[str, Any] = {}
    said: list[str] = []
    missing: list[str] = []
    notes: list[str] = []
    for key, (field, allowed, fits, convert) in _RULES.items():
        places = find_values(configs, key)
        if pruned is not None and key in pruned[1]:
            where = _place(pruned[0][0], [*pruned[0][1:], key])
        elif places:
            where = next(iter(places))
        else:
            missing.append(f"{field} {getattr(PAPER, field):.4g}" if field != "scorer" else "scorer learned")
            continue
        value = places[where]
        if not fits(value):
            raise InputError(f"{where}: {value!r}; must be {allowed}.")
        values[field] = convert(value)
        said.append(f"{field} {values[field]:.4g}" if field != "scorer" else f"scorer {values[field]}")
        notes += [
            f"{other} is {there!r} where {where} is {value!r}: the second is used"
            for other, there in places.items()
            if there != value
        ]
    if pruned is not None and not pruned[1].get("prune", True):
        values["keep_ratio"] = 1.0
        notes.append(f"{_place(pruned[0][0], pruned[0][1:])}: prune is false, so everything is kept")
    if pruned is not None and not pruned[1].get("pruning_in_scorer", True):
        notes.append(f"{_place(pruned[0][0], pruned[0][1:])}: trained without dropping (pruning_in_scorer is false)")
    settings = Pruning(**{**vars(PAPER), **values})
    told = [f"from {', '.join(configs)}: {', '.join(said)}"] if said else []
    told += [f"the paper's values, which it does not carry: {', '.join(missing)}"] if missing else []
    return settings, [f"weights of the training code; {'; '.join([*told, 'lone frames refilled'])}", *notes]


def frame_tokens(processor: Mapping[str, Any], configs: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Decide whether frames are marked by tokens of their own in the prompt.

    Args:
        processor: the checkpoint's processor_config.json, empty where it has none.
        configs: as for `released_settings`.

    Returns:
        Whether they are (the processor's word first, then the config's, else yes as in the paper), and notes.
    """
    if FRAME_TOKENS in processor:
        chosen = bool(processor[FRAME_TOKENS])
        return chosen, [
            f"{where} is {value!r} where processor_config.json says {chosen}: the second is used"
            for where, value in find_values(configs, FRAME_TOKENS).items()
            if bool(value) != chosen
        ]
    for where, value in find_values(configs, FRAME_TOKENS).items():
        return bool(value), [f"frame tokens: {bool(value)}, from {where}"]
    return True, [f"frame tokens: True, the paper's value; no file carries {FRAME_TOKENS}"]


def _mappings(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(config, Mapping):
        yield path, config
        for key, value in config.items():
            yield from _mappings(value, (*path, str(key)))


def _pruned_mappings(configs: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield (file name and path, mapping) of every mapping with a prune layer."""
    for name, config in configs.items():
        yield from (((name, *path), mapping) for path, mapping in _mappings(config) if _LAYER in mapping)


def _place(name: str, path: list[str] | tuple[str, ...]) -> str:
    return f"{name}: {'.'.join(path)}" if path else name
