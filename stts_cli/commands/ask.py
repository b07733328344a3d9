"""The `ask` command: parse, call `engine.ask`, report. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated

import typer


def ask(
    video: Annotated[str, typer.Argument(help="A video file.", show_default=False)],
    question: Annotated[list[str], typer.Argument(help="One or more questions.", show_default=False)],
    preset: Annotated[
        str | None,
        typer.Option(help="A preset's name or YAML file; else $STTS_PRESET, else the config file, else nano."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A checkpoint folder or a Hugging Face hub id, e.g. allenai/Molmo2-4B.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(help="Multiple choice, the likeliest answers: --options A B C, behind the questions."),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="The most frames to look at.")] = None,
    max_fps: Annotated[float | None, typer.Option(help="The most frames a second to look at.")] = None,
    resize: Annotated[
        str, typer.Option(help="Who resizes frames: model, as its processor does, or decoder, fast and different.")
    ] = "model",
    keep_ratio: Annotated[
        float | None, typer.Option(help="Fraction of visual tokens kept, 0 to 1; 1 is dense. (1 - the prune ratio.)")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Who decides what stays: auto, learned, temporal, reference, random, tome, none.")
    ] = None,
    prune_layer: Annotated[int | None, typer.Option(help="Score after this ViT block, counted from 0.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="The most tokens of an answer.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="More arms on the same video, several times or with commas, as in eval: dense (the default), 0.3, "
            "random@0.3, dense@22f, a preset or a checkpoint. NAME=ARM names one."
        ),
    ] = None,
    save_kept: Annotated[
        str | None, typer.Option(help="Draw the frames with what was dropped darkened into this PNG file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answers only.")] = False,
) -> None:
    """Answer questions about a video, and show what pruning saved."""
    from stts_cli.config.arms import parse_arms
    from stts_cli.config.presets import choose_preset
    from stts_cli.media.resize import check_resize
    from stts_cli.media.video import probe
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
