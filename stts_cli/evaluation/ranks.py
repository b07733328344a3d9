"""Several processes on one evaluation, as torchrun and accelerate launch start them: which one is this, wait, collect.

Of N processes each takes every Nth video, answers and keeps its own, and the first one sums up. With one process
nothing here does anything. accelerate's PartialState is no replacement: unless it is made with `cpu=True`, which then
holds for every later training in the process, it takes each process of mpirun, and on a CPU of torchrun, for the only
one; and its NCCL group refuses two processes on one GPU.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
# torchrun's names (accelerate launch uses them on GPUs) before those of mpirun (accelerate launch uses it on CPUs)
RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK")


class Ranks:
    """The processes of this run, as `environment` names them; None for this process's own."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment

        def read(names: Sequence[str], default: int) -> int:
            return next((int(environment[name]) for name in names if name in environment), default)

        self.rank, self.size = read(RANK, 0), read(SIZE, 1)
        self.local_rank = read(LOCAL_RANK, self.rank)
        if self.size > 1:
            # its functions' defaults take hold of a group made before its import, which then outlives its end below
            import torch.distributed.nn.functional  # noqa: F401
            from torch import distributed

            if not distributed.is_initialized():
                # a process may be done long before the slowest one
                distributed.init_process_group("gloo", rank=self.rank, world_size=self.size, timeout=timedelta(days=7))
                # gloo's threads, left to the interpreter's end, now and then abort the process
                atexit.register(distributed.destroy_process_group)

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this process's share of a list that all processes hold in the same order."""
        return list(items[self.rank :: self.size])

    def device(self, device: str) -> str:
        """Return this process's own GPU where several processes would share "auto" or "cuda"."""
        if self.size > 1 and device in ("auto", "cuda"):
            import torch

            if torch.cuda.is_available():
                return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return device

    def wait(self) -> None:
        """Wait until every process is here."""
        self.collect(None)

    def collect(self, value: T) -> list[T]:
        """Return every process's value, which must be picklable, to every process."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[T] = [value] * self.size
        distributed.all_gather_object(values, value)
        return values
