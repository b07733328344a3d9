"""Muon for hidden matrices, AdamW for the rest, float32 master weights behind a bfloat16 model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MasterOptimizer:
    """Train a bfloat16 module through float32 copies of its weights.

    Args:
        named: (name, parameter) of everything to train.
        muon_lr: learning rate of Muon, for 2-D weights that `is_hidden` accepts.
        adam_lr: learning rate of AdamW, for the rest.
        muon_scale: factor on Muon's rate by the first matching name prefix.
        adam_scale: the same for AdamW's.
        weight_decay: of Muon's weights.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        muon_lr: float,
        adam_lr: float,
        muon_scale: dict[str, float] | None = None,
        adam_scale: dict[str, float] | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        self.live: list[nn.Parameter] = []
        self.masters: list[nn.Parameter] = []
        muon: dict[float, list[nn.Parameter]] = {}
        adam: dict[float, list[nn.Parameter]] = {}
        for name, parameter in named:
            master = nn.Parameter(parameter.detach().float().clone())
            self.live.append(parameter)
            self.masters.append(master)
            groups, scales = (muon, muon_scale) if is_hidden(name, parameter) else (adam, adam_scale)
            scale = next((s for prefix, s in (scales or {}).items() if name.startswith(prefix)), 1.0)
            groups.setdefault(scale, []).append(master)
        self.optimizers: list[torch.optim.Optimizer] = []
        if muon:
            by_rate = [{"params": p, "lr": muon_lr * s} for s, p in muon.items()]
            self.optimizers.append(torch.optim.Muon(by_rate, lr=muon_lr, momentum=0.95, weight_decay=weight_decay))
        if adam:
            by_rate = [{"params": p, "lr": adam_lr * s} for s, p in adam.items()]
            self.optimizers.append(torch.optim.AdamW(by_rate, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0))

    def step(self, lr_factor: float, clip: float = 1.0) -> float:
        """Take one step with every rate times `lr_factor`; return the gradient's norm before clipping."""
        for live, master in zip(self.live, self.masters, strict=True):
            master.grad = torch.zeros_like(master) if live.grad is None else live.grad.float()
        norm = nn.utils.clip_grad_norm_(self.masters, clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("base_lr", group["lr"])
                group["lr"] = group["base_lr"] * lr_factor
            optimizer.step()
        with torch.no_grad():
            for live, master in zip(self.live, self.masters, strict=True):
                live.copy_(master)
                live.grad = None
        return float(norm)

    def gradients(self) -> Tensor:
        """Return all live gradients as one flat float32 vector (for averaging over processes)."""
        return torch.cat(
            [(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1).float() for p in self.live]
        )

    def set_gradients(self, flat: Tensor) -> None:
        """Write back what `gradients` returned."""
        at = 0
        for p in self.live:
            p.grad = flat[at : at + p.numel()].view_as(p).to(p.dtype)
            at += p.numel()

    def reload(self) -> None:
        """Take over what something else did to the live weights."""
        with torch.no_grad():
            for live, master in zip(self.live, self.masters, strict=True):
                master.copy_(live)

    def state_dict(self) -> dict:
        """Return what `load_state_dict` needs to go on bit for bit."""
        return {"masters": [m.detach() for m in self.masters], "optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state: dict) -> None:
        """Restore masters, live weights and optimizer moments."""
        with torch.no_grad():
            for live, master, saved in zip(self.live, self.masters, state["masters"], strict=True):
                master.copy_(saved)
                live.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Return whether Muon takes a weight: a matrix that is neither an embedding nor an output head."""
    outer = ("embed", "lm_head", "positional", "patch_embedding", "label_", "scorer", "probe")
    return parameter.ndim == 2 and min(parameter.shape) > 1 and not any(word in name for word in outer)
