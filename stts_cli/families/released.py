"""How weights that the paper's authors released were trained to be pruned, from their training code's own settings.

`topk` there is the share that is *dropped*. The keys may stand at any depth of config.json, or of a config.yaml beside
it; the mapping that holds `prune_at` is the one that counts, since the preprocessor repeats `topk`. Source:
arXiv 2603.18004 and its reference code; not confirmed on a released file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stts_cli.errors import InputError
from stts_cli.settings import Pruning, what_is_allowed

PAPER = Pruning(scorer="learned", refill_lone_frames=True)
FRAME_TOKENS = "use_frame_special_tokens"
_LAYER = "prune_at"
_METHODS = {"scorer": "learned", "random": "random", "heuristic": "reference", "easy": "temporal"}
_ALLOWED = {
    "topk": "the share that is dropped, at least 0 and less than 1",
    "prune_method": f"one of {', '.join(_METHODS)}",
}


# their key: our field, their value as ours
_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    _LAYER: ("prune_layer", lambda value: value + 0),  # a number
    "topk": ("keep_ratio", lambda value: round(1 - value, 9)),
    "prune_method": ("scorer", lambda value: _METHODS[value]),
    "prune_from_frame": ("prune_from_frame", lambda value: value + 0),
    "rescale_bias_min": ("bias_floor", lambda value: 1.0 * value),
}


def find_values(configs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Find a key at any depth: its values by where each stands, such as "config.yaml: model.vit.topk"."""
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

    `configs` are parsed files by name, the one to believe first. The notes say where each setting comes from, and what
    was passed over.

    Raises:
        InputError: a value out of range.
    """
    pruned = next(_pruned_mappings(configs), None)
    values: dict[str, Any] = {}
    said: list[str] = []
    missing: list[str] = []
    notes: list[str] = []
    for key, (field, convert) in _FIELDS.items():
        places = find_values(configs, key)
        if pruned is not None and key in pruned[1]:
            where = _place(pruned[0][0], [*pruned[0][1:], key])
        elif places:
            where = next(iter(places))
        else:
            missing.append(_named(field, getattr(PAPER, field)))
            continue
        value = places[where]
        try:
            values[field] = None if isinstance(value, bool) else convert(value)
        except (TypeError, ValueError, LookupError):
            values[field] = None
        if allowed := what_is_allowed(field, values[field]):
            raise InputError(f"{where}: {value!r}; must be {_ALLOWED.get(key, allowed)}.")
        said.append(_named(field, values[field]))
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
    sources = [f"from {', '.join(configs)}: {', '.join(said)}"] if said else []
    sources += [f"the paper's values, which it does not carry: {', '.join(missing)}"] if missing else []
    return settings, [f"weights of the training code; {'; '.join([*sources, 'lone frames refilled'])}", *notes]


def frame_tokens(processor: Mapping[str, Any], configs: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Decide whether frames are marked by tokens of their own in the prompt, and note why.

    The processor's word counts first (`processor` is its processor_config.json), then the configs', else yes as in the
    paper.
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


def _named(field: str, value: Any) -> str:
    return f"{field} {value}" if field == "scorer" else f"{field} {value:.4g}"


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
