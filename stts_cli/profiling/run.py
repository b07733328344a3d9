"""`stts profile`, measured: check, plan, measure memory, load, take turns, write the document."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

from stts_cli import __version__
from stts_cli.config.architectures import Architecture, unknown
from stts_cli.cost import estimate, savings
from stts_cli.engine.device import resolve_device
from stts_cli.errors import EnvironmentFailure, InputError, install_hint, is_out_of_memory
from stts_cli.media.resize import DECODER, NOTE
from stts_cli.profiling.figures import break_even, point
from stts_cli.profiling.machine import busy, machine
from stts_cli.profiling.memory import check_memory, peaks_of_processes
from stts_cli.profiling.passes import DENSE, NEW_TOKENS, Arm, Job, Progress, build, read_frames, take_turns
from stts_cli.profiling.training_steps import runner
from stts_cli.pruning.attention import choose_kernel
from stts_cli.settings import KERNELS

ON_CPU = (
    "resident memory of a process of its own for each arm, which gives back what it frees, above the loaded model and "
    "the decoded frames"
)
ON_GPU = "the CUDA allocator's peak, above the loaded model"
IN_TRAINING = ", its optimizer's moments among it; gradients and activations"


def profile(
    *,
    architecture: Architecture,
    model: str | None,
    video_path: str,
    restamp: bool,
    resize: str = "model",
    frames: Sequence[int],
    keep_ratios: Sequence[float] = (),
    scorer: str = "auto",
    prune_layer: int | None = None,
    repeats: int = 5,
    device: str = "auto",
    dtype: str = "auto",
    kernel: str = "auto",
    memory: bool = True,
    train: bool = False,
    progress: Progress = lambda stage: None,
) -> dict[str, Any]:
    """Measure every frame count and keep ratio, dense and pruned in turns.

    Args:
        architecture: the sizes.
        model: a checkpoint folder or a hub id, or None for random weights.
        video_path: where frames are taken from; repeated where it holds too few.
        restamp: give the frames times half a second apart instead of their own.
        resize: who resizes frames, one of `resize.RESIZES`.
        frames: frame counts.
        keep_ratios: fractions of windows kept; empty for the architecture's own.
        scorer: "auto", or one of `settings.SCORERS`.
        prune_layer: 0-based ViT block after which windows are scored; None for the architecture's own.
        repeats: timed passes of each arm, >= 1.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32", "bfloat16" or "float16".
        kernel: attention of the packed blocks, one of `settings.KERNELS`.
        memory: measure peak memory too; on a CPU that takes one more pass of each arm.
        train: measure training steps, everything trained, instead of answers; "auto" dtype is then bfloat16 autocast on
            a GPU.
        progress: called with the name of each stage as it starts.

    Returns:
        The document: "mode" is "measured"; "points" hold tokens, FLOPs, "seconds" and "peak_bytes", dense and pruned;
        "not_measured" says of each frame count that memory did not suffice for, once others were measured.

    Raises:
        InputError: a setting that cannot be honoured.
        EnvironmentFailure: the device, a kernel's package or the memory is not there.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats} -> at least 1 -> raise it")
    device = resolve_device(device)
    on_gpu = device.startswith("cuda")
    dtype = ("bfloat16" if on_gpu else "float32") if dtype == "auto" else dtype
    if train and dtype == "float16":
        raise InputError("dtype is 'float16' -> float32, or bfloat16 under autocast -> training knows no other")
    _check_kernel(kernel, device, dtype, train)
    scorer, notes = estimate.resolve_scorer(architecture, scorer, keep_ratios)
    layer = architecture.prune_layer if prune_layer is None else prune_layer
    plans = estimate.plan(
        architecture,
        frames=frames,
        keep_ratios=keep_ratios or [architecture.keep_ratio],
        scorer=scorer,
        prune_layer=layer,
        dtype=dtype,
        on_gpu=on_gpu,
        train=train,
    )
    plans = list({(plan.num_frames, plan.keep_ratio): plan for plan in plans}.values())  # scorer none has one ratio
    check_memory(plans, device)
    notes += [*estimate.clamp_notes(architecture, plans), *busy(device)]
    notes += [NOTE] if resize == DECODER else []
    job = Job(architecture, model, video_path, restamp, layer, device, dtype, kernel, train, resize)
    peaks = peaks_of_processes(job, plans, notes, progress) if memory and not on_gpu else {}
    progress("loading the model")
    family = build(job)
    run = runner(family, job)
    points: list[dict[str, Any]] = []
    clips, not_measured = [], []
    for num_frames in dict.fromkeys(plan.num_frames for plan in plans):
        here = [plan for plan in plans if plan.num_frames == num_frames]
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
        for plan, pruned in zip(here, passes[1:], strict=True):
            held = [peaks.get((num_frames, arm)) for arm in (DENSE, Arm(plan.keep_ratio, plan.scorer))]
            row = point(family.shape(), plan, passes[0], pruned, prune_layer=layer, held=held, train=train)
            points.append({**row, "read_s": about["seconds"]})
    return {
        "stts": __version__,
        "command": "profile",
        "mode": "measured",
        "model": estimate.describe(
            architecture, random_weights=model is None, is_demonstration=family.is_demonstration
        ),
        "machine": machine(device, dtype),
        "settings": {
            "prune_layer": layer,
            "kernel": kernel,
            "repeats": repeats,
            "warm_up": 1,
            "resize": resize,
            "train": train,
            "new_tokens": 0 if train else NEW_TOKENS,
            "question": estimate.QUESTION,
            "answer": estimate.ANSWER if train else None,
            "memory": _memory(on_gpu, train) if memory else None,
        },
        "clips": clips,
        "notes": notes,
        "convention": savings.TRAINING_CONVENTION if train else savings.CONVENTION,
        "points": points,
        "not_measured": not_measured,
        "break_even": break_even(points),
    }


def architecture_of(model: str) -> Architecture:
    """Read a checkpoint's sizes, without its weights.

    Args:
        model: a checkpoint folder or a hub id.

    Returns:
        The architecture.

    Raises:
        InputError: no such folder, or not a Molmo2.
        EnvironmentFailure: the hub cannot be reached and the config is not in the cache.
    """
    from stts_cli.families.random_molmo2 import read_architecture

    return read_architecture(model)


def _memory(on_gpu: bool, train: bool) -> str:
    return (ON_GPU if on_gpu else ON_CPU) + (IN_TRAINING if train else "")


def _check_kernel(kernel: str, device: str, dtype: str, needs_grad: bool) -> None:
    if kernel not in KERNELS:
        raise InputError(f"kernel {unknown(kernel, list(KERNELS))}")
    if kernel == "flash_attn" and importlib.util.find_spec("flash_attn") is None:
        raise EnvironmentFailure(f"kernel flash_attn: flash-attn is not installed -> {install_hint('flash')}")
    try:
        choose_kernel(kernel, torch.device(device), getattr(torch, dtype), needs_grad)
    except ValueError as error:
        raise InputError(str(error)) from error
