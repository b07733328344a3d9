"""The optimizers that Trainer is given: AdamW, or Muon for hidden matrices, over float32 copies where weights are bf16.

One torch optimizer with a group a part and kind of weight: schedules, clipping and saving are Trainer's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stts_cli.training.model import part_of
from stts_cli.training.settings import FinetuneSettings, adam_betas

_OUTER = ("embed", "lm_head", "positional", "label_", "probe")
Group = dict[str, Any]  # as torch has it: "params", "lr", "weight_decay", "betas", "eps"; ours are "part" and "rule"


class MixedOptimizer(torch.optim.Optimizer):
    """Step every group by its own "rule", "muon" or "adamw", in float32; groups whose "lr" is 0 keep their moments."""

    def __init__(self, groups: list[Group]) -> None:
        super().__init__(groups, {})
        self._masters: list[list[nn.Parameter]] = []
        self._inner: list[torch.optim.Optimizer] = []
        for group in self.param_groups:
            masters = [p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for p in group["params"]]
            self._masters.append(masters)
            own = {"params": masters, "lr": group["lr"], "weight_decay": group["weight_decay"]}
            if group["rule"] == "muon":
                self._inner.append(torch.optim.Muon([own], momentum=0.95))
            else:
                self._inner.append(torch.optim.AdamW([own], betas=group["betas"], eps=group["eps"]))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step on the gradients that are there; there is no closure."""
        assert closure is None
        for group, masters, inner in zip(self.param_groups, self._masters, self._inner, strict=True):
            if group["lr"] == 0:
                continue
            for live, master in zip(group["params"], masters, strict=True):
                if master is not live:
                    master.grad = None if live.grad is None else live.grad.float()
            inner.param_groups[0]["lr"] = group["lr"]
            inner.step()
            for live, master in zip(group["params"], masters, strict=True):
                if master is not live and master.grad is not None:
                    live.copy_(master)
                    master.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on bit for bit."""
        copies = [
            [None if m is live else m.detach() for live, m in zip(group["params"], masters, strict=True)]
            for group, masters in zip(self.param_groups, self._masters, strict=True)
        ]
        return {**super().state_dict(), "masters": copies, "inner": [inner.state_dict() for inner in self._inner]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore moments and float32 copies, and the live weights from these."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for inner, saved in zip(self._inner, state_dict["inner"], strict=True):
            inner.load_state_dict(saved)
        for group, masters, copies in zip(self.param_groups, self._masters, state_dict["masters"], strict=True):
            for live, master, copy in zip(group["params"], masters, copies, strict=True):
                if copy is not None:
                    master.copy_(copy)
                    live.copy_(copy)


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Return whether Muon takes a weight: a matrix that is neither an embedding nor an output head."""
    return parameter.ndim == 2 and min(parameter.shape) > 1 and not any(word in name for word in _OUTER)


def make_groups(
    named: Iterable[tuple[str, nn.Parameter]], settings: FinetuneSettings, part_names: Mapping[str, str]
) -> list[Group]:
    """Sort parameters, named as in `TrainingModel`, by part and kind; frozen ones are left out.

    `part_names` are the family's, see `part_of`. Only matrices that are no embeddings decay.
    """
    kinds: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            kinds.setdefault((part_of(name, part_names), not is_hidden(name, parameter)), []).append(parameter)
    groups = []
    for (part, other), parameters in sorted(kinds.items(), key=lambda item: item[0]):
        # the scorer, small and fragile, and adapters keep AdamW
        mixed = settings.optimizer == "muon" and part not in ("scorer", "lora")
        groups.append(
            {
                "params": parameters,
                "part": part,
                "rule": "muon" if mixed and not other else "adamw",
                "lr": settings.lr_llm * settings.muon_adamw if mixed and other else getattr(settings, f"lr_{part}"),
                "weight_decay": 0.0 if other else settings.weight_decay,
                "betas": adam_betas(settings),
                "eps": settings.adam_eps,
            }
        )
    return groups


def make_optimizer(groups: list[Group]) -> torch.optim.Optimizer:
    """Return torch's AdamW where it does alone, which sharding over GPUs can take apart, else `MixedOptimizer`."""
    plain = all(g["rule"] == "adamw" and all(p.dtype == torch.float32 for p in g["params"]) for g in groups)
    return torch.optim.AdamW(groups) if plain else MixedOptimizer(groups)


def rate_factor(step: int, part: str, settings: FinetuneSettings, total: int) -> float:
    """Return the factor of a part's learning rate after `step` of `total` steps, the scorer's warm-up included."""
    alone = settings.scorer_warmup
    if step < alone:
        return min(1.0, (step + 1) / 20) * (1 - step / alone) if part == "scorer" else 0.0
    step, total = step - alone, max(1, total - alone)
    rise = min(1.0, (step + 1) / max(1, settings.warmup))
    if settings.schedule == "wsd":
        return rise * min(1.0, max(0.02, (total - step) / (settings.cooldown * total)))
    floor, done = settings.lr_floor, step / total
    if settings.schedule == "cosine-after-warmup":
        done = max(0, step + 1 - settings.warmup) / max(1, total - settings.warmup)
    return rise * (floor + (1 - floor) / 2 * (1 + math.cos(math.pi * min(1.0, done))))
