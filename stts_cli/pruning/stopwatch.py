"""Time by stage, read once a device has finished, so that no stage pays for another."""

from __future__ import annotations

import time

import torch


def clock(device: torch.device | str) -> float:
    """Return the time in seconds once the device has finished what was asked of it."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


class Stopwatch:
    """Add up time by stage, from the moment it is made.

    Args:
        device: where the stages run.
        stages: their names, at 0 seconds so far.

    Attributes:
        seconds: by stage.
    """

    def __init__(self, device: torch.device, *stages: str) -> None:
        self.device, self.seconds = device, dict.fromkeys(stages, 0.0)
        self._last = clock(device)

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        past, self._last = self._last, clock(self.device)
        self.seconds[stage] += self._last - past
