"""The command line: parse, call one room, report.

Nothing heavy is imported here, so that `stts --help` is instant: torch and transformers load inside a command.
Answers, tables and JSON go to stdout; everything else goes to stderr. Exit codes: 0 fine, 1 a bug, 2 bad input, 3 the
environment (a missing package, no network, too little memory, a part not built yet), 130 stopped by Ctrl-C. A traceback
is shown only with STTS_DEBUG=1.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from stts_cli import __version__, cli_eval, cli_finetune
from stts_cli.errors import EnvironmentFailure, InputError, SttsError, install_hint, is_out_of_memory

app = typer.Typer(
    name="stts",
    help="Ask questions of videos with fewer tokens: token scoring inside a video VLM (arXiv 2603.18004).",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stts {__version__}")
        raise typer.Exit


@app.callback()
def _stts(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
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
    from stts_cli import report
    from stts_cli.presets import choose_preset
    from stts_cli.resize import check_resize
    from stts_cli.video import probe

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
        from stts_cli import visual

        visual.check_target(save_kept)
    with report.Progress(quiet=quiet) as progress:
        progress("starting")
        from stts_cli import pipeline

        def draw(family: Any, clip: Any, keep_mask: Any) -> None:
            regions = visual.window_regions(family.window_index.cpu().numpy(), family.grid, clip.frames.shape[1:3])
            share = f"{family.model_name}: {keep_mask.float().mean():.0%} of the windows kept"
            visual.save_kept(save_kept or "", clip.frames, clip.timestamps_s, keep_mask.numpy(), regions, share)

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
    report.show(run.to_dict(), mode="json" if json else "quiet" if quiet else "table", notes=not quiet)


app.command()(cli_finetune.finetune)
app.command(name="eval")(cli_eval.evaluate)


@app.command()
def profile(
    frames: Annotated[int | None, typer.Option(help="How many frames; the video is repeated if it has fewer.")] = None,
    video: Annotated[str | None, typer.Option(help="A video file; else the embedded model's demo clip.")] = None,
    resize: Annotated[
        str, typer.Option(help="Who resizes frames: model, as its processor does, or decoder, fast and different.")
    ] = "model",
    shape: Annotated[
        str | None,
        typer.Option(help="An architecture with random weights: mini, nano, molmo2-4b, -8b, -o-7b, or a YAML file."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A checkpoint folder or a Hugging Face hub id.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset's name or YAML file, as for ask.")] = None,
    keep_ratio: Annotated[
        str | None, typer.Option(help="Fractions of visual tokens kept, e.g. 0.5 or 0.7,0.5,0.3.")
    ] = None,
    sweep_frames: Annotated[
        str | None, typer.Option(help="Several frame counts, e.g. 16,32,64: a row each, and the break-even.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Who decides what stays: auto, learned, temporal, reference, random, tome, none.")
    ] = None,
    prune_layer: Annotated[int | None, typer.Option(help="Score after this ViT block, counted from 0.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each arm, after one to warm up.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    kernel: Annotated[
        str, typer.Option(help="Attention of the packed blocks: auto, flash_attn, torch_varlen, sdpa, eager.")
    ] = "auto",
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    train: Annotated[bool, typer.Option("--train", help="A training step, everything trained, not an answer.")] = False,
    analytic: Annotated[bool, typer.Option("--analytic", help="Count tokens, FLOPs and memory; run nothing.")] = False,
    plot: Annotated[str | None, typer.Option(help="Draw the figures into this PNG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")] = False,
) -> None:
    """Measure dense against pruned: tokens, FLOPs, time by stage and memory."""
    from stts_cli import estimate, plots, report, report_profile
    from stts_cli.architectures import load_architecture
    from stts_cli.presets import Preset, choose_preset, demo_video
    from stts_cli.resize import check_resize
    from stts_cli.video import probe

    check_resize(resize)
    if shape and (model or preset):
        raise InputError("--shape and a model are given -> one of --shape, --model, --preset -> leave one out")
    if frames is not None and sweep_frames:
        raise InputError("--frames and --sweep-frames are given -> one of them -> leave one out")
    settings = Preset(model=shape) if shape else choose_preset(preset, model=model)
    settings = settings.override(frames=frames, dtype=dtype, prune_layer=prune_layer)
    own_ratios = [] if settings.keep_ratio is None else [settings.keep_ratio]
    if plot:
        plots.check_target(plot)
    probe(video or demo_video())
    with report.Progress() as progress:
        progress("starting")
        if shape:
            architecture = load_architecture(shape)
        else:
            from stts_cli.profiling import architecture_of

            architecture = architecture_of(settings.model)
        chosen: dict[str, Any] = {
            "architecture": architecture,
            "frames": estimate.number_list(sweep_frames, "--sweep-frames", int) if sweep_frames else [settings.frames],
            "keep_ratios": estimate.number_list(keep_ratio, "--keep-ratio", float) if keep_ratio else own_ratios,
            "scorer": settings.scorer if scorer is None else scorer,
            "prune_layer": settings.prune_layer,
            "dtype": settings.dtype,
            "train": train,
        }
        if analytic:
            document = estimate.analytic(**chosen)
        else:
            from stts_cli import profiling

            document = profiling.profile(
                **chosen,
                model=None if shape else settings.model,
                video_path=video or demo_video(),
                restamp=video is None,
                resize=resize,
                repeats=repeats,
                device=device,
                kernel=kernel,
                memory=memory,
                progress=progress,
            )
    if plot:
        plots.plot(document, plot)
    report_profile.show(document, json_only=json)
    if missing := ", ".join(document.get("not_measured", [])):
        raise EnvironmentFailure(f"{missing}: out of memory; the rest was measured -> lower --frames or --keep-ratio")


def spread_options(arguments: Sequence[str]) -> list[str]:
    """Let `--options A B C` mean `--options A --options B --options C`, and `eval --compare` alone `--compare dense`.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The same with "--options" before each of the words that follow it, up to the next flag.
    """
    spread: list[str] = []
    inside = False
    for word, following in zip(arguments, [*arguments, "--"][1:], strict=True):
        if word == "--options" and not following.startswith("-"):
            inside = True
            continue
        inside = inside and not word.startswith("-")
        spread += ["--options", word] if inside else [word]
        if word == "--compare" and following.startswith("-") and arguments[0] == "eval":
            spread.append("dense")
    return spread


def describe_failure(error: BaseException) -> tuple[str, int]:
    """Turn any exception into one line and an exit code.

    Args:
        error: what escaped from a command.

    Returns:
        The sentence, and 1, 2 or 3.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SttsError):
        return text, error.exit_code
    if is_out_of_memory(error):
        return f"out of memory ({text[:120]}) -> lower --frames or --keep-ratio, or use --dtype bfloat16", 3
    if isinstance(error, ModuleNotFoundError):
        return f"the package '{error.name}' is missing -> {install_hint()}", 3
    if isinstance(error, OSError):  # the disk or the network; what a user named is read with a better message
        return (f"{error.filename}: {error.strerror}." if error.filename and error.strerror else text), 3
    return f"a bug in stts: {type(error).__name__}: {text[:300]} -> run again with STTS_DEBUG=1 and report it", 1


def _hide_deprecations() -> None:
    """Hide what dependencies announce to programmers, in child processes too, unless `python -W` decides it."""
    if sys.warnoptions or os.environ.get("STTS_DEBUG") == "1":
        return
    for category in (DeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    os.environ["PYTHONWARNINGS"] = "ignore::DeprecationWarning,ignore::FutureWarning"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; without any argument, show the help.

    Args:
        arguments: without the program's name; None for the process's own, which is then this command's alone.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        _hide_deprecations()
    try:
        app(args=spread_options(arguments or ["--help"]), prog_name="stts")
    except Exception as error:
        if os.environ.get("STTS_DEBUG") == "1":
            raise
        from stts_cli.terminal import print_note

        sentence, code = describe_failure(error)
        print_note(sentence)
        sys.exit(code)


if __name__ == "__main__":
    main()
