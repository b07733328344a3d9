"""What figures were measured on: device, threads, versions, and whether the machine had other work to do."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from stts_cli.versions import installed


def machine(device: str, dtype: str) -> dict[str, Any]:
    """Describe what the figures were measured on: device and its name, threads, dtype and versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= installed("transformers", "flash-attn")
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "dtype": dtype,
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def busy(device: str) -> list[str]:
    """Return a note on other work on the machine, which makes times worthless; only a CPU is looked at."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return []
    cores = os.cpu_count() or 1
    if device != "cpu" or load < 0.5 * cores:
        return []
    return [f"the machine is busy (load {load:.1f} on {cores} cores): times will be too long and uneven"]
