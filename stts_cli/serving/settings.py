"""How a server prunes: what `--hf-overrides '{"stts": {...}}'` and a request's own settings say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.errors import InputError, suggest
from stts_cli.families.settings import SETTINGS_FILE, is_in_old_order, read_settings
from stts_cli.settings import LAST, Pruning, check_prune_layer, default_prune_layer, what_is_allowed

KEYS = ("keep_ratio", "scorer", "prune_layer", "seed")
SCORERS = ("temporal", "reference", "random")  # that need no training
FORMAT = 1  # of what an entry of vLLM's caches holds


@dataclass(frozen=True)
class ServingSettings:
    """How every video of a server is pruned, unless a request says otherwise.

    Attributes:
        pruning: who scores, where and how much stays.
        weights: the learned scorer's file, or None.
    """

    pruning: Pruning
    weights: Path | None = None

    @classmethod
    def of(cls, given: Any, num_blocks: int) -> ServingSettings:
        """Read the value of "stts" in vLLM's --hf-overrides, for a vision encoder of so many blocks.

        Raises:
            InputError: a key or a value that means nothing, or a scorer's folder that cannot be used.
        """
        if not isinstance(given, Mapping):
            raise InputError('stts: is missing; give --hf-overrides \'{"stts": {"keep_ratio": 0.5}}\'.')
        for key in given:
            if key not in KEYS:
                raise InputError(f"stts: {key}: is unknown{suggest(key, KEYS)}")
        own = {key: value for key, value in given.items() if key != "scorer"}
        for key, value in own.items():
            if allowed := what_is_allowed(key, value):
                raise InputError(f"stts: {key} {value!r}: must be {allowed}.")
        if own.get("prune_layer") == "last":
            raise InputError(
                'stts: prune_layer "last": spares the language model alone; must be a block of the encoder.'
            )
        scorer = given.get("scorer", "temporal")
        if scorer in SCORERS:
            own.setdefault("prune_layer", default_prune_layer(num_blocks))
            return cls(_checked(Pruning(scorer=scorer).override(**own), num_blocks))
        folder = Path(str(scorer))
        if not folder.is_dir():
            raise InputError(
                f"stts: scorer {scorer}: is no folder; must be {', '.join(SCORERS)} or a trained scorer's."
            )
        pruning, document = read_settings(folder / SETTINGS_FILE if (folder / SETTINGS_FILE).is_file() else None)
        weights = folder / str(document.get("scorer_file", ""))
        if pruning.scorer != "learned" or weights.parent != folder or not weights.is_file():
            raise InputError(
                f"stts: scorer {scorer}: holds no learned scorer; `stts finetune --train scorer` writes one."
            )
        if is_in_old_order(document) or pruning.refill_lone_frames:
            raise InputError(f"stts: scorer {scorer}: is of a kind that is not served; train it with this version.")
        return cls(_checked(pruning.override(**own), num_blocks), weights)

    @property
    def key(self) -> str:
        """What stands for these settings in the keys of vLLM's caches: they change with any of them."""
        digest = hashlib.sha256(f"{FORMAT} {self.pruning!r}".encode())
        if self.weights is not None:
            digest.update(self.weights.read_bytes())
        return digest.hexdigest()[:16]

    def __str__(self) -> str:
        """Say who scores, where, and what stays."""
        p = self.pruning
        return f"{p.scorer} scorer after block {p.prune_layer}, keep ratio {p.keep_ratio:g}"


def _checked(pruning: Pruning, num_blocks: int) -> Pruning:
    if pruning.prune_layer == LAST:
        raise InputError(f"stts: prune_layer {LAST}: spares the language model alone; must be a block of the encoder.")
    try:
        check_prune_layer(pruning.prune_layer, num_blocks)
    except InputError as error:
        raise InputError(str(error).replace("--prune-layer", "stts: prune_layer")) from error
    return pruning


def requested_ratio(given: Mapping[str, Any], settings: ServingSettings) -> float:
    """Return a request's keep ratio: its own, {"stts": {"keep_ratio": 0.3}} in `mm_processor_kwargs`, or the server's.

    Raises:
        ValueError: a ratio that means nothing, or another key; vLLM answers 400.
    """
    own = given.get("stts")
    if own is None:
        return settings.pruning.keep_ratio
    if not isinstance(own, Mapping) or set(own) != {"keep_ratio"}:
        raise ValueError(f"stts: {own!r}: a request may set keep_ratio alone, 1 for every window.")
    if allowed := what_is_allowed("keep_ratio", own["keep_ratio"]):
        raise ValueError(f"stts: keep_ratio {own['keep_ratio']!r}: must be {allowed}.")
    return float(own["keep_ratio"])
