"""The settings of a finetuning run: flat, frozen, from a YAML file of presets/training and the command's flags.

Learning rates default to Molmo2's own for video finetuning; the scorer's and adapters', which start anew, are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic.dataclasses import dataclass

from stts_cli.config.files import STRICT
from stts_cli.config.training import Stage, betas, keep_ratios
from stts_cli.errors import InputError

NANO_STAGES = ("language", "vision", "dense", "stts")  # a preset of these makes the embedded model; see `nano`


@dataclass(frozen=True, config=STRICT)
class FinetuneSettings(Stage):
    """One run: a `Stage` whose values go together.

    `files.from_flags` words a value that is wrong by itself; values that exclude each other are an InputError.
    """

    def __post_init__(self) -> None:
        if not self.steps and self.epochs <= 0:
            raise InputError(f"--epochs {self.epochs:g}: must be greater than 0, or --steps at least 1.")
        if self.train == "full" and self.quantize:
            raise InputError(f"--train full: cannot go with --quantize {self.quantize}; choose lora or scorer.")
        if self.train == "scorer" and self.scorer != "learned":
            raise InputError(f"--scorer {self.scorer}: must be learned with --train scorer; use --train full.")
        prunes = min(ratio for ratio, _ in keep_ratios(self.keep_ratio)) < 1
        if self.scorer == "learned" and not prunes:
            raise InputError(f"--keep-ratio {self.keep_ratio}: drops nothing, so no scorer learns. Use --scorer none.")
        if self.scorer_warmup and (self.scorer != "learned" or not self.temporal_weight):
            lacks = f"--scorer {self.scorer}" if self.scorer != "learned" else "--temporal-weight 0"
            raise InputError(f"--scorer-warmup {self.scorer_warmup}: nothing learns in these steps with {lacks}.")
        if self.data == "shapes" and self.eval_data not in (None, "shapes"):
            raise InputError(f"--eval-data {self.eval_data}: must be shapes, or left out, with --data shapes.")

    def override(self, **values: Any) -> FinetuneSettings:
        """Return a copy with the values that are not None put in."""
        return dataclasses.replace(self, **{name: value for name, value in values.items() if value is not None})


def adam_betas(settings: FinetuneSettings) -> tuple[float, float]:
    """Return AdamW's betas: the run's own, else (0.9, 0.95), or (0.9, 0.98) beside Muon."""
    return betas(settings.adam_betas or ("0.9,0.98" if settings.optimizer == "muon" else "0.9,0.95"))


def without_effect(settings: FinetuneSettings) -> list[str]:
    """Name the settings that were changed and change nothing in this run, a line for each reason."""
    s, default = settings, FinetuneSettings()
    full, rates = s.train == "full", ("lr_vit", "lr_connector", "lr_llm")
    files = (s.data, s.eval_data or "shapes")
    reasons: list[tuple[bool, str, tuple[str, ...]]] = [
        (not full, f"--train {s.train}", (*rates, "muon_adamw")),
        (not full and not (s.train == "lora" and s.lora_vit), f"--train {s.train}", ("target_gradient",)),
        (s.train != "lora", f"--train {s.train}", ("lr_lora", "lora_rank", "lora_alpha", "lora_vit")),
        (
            s.scorer != "learned",
            f"--scorer {s.scorer}",
            ("new_scorer", "lr_scorer", "temporal_weight", "bias_rescale", "clamp_scorer_gradient", "target_gradient"),
        ),
        (s.scorer == "none", "--scorer none", ("prune_layer",)),
        (s.scorer == "none" and main_keep_ratio(s.keep_ratio) < 1, "--scorer none", ("keep_ratio",)),
        (not s.temporal_weight, "--temporal-weight 0", ("target_gradient",)),
        (s.optimizer != "muon", f"--optimizer {s.optimizer}", ("muon_adamw",)),
        (s.schedule != "wsd", f"--schedule {s.schedule}", ("cooldown",)),
        (s.schedule == "wsd", "--schedule wsd", ("lr_floor",)),
        (not s.clip, "--clip 0", ("clip_by",)),
        (bool(s.steps), f"--steps {s.steps}", ("epochs",)),
        (set(files) == {"shapes"}, "--data shapes", ("video_root", "cache", "max_fps")),
        ("shapes" not in (s.data, s.eval_data), f"--data {s.data}", ("shapes_mix",)),
        (s.eval_data not in (None, "shapes"), f"--eval-data {s.eval_data}", ("eval_videos",)),
        (s.eval_videos == 0 and s.eval_data in (None, "shapes"), "--eval-videos 0", ("eval_every", "eval_data")),
        (bool(s.eval_every) and s.eval_videos != 0, f"--eval-every {s.eval_every}", ("save_every",)),
    ]
    lines = []
    for holds, reason, names in reasons:
        changed = [name for name in names if getattr(s, name) != getattr(default, name)]
        if holds and changed:
            lines.append(f"{', '.join(map(_flag, changed))}: no effect on this run with {reason}.")
    return lines


def main_keep_ratio(text: str) -> float:
    """Return the keep ratio that most steps are trained at, the lowest of several: what the result is used at."""
    ratios = keep_ratios(text)
    most = max(share for _, share in ratios)
    return min(ratio for ratio, share in ratios if share == most)


def check_flags(flags: Iterable[str], allowed: Sequence[str], what: str) -> None:
    """Refuse flags, names of fields, that are not allowed because a preset of `what` decides them."""
    if wrong := [_flag(name) for name in flags if name not in allowed]:
        raise InputError(
            f"{wrong[0]}: cannot go with a preset of {what}, which each have their own; only "
            f"{', '.join(map(_flag, allowed))} can. Change it in a copy of the preset, and give its path as --preset."
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
