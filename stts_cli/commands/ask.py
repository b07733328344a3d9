"""The `ask` command: parse, call `engine.ask`, report. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from stts_cli.commands import flags


def ask(
    video: Annotated[str, typer.Argument(help="A video file.", show_default=False)],
    question: Annotated[list[str], typer.Argument(help="One or more questions.", show_default=False)],
    preset: flags.Preset = None,
    model: flags.Model = None,
    options: Annotated[
        list[str] | None,
        typer.Option(help="Multiple choice, the likeliest answers: --options A B C, behind the questions."),
    ] = None,
    frames: flags.Frames = None,
    max_fps: flags.MaxFps = None,
    resize: flags.Resize = "model",
    keep_ratio: flags.KeepRatio = None,
    scorer: flags.Scorer = None,
    prune_layer: flags.PruneLayer = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="The most tokens of an answer.")] = None,
    device: flags.Device = "auto",
    dtype: flags.Dtype = None,
    compare: flags.Compare = None,
    save_kept: Annotated[
        str | None, typer.Option(help="Draw the frames with what was dropped darkened into this PNG file.")
    ] = None,
    json: flags.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answers only.")] = False,
) -> None:
    """Answer questions about a video, and show what pruning saved."""
    from stts_cli.config.arms import parse_arms
    from stts_cli.config.presets import choose_preset
    from stts_cli.media.container import probe
    from stts_cli.media.resize import check_resize
    from stts_cli.report.ask import show
    from stts_cli.report.progress import Progress

    check_resize(resize)
    settings = choose_preset(preset, model=model).override(
        frames=frames,
        max_fps=max_fps,
        keep_ratio=keep_ratio,
        scorer=scorer,
        prune_layer=prune_layer,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
    )
    arms = parse_arms(settings.arm("pruned", resize), compare)
    probe(video)  # a bad file is reported at once, before torch loads
    if save_kept:
        from stts_cli.report.plots import check_target

        check_target(save_kept, "--save-kept")
    with Progress(quiet=quiet) as progress:
        progress("starting")
        from stts_cli.engine.ask import ask as run

        done = run(
            arms,
            video,
            question,
            options=options or (),
            device=device,
            max_new_tokens=settings.max_new_tokens,
            progress=progress,
        )
    if save_kept:
        from stts_cli.report.notebook import kept_png
        from stts_cli.report.pictures import save_kept as save

        seen = done.arms[0].video
        save(save_kept, kept_png(seen), seen.timestamps_s, seen.keep_mask.numpy())
    show(done.to_dict(), mode="json" if json else "quiet" if quiet else "table", notes=not quiet)
