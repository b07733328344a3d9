"""Peak memory on a CPU: a process of its own for each arm, and a check that a run will fit at all.

A process that has run one arm holds on to memory that the next would seem to need, so each arm is measured in a fresh
one; and it gives back at once what it frees, because what a C library keeps for later is no need of the arm
either. On a GPU the allocator tells the peak of each pass and nothing here is needed but the check.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from stts_cli.cost.estimate import Plan
from stts_cli.engine.device import PeakMemory, free_bytes, resident_bytes
from stts_cli.errors import EnvironmentFailure
from stts_cli.profiling.passes import DENSE, Arm, Job, Progress, build, read_frames
from stts_cli.profiling.training_steps import runner

# glibc keeps freed blocks below a threshold that grows with use; a fixed one makes every freed tensor go back.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def peak_of_process(job: Job, num_frames: int, arm: Arm) -> dict[str, int] | None:
    """Load the model, run one pass, and return the most memory this process held above what was there before.

    In bytes: "baseline" with model (in training, its optimizer's moments too) and frames in memory, and "peak" above
    it; None where the system does not say.
    """
    family = build(job)
    clip, _ = read_frames(job, num_frames, family)
    run = runner(family, job)
    run(clip.first(2), arm)
    gc.collect()
    memory = PeakMemory("cpu")
    baseline = resident_bytes() or memory.peak_bytes()
    run(clip, arm)
    peak = memory.peak_bytes()
    return None if peak is None or baseline is None else {"baseline": baseline, "peak": max(0, peak - baseline)}


def peaks_of_processes(
    job: Job, plans: Sequence[Plan], notes: list[str], progress: Progress
) -> dict[tuple[int, Arm], dict[str, int] | None]:
    """Call `peak_of_process` for every frame count and arm in a process of its own; `notes` gets what failed."""
    arms = [(plan.num_frames, arm) for plan in plans for arm in (DENSE, Arm(plan.keep_ratio, plan.scorer))]
    peaks: dict[tuple[int, Arm], dict[str, int] | None] = {}
    for num_frames, arm in dict.fromkeys(arms):
        progress(f"{num_frames} frames: measuring memory, {arm.name}")
        spawn = multiprocessing.get_context("spawn")
        with _environment(GIVE_BACK), ProcessPoolExecutor(1, mp_context=spawn) as pool:
            try:
                peaks[num_frames, arm] = pool.submit(peak_of_process, job, num_frames, arm).result()
            except BrokenProcessPool:
                peaks[num_frames, arm] = None
                notes.append(
                    f"peak memory of {num_frames} frames, {arm.name}: not known, the process that measured it was "
                    "ended from outside, most likely for want of memory"
                )
    return peaks


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def check_memory(plans: Sequence[Plan], device: str) -> None:
    """Refuse a run whose largest dense arm needs more memory than is free, by the estimate."""
    free = free_bytes(device)
    if free is None:
        return
    largest = max(plans, key=lambda plan: plan.memory["dense"]["total"])
    need = largest.memory["dense"]
    if need["total"] <= free:
        return
    gib = 2**30
    weights = "weights, gradients and moments" if "backward" in largest.savings.flops else "weights"
    raise EnvironmentFailure(
        f"{largest.num_frames} frames need about {need['total'] / gib:.1f} GiB dense ({need['weights'] / gib:.1f} of "
        f"{weights}, {(need['total'] - need['weights']) / gib:.1f} of frames and activations), {free / gib:.1f} GiB "
        f"are free on {device}; try fewer --frames, --dtype bfloat16, or --analytic, which runs nothing."
    )
