"""Where a run happens: choose the device, measure its memory.

A leaf: torch and the error tree only.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from stts_cli.errors import EnvironmentFailure, InputError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def resolve_device(device: str) -> str:
    """Return the device to use, "auto" decided.

    Args:
        device: "auto" (a CUDA GPU, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    Returns:
        "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        InputError: an unknown name.
        EnvironmentFailure: the device is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
        raise InputError(f"--device {device}: must be auto, cpu, cuda, cuda:N or mps.")
    if kind == "cuda" and not (torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()):
        raise EnvironmentFailure(f"--device {device}: {torch.cuda.device_count()} CUDA devices here; try --device cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise EnvironmentFailure("--device mps: torch finds no Metal device here; try --device cpu.")
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """Return the dtype of the weights, "auto" decided: bfloat16 on a CUDA GPU, float32 elsewhere."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") else "float32"


def resident_bytes() -> int | None:
    """Return the memory this process holds now; None where the system does not say."""
    try:
        return _status_bytes("VmRSS:")
    except (OSError, StopIteration):
        return None


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for what comes next; elsewhere do nothing.

    As it comes, glibc gives every large tensor back to the system and faults its pages in again at the next step: up to
    a fifth of a training step's time on a CPU, measured on the embedded model. The price is memory that stays at its
    peak.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return


def free_bytes(device: torch.device | str) -> int | None:
    """Return the memory that a run can still have.

    Args:
        device: a GPU, whose own memory counts, or the CPU: the machine's, or what is left of a container's limit.

    Returns:
        Bytes, or None where the system does not say.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return free
    return min(free, max(0, limit - used))


class PeakMemory:
    """The most memory held since this object was made: of the GPU if there is one, else of this process."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the process's high-water mark
        except OSError:
            pass

    def peak_bytes(self) -> int | None:
        """Return the peak in bytes; None where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            return _status_bytes("VmHWM:")
        except (OSError, StopIteration):
            pass
        try:
            import resource
        except ImportError:
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def describe_devices() -> list[str]:
    """Return every device that torch sees, with its name and memory."""
    found = [f"cpu, {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, f"torch built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch built without CUDA"]
