"""`stts profile`, measured: check, plan, measure memory, load, take turns, write the document."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from stts_cli import __version__, settings
from stts_cli.config.shapes import Architecture
from stts_cli.cost import estimate, savings
from stts_cli.engine.device import resolve_device, resolve_dtype
from stts_cli.errors import EnvironmentFailure, InputError, install_hint, is_out_of_memory, suggest
from stts_cli.media.resize import DECODER, NOTE
from stts_cli.profiling.figures import break_even, point
from stts_cli.profiling.machine import busy, machine
from stts_cli.profiling.memory import check_memory, peaks_of_processes
from stts_cli.profiling.passes import DENSE, NEW_TOKENS, Arm, Job, Progress, build, read_frames, take_turns
from stts_cli.profiling.training_steps import runner
from stts_cli.pruning.attention import choose_kernel
from stts_cli.settings import KERNELS

if TYPE_CHECKING:
    from stts_cli.families.base import Family

ON_CPU = (
    "resident memory of a process of its own for each arm, which gives back what it frees, above the loaded model and "
    "the decoded frames"
)
ON_GPU = "the CUDA allocator's peak, above the loaded model"
IN_TRAINING = ", its optimizer's moments among it; gradients and activations"


def profile(
    job: Job,
    frames: Sequence[int],
    keep_ratios: Sequence[float] = (),
    *,
    scorer: str = "auto",
    compare: Sequence[settings.Arm] = (),
    repeats: int = 5,
    memory: bool = True,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure every frame count and keep ratio, dense and pruned in turns.

    Args:
        job: what every pass shares; what it leaves open is decided here. In training "auto" dtype is bfloat16 autocast
            on a GPU.
        frames: frame counts.
        keep_ratios: fractions of windows kept; empty for the architecture's own.
        scorer: "auto", or one of `settings.SCORERS`.
        compare: more arms, of which the scorer and keep ratio count.
        repeats: timed passes of each arm, >= 1.
        memory: measure peak memory too; on a CPU that takes one more pass of each arm.
        progress: called with the name of each stage as it starts.

    Returns:
        The document: "mode" is "measured"; "points" hold tokens, FLOPs, "seconds" and "peak_bytes", dense and pruned;
        "not_measured" says of each frame count that memory did not suffice for, once others were measured.

    Raises:
        InputError: a setting that cannot be honoured.
        EnvironmentFailure: the device, a kernel's package or the memory is not there.
    """
    check_flags(job.device, job.kernel, repeats)
    architecture = job.architecture
    job = _decide(job)
    on_gpu = job.device.startswith("cuda")
    how = {"frames": frames, "prune_layer": job.layer, "dtype": job.dtype, "on_gpu": on_gpu, "train": job.train}
    plans, notes = estimate.plan_arms(architecture, keep_ratios, scorer, compare, **how)
    check_memory(plans, job.device)
    notes += [*estimate.clamp_notes(architecture, plans), *estimate.size_notes(architecture, frames), *busy(job.device)]
    notes += [NOTE] if job.resize == DECODER else []
    peaks = peaks_of_processes(job, plans, notes, progress) if memory and not on_gpu else {}
    progress("loading the model")
    family = build(job)
    measured = _measure(family, job, plans, peaks, repeats, progress)
    return {
        "stts": __version__,
        "command": "profile",
        "mode": "measured",
        "model": estimate.describe(
            architecture, random_weights=job.model is None, is_demonstration=family.is_demonstration
        ),
        "machine": machine(job.device, job.dtype),
        "settings": {
            "prune_layer": job.layer,
            "kernel": job.kernel,
            "repeats": repeats,
            "warm_up": 1,
            "resize": job.resize,
            "train": job.train,
            "new_tokens": 0 if job.train else NEW_TOKENS,
            "question": estimate.QUESTION,
            "answer": estimate.ANSWER if job.train else None,
            "memory": (ON_GPU if on_gpu else ON_CPU) + (IN_TRAINING if job.train else "") if memory else None,
        },
        "notes": notes,
        "convention": savings.TRAINING_CONVENTION if job.train else savings.CONVENTION,
        **measured,
        "break_even": break_even(measured["points"]),
    }


def check_flags(device: str, kernel: str, repeats: int) -> None:
    """Refuse (InputError) an unknown device or kernel, or no repeats.

    A device that is only not there here is no matter yet.
    """
    if repeats < 1:
        raise InputError(f"--repeats {repeats}: must be at least 1.")
    if kernel not in KERNELS:
        raise InputError(f"--kernel {kernel}: is unknown{suggest(kernel, KERNELS)}")
    with contextlib.suppress(EnvironmentFailure):
        resolve_device(device)


def _measure(
    family: Family,
    job: Job,
    plans: Sequence[estimate.Plan],
    peaks: Mapping[tuple[int, Arm], dict[str, int] | None],
    repeats: int,
    progress: Progress,
) -> dict[str, list[Any]]:
    """Run every frame count, and go on with those that fit where memory runs out."""
    run = runner(family, job)
    points: list[dict[str, Any]] = []
    clips, not_measured = [], []
    for num_frames in dict.fromkeys(plan.num_frames for plan in plans):
        here = [plan for plan in plans if plan.num_frames == num_frames]
        shape = job.architecture.at(num_frames).sizes()
        clip, about = read_frames(job, num_frames, family, progress)
        clips.append(about)
        arms = [DENSE] + [Arm(plan.keep_ratio, plan.scorer) for plan in here]
        try:
            passes = take_turns(run, clip, arms, repeats, progress)
        except Exception as error:
            if not points or not is_out_of_memory(error):
                raise
            not_measured.append(f"{num_frames} frames")
            continue
        for plan, arm, pruned in zip(here, arms[1:], passes[1:], strict=True):
            held = [peaks.get((num_frames, each)) for each in (DENSE, arm)]
            row = point(shape, plan, passes[0], pruned, prune_layer=job.layer, held=held, train=job.train)
            points.append({**row, "read_s": about["seconds"]})
    return {"clips": clips, "points": points, "not_measured": not_measured}


def architecture_of(model: str, revision: str | None = None) -> Architecture:
    """Read a checkpoint's sizes, without its weights."""
    from stts_cli.families.random_model import read_architecture

    return read_architecture(model, revision)


def _decide(job: Job) -> Job:
    """Decide what a job leaves open, and refuse what cannot run."""
    device = resolve_device(job.device)
    dtype = resolve_dtype(job.dtype, device)
    if job.train and dtype == "float16":
        raise InputError("--dtype float16: training knows float32, and bfloat16 under autocast.")
    if job.kernel == "flash_attn" and importlib.util.find_spec("flash_attn") is None:
        raise EnvironmentFailure(f"--kernel flash_attn: flash-attn is not installed; {install_hint('flash')}")
    try:
        choose_kernel(job.kernel, torch.device(device), getattr(torch, dtype), job.train)
    except ValueError as error:
        raise InputError(str(error)) from error
    return dataclasses.replace(job, device=device, dtype=dtype)
