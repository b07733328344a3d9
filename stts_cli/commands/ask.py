"""The `ask` command: parse, call `engine.pipeline`, report. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated, Any

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
    compare: Annotated[bool, typer.Option("--compare", help="Run dense and pruned side by side.")] = False,
    save_kept: Annotated[
        str | None, typer.Option(help="Draw the frames with what was dropped darkened into this PNG file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answers only.")] = False,
) -> None:
    """Answer questions about a video, and show what pruning saved."""
    from stts_cli.config.presets import choose_preset
    from stts_cli.media.resize import check_resize
    from stts_cli.media.video import probe
    from stts_cli.report.ask import Progress, show

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
    probe(video)  # a bad file is told at once, before torch loads
    if save_kept:
        from stts_cli.report.plots import check_target

        check_target(save_kept, "--save-kept")
    with Progress(quiet=quiet) as progress:
        progress("starting")
        from stts_cli.engine import pipeline

        def draw(family: Any, clip: Any, keep_mask: Any) -> None:
            from stts_cli.report.pictures import kept_picture
            from stts_cli.report.pictures import save_kept as save

            table, mask = family.window_index(family.layout).cpu().numpy(), keep_mask.numpy()
            share = f"{family.model_name}: {mask.mean():.0%} of the windows kept"
            picture = kept_picture(clip.frames, clip.timestamps_s, mask, table, family.layout.grid, share)
            save(save_kept or "", picture, clip.timestamps_s, mask)

        run = pipeline.ask(
            video,
            question,
            model=settings.model,
            frames=settings.frames,
            max_fps=settings.max_fps,
            resize=resize,
            options=options or (),
            keep_ratio=settings.keep_ratio,
            scorer=settings.scorer,
            prune_layer=settings.prune_layer,
            device=device,
            dtype=settings.dtype,
            max_new_tokens=settings.max_new_tokens,
            compare=compare,
            progress=progress,
            **({"on_kept": draw} if save_kept else {}),
        )
    show(run.to_dict(), mode="json" if json else "quiet" if quiet else "table", notes=not quiet)
