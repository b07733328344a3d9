"""The `ask` command: parse, call `engine.ask`, report. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from stts_cli.commands import engine as served
from stts_cli.commands import flags
from stts_cli.errors import InputError
from stts_cli.settings import THINKING_TOKENS


def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO... QUESTION...",
            help="Videos: files, a folder of frames or of videos, pictures, a pattern, an http(s) address or - for a "
            "pipe. What is none of these is a question.",
            show_default=False,
        ),
    ],
    preset: flags.Preset = None,
    model: flags.Model = None,
    revision: flags.Revision = None,
    questions: Annotated[
        str | None, typer.Option(help="More questions: a text file, one a line, or .jsonl with question and options.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(help="Multiple choice, the likeliest answers: --options A B C, behind the questions."),
    ] = None,
    frames: flags.Frames = None,
    max_fps: flags.MaxFps = None,
    start: Annotated[str | None, typer.Option(help="Leave out what comes before: seconds or h:m:s.")] = None,
    end: Annotated[str | None, typer.Option(help="Leave out what comes after: seconds or h:m:s.")] = None,
    at: Annotated[str | None, typer.Option(help="Look at these times alone: --at 1.5,3,0:10.")] = None,
    fps: Annotated[float | None, typer.Option(help="How many pictures of a folder or a list are a second.")] = None,
    subtitles: Annotated[
        str | None,
        typer.Option(help="A .srt or .vtt file, put between the video and the question; auto: those inside the file."),
    ] = None,
    resize: flags.Resize = "model",
    keep_ratio: flags.KeepRatio = None,
    prune_ratio: flags.PruneRatio = None,
    budget: Annotated[
        int | None,
        typer.Option(
            help="Test-time scaling: as many frames as cost, pruned, about what this many cost dense; dense beside it."
        ),
    ] = None,
    budget_by: Annotated[
        str | None, typer.Option(help="What --budget holds equal: tokens, the default, or flops.")
    ] = None,
    budget_pixels: Annotated[
        str | None,
        typer.Option(
            help="What --budget holds of a model whose frames are the smaller the more there are: the pixels of each "
            "frame, the default, or their total."
        ),
    ] = None,
    scorer: flags.Scorer = None,
    prune_layer: flags.PruneLayer = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="The most tokens of an answer.")] = None,
    system: flags.System = None,
    temperature: flags.Temperature = None,
    top_p: flags.TopP = None,
    stop: flags.Stop = None,
    think: flags.Think = False,
    seed: flags.Seed = None,
    batch_size: flags.BatchSize = 1,
    device: flags.Device = "auto",
    dtype: flags.Dtype = None,
    engine: served.Url = None,
    send: served.Send = None,
    answer_timeout: served.Silence = None,
    quantize: flags.Quantize = None,
    device_map: flags.DeviceMap = None,
    compare: flags.Compare = None,
    save_kept: Annotated[
        str | None, typer.Option(help="Draw the frames with what was dropped darkened into this PNG or mp4 file.")
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            help="Write a page for a browser into this HTML file: frames with what was kept, answers, savings."
        ),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Ask about several video files as one clip, one after the other.")
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Go on asking, each question behind what was said; Ctrl-D leaves.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(help="Keep a JSON line a video in this file; the same command goes on with it."),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Keep what the model saw of each video here; asked again, none is read anew."),
    ] = None,
    cache_size: Annotated[
        float | None,
        typer.Option(metavar="GB", help="How large --cache may grow, 10 by default; what was used longest ago goes."),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON document on stdout and nothing else; of several videos, a line each."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answers only.")] = False,
) -> None:
    """Answer questions about videos, and show what pruning saved."""
    from stts_cli.commands import asking, chatting
    from stts_cli.commands.drawing import Drawing
    from stts_cli.config.presets import choose_preset

    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: must be at least 1.")
    if chat and batch_size > 1:
        raise InputError(
            f"--batch-size {batch_size}: a conversation has one answer at a time; leave it out with --chat."
        )
    if budget is not None and frames is not None:
        raise InputError(f"--budget {budget}: says how many frames; it cannot stand with --frames {frames}.")
    if budget is not None and budget < 1:
        raise InputError(f"--budget {budget}: must be at least 1.")
    at_s = flags.parse_times("--at", at)
    if at_s and not (budget is None and frames is None and max_fps is None):
        raise InputError("--at: says which frames; it cannot stand with --frames, --max-fps or --budget.")
    settings = choose_preset(preset, model=model).override(
        revision=revision,
        frames=budget or frames,
        max_fps=max_fps,
        keep_ratio=flags.kept(keep_ratio, prune_ratio),
        scorer=scorer,
        prune_layer=prune_layer,
        dtype=dtype,
        quantize=quantize,
        device_map=device_map,
        max_new_tokens=THINKING_TOKENS if think and max_new_tokens is None else max_new_tokens,
    )
    wanted = asking.Wanted(
        words,
        questions,
        tuple(options or ()),
        flags.parse_time("--start", start),
        flags.parse_time("--end", end),
        at_s,
        fps,
        subtitles,
        chat,
        together,
    )
    arm = settings.arm("pruned", resize).override(seed=seed)
    arms = asking.plan_arms(arm, compare, asking.Budget(budget, budget_by, budget_pixels), at_s)
    server = served.read_engine(
        engine,
        {"send": send, "silence_s": answer_timeout},
        {
            **served.of_the_server(scorer, prune_layer, dtype, revision, device, quantize),
            "--device-map": device_map,
            "--think": think,
            "--budget": budget,
            "--save-kept": save_kept,
            "--report": report,
            "--chat": chat,
            "--batch-size": batch_size if batch_size != 1 else None,
            "--cache": cache,
            "--cache-size": cache_size,
        },
        model,
    )
    arms = served.served_arms(arms) if server else arms
    shown = asking.Shown("json" if json else "quiet" if quiet else "table", Drawing(save_kept, report), output)
    kept = asking.Kept(cache, cache_size)
    answer = chatting.run if chat else asking.run
    how = flags.answering(system, temperature, top_p, stop, think)
    worded = asking.Worded(settings.max_new_tokens, how, server, batch_size)
    answer(wanted, arms, shown, kept, worded, device=device)
