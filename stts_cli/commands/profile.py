"""The `profile` command: parse, call `profiling` or `cost.estimate`, report. Nothing heavy is imported at first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from stts_cli.commands import flags
from stts_cli.errors import EnvironmentFailure, InputError

if TYPE_CHECKING:
    from stts_cli.config.presets import Preset
    from stts_cli.config.shapes import Architecture

MEASURING = ("video", "resize", "repeats", "device", "kernel", "memory")  # flags that --analytic does not need
_Number = TypeVar("_Number", int, float)


def profile(
    context: typer.Context,
    frames: Annotated[int | None, typer.Option(help="How many frames; the video is repeated if it has fewer.")] = None,
    video: Annotated[str | None, typer.Option(help="A video file; else the embedded model's demo clip.")] = None,
    resize: flags.Resize = "model",
    shape: Annotated[
        str | None,
        typer.Option(help="An architecture with random weights: a name in presets/shapes, e.g. mini, or a YAML file."),
    ] = None,
    model: flags.Model = None,
    revision: flags.Revision = None,
    preset: flags.Preset = None,
    keep_ratio: Annotated[
        str | None, typer.Option(help="Fractions of visual tokens kept, e.g. 0.5 or 0.7,0.5,0.3.")
    ] = None,
    prune_ratio: Annotated[
        str | None, typer.Option(help="The same as --keep-ratio 1 - this, also several: the paper's own term.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="More arms of the same model, as in eval: a scorer or a keep ratio, 0.3 or random@0.3."),
    ] = None,
    sweep_frames: Annotated[
        str | None, typer.Option(help="Several frame counts, e.g. 16,32,64: a row each, and the break-even.")
    ] = None,
    scorer: flags.Scorer = None,
    prune_layer: flags.PruneLayer = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each arm, after one to warm up.")] = 5,
    device: flags.Device = "auto",
    dtype: flags.Dtype = None,
    kernel: Annotated[
        str, typer.Option(help="Attention of the packed blocks: auto, flash_attn, torch_varlen, sdpa, eager.")
    ] = "auto",
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    train: Annotated[bool, typer.Option("--train", help="A training step, everything trained, not an answer.")] = False,
    analytic: Annotated[bool, typer.Option("--analytic", help="Count tokens, FLOPs and memory; run nothing.")] = False,
    plot: Annotated[str | None, typer.Option(help="Draw the figures into this PNG file.")] = None,
    json: flags.Json = False,
) -> None:
    """Measure dense against pruned: tokens, FLOPs, time by stage and memory."""
    from stts_cli.config.arms import parse_arms
    from stts_cli.config.presets import Preset, choose_preset, demo_video
    from stts_cli.config.shapes import VaryingShape
    from stts_cli.cost import estimate
    from stts_cli.media.container import probe
    from stts_cli.media.resize import check_resize
    from stts_cli.media.video import shown_size
    from stts_cli.report import plots
    from stts_cli.report.profile import show
    from stts_cli.report.progress import Progress

    check_resize(resize)
    if shape and (model or preset or revision):
        raise InputError("--shape: cannot go with --model, --revision or --preset; leave one out.")
    if frames is not None and sweep_frames:
        raise InputError("--sweep-frames: cannot go with --frames; leave one out.")
    settings = Preset(model=shape) if shape else choose_preset(preset, model=model)
    settings = settings.override(revision=revision, frames=frames, dtype=dtype, prune_layer=prune_layer, scorer=scorer)
    if plot:
        plots.check_target(plot, "--plot")
    probe(video or demo_video())  # a bad file is reported at once
    counts = _numbers(sweep_frames, "--sweep-frames", int) if sweep_frames else [settings.frames]
    ratios = _ratios(keep_ratio, prune_ratio, settings.keep_ratio)
    _, *arms = parse_arms(settings.arm("first"), compare)
    if wrong := [arm.name for arm in arms if (arm.model, arm.frames) != (settings.model, settings.frames)]:
        raise InputError(f"--compare {wrong[0]}: profile runs one model at --frames; must be a keep ratio or a scorer.")
    with Progress() as progress:
        progress("starting")
        architecture = _architecture(shape, settings)
        if video and isinstance(architecture.shape, VaryingShape):
            architecture = architecture.at(counts[0], shown_size(video))
        asked: dict[str, Any] = {"frames": counts, "keep_ratios": ratios, "scorer": settings.scorer, "compare": arms}
        if analytic:
            asked |= {"prune_layer": settings.prune_layer, "dtype": settings.dtype, "train": train}
            document = estimate.analytic(architecture=architecture, **asked)
            document["notes"] += _without_effect(context)
        else:
            from stts_cli import profiling

            job = profiling.Job(
                architecture,
                None if shape else settings.model,
                video or demo_video(),
                restamp=video is None,
                revision=settings.revision,
                prune_layer=settings.prune_layer,
                device=device,
                dtype=settings.dtype,
                kernel=kernel,
                train=train,
                resize=resize,
            )
            document = profiling.profile(job, **asked, repeats=repeats, memory=memory, progress=progress)
    if plot:
        plots.plot_profile(document, plot)
    show(document, json_only=json)
    if missing := ", ".join(document.get("not_measured", [])):
        raise EnvironmentFailure(f"{missing}: out of memory; the rest was measured. Lower --frames or --keep-ratio.")


def _architecture(shape: str | None, settings: Preset) -> Architecture:
    """Return the sizes of a shape, or of a preset's checkpoint."""
    from stts_cli.config.architectures import load_architecture

    if shape:
        return load_architecture(shape)
    from stts_cli.profiling import architecture_of

    return architecture_of(settings.model, settings.revision)


def _without_effect(context: typer.Context) -> list[str]:
    """Check the flags given that only measuring reads, and return the note on them; torch loads where one needs it."""
    given = [name for name in MEASURING if (at := context.get_parameter_source(name)) and at.name == "COMMANDLINE"]
    if {"device", "kernel", "repeats"} & set(given):
        from stts_cli.profiling import check_flags

        check_flags(*(context.params[name] for name in ("device", "kernel", "repeats")))
    flags = ", ".join(f"--{name}" for name in given)
    return [f"{flags}: no effect with --analytic, which runs nothing"] if given else []


def _ratios(keep_ratio: str | None, prune_ratio: str | None, own: float | None) -> list[float]:
    """Return the keep ratios that the flags say, else the preset's own."""
    kept = _numbers(keep_ratio, "--keep-ratio", float) if keep_ratio else None
    if prune_ratio:
        return [flags.kept_of(ratio, kept) for ratio in _numbers(prune_ratio, "--prune-ratio", float)]
    return kept or ([] if own is None else [own])


def _numbers(text: str, flag: str, number: Callable[[str], _Number]) -> list[_Number]:
    """Read a flag's list of numbers, each once, in the order given."""
    try:
        return list(dict.fromkeys(number(word) for word in text.split(",")))
    except ValueError:
        kind = "whole numbers" if number is int else "numbers"
        raise InputError(f"{flag} {text}: must be {kind} with commas between them, e.g. 1 or 1,2.") from None
