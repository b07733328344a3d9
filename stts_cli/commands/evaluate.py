"""The `eval` command: parse, decide the arms, call `evaluation`, report. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from stts_cli.commands import engine as served
from stts_cli.commands import flags
from stts_cli.errors import Interrupted


def _benchmarks() -> list[str]:
    from stts_cli.evaluation.benchmarks.registry import NAMES, SUITES

    return [*NAMES, *SUITES]


def evaluate(
    bench: Annotated[
        str | None,
        typer.Option(
            help="A benchmark (--list shows them), a .jsonl, .json or .csv file of your own, all-short, all-long or "
            "all; several with commas.",
            autocompletion=_benchmarks,
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="A suite of presets/suites, or a YAML file: benchmarks and arms; flags go before it."),
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Show the benchmarks and exit.")] = False,
    videos: Annotated[
        int | None, typer.Option(help="Only so many videos, each with all its questions; 100 for the built-in ones.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many questions.")] = None,
    split: Annotated[str | None, typer.Option(help="A split; else the benchmark's default.")] = None,
    scoring: Annotated[
        str | None, typer.Option(help="How replies are read: strict (the default), relaxed, molmo2 or official.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="A folder with the benchmark's files; else the Hugging Face hub.")
    ] = None,
    hf_repo: Annotated[str | None, typer.Option(help="A dataset id on the hub instead of the benchmark's own.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out questions whose video is not there.")
    ] = False,
    compare: flags.Compare = None,
    test_time_scaling: Annotated[
        bool, typer.Option("--test-time-scaling", help="Dense at T frames against pruned at T and at T / keep ratio.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="A folder for the answers and results; the same command, or one with more arms, goes on."),
    ] = None,
    plot: Annotated[str | None, typer.Option(help="Draw accuracy against FLOPs into FILE.png.")] = None,
    preset: flags.Preset = None,
    model: flags.Model = None,
    revision: flags.Revision = None,
    frames: flags.Frames = None,
    max_fps: flags.MaxFps = None,
    resize: flags.Resize = "model",
    keep_ratio: flags.KeepRatio = None,
    prune_ratio: flags.PruneRatio = None,
    scorer: flags.Scorer = None,
    prune_layer: flags.PruneLayer = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The most tokens of an answer; else the benchmark's own.")
    ] = None,
    system: flags.System = None,
    temperature: flags.Temperature = None,
    top_p: flags.TopP = None,
    stop: flags.Stop = None,
    think: flags.Think = False,
    device: flags.Device = "auto",
    dtype: flags.Dtype = None,
    quantize: flags.Quantize = None,
    device_map: flags.DeviceMap = None,
    engine: served.Url = None,
    send: served.Send = None,
    in_flight: Annotated[
        int | None, typer.Option(help="With --engine, videos that are asked about at once; 4 by default.")
    ] = None,
    answer_timeout: served.Silence = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that read videos ahead; 0 reads in this one, without a timeout.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which a video is given up.")] = 120.0,
    batch_size: flags.BatchSize = 1,
    times: Annotated[
        bool, typer.Option("--times", help="Time the arms too: nothing is read meanwhile, arms in changing order.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of guesses, the random scorer and --temperature.")] = 0,
    seeds: Annotated[
        int | None,
        typer.Option(help="Run every arm that draws at random (all do with --temperature) under this many seeds."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document with every answer on stdout.")] = False,
) -> None:
    """Measure accuracy beside cost, with more arms on the same questions if asked for."""
    from stts_cli.config.suites import Suite, load_suite
    from stts_cli.media.resize import check_resize
    from stts_cli.report.evaluate import show_evaluation, show_list
    from stts_cli.report.evaluation_html import Thumbnails, write_html
    from stts_cli.report.evaluation_page import write_pages
    from stts_cli.report.plots import check_target, plot_accuracy, plot_results
    from stts_cli.report.progress import LINE_EVERY_S, Progress

    if list_them:
        from stts_cli.evaluation.benchmarks.registry import describe

        show_list(describe(), json_only=json)
        return
    check_resize(resize)
    if plot:
        check_target(plot, "--plot")
    asked = (load_suite(suite) if suite else Suite()).override(
        bench=bench,
        videos=videos,
        limit=limit,
        split=split,
        scoring=scoring,
        preset=preset,
        model=model,
        revision=revision,
        frames=frames,
        max_fps=max_fps,
        keep_ratio=flags.kept(keep_ratio, prune_ratio),
        scorer=scorer,
        prune_layer=prune_layer,
    )
    server = served.read_engine(
        engine,
        {"send": send, "in_flight": in_flight, "silence_s": answer_timeout},
        {
            **served.of_the_server(asked.scorer, asked.prune_layer, dtype, asked.revision, device, quantize),
            "--device-map": device_map,
            "--think": think,
            "--test-time-scaling": test_time_scaling,
            "--times": times,
            "--batch-size": batch_size if batch_size != 1 else None,
            "--plot": plot,
        },
        asked.model,
    )
    arms = asked.arms(compare, resize=resize, dtype=dtype, quantize=quantize, device_map=device_map)
    answering = flags.answering(system, temperature, top_p, stop, think)
    arms = served.served_arms(arms) if server else arms
    thumbnails = Thumbnails()
    with _say_how_to_go_on(output), Progress(line_every_s=LINE_EVERY_S) as progress:
        progress("starting")
        from stts_cli.evaluation.runner import RunSettings
        from stts_cli.evaluation.seeds import expand_seeds
        from stts_cli.evaluation.suite import DataSource, plan_arms, run_benchmarks

        document = run_benchmarks(
            asked,
            expand_seeds(plan_arms(arms, test_time_scaling), seeds, answering),
            DataSource(data_dir, hf_repo, allow_missing),
            RunSettings(output, device, workers, timeout, max_new_tokens, seed, times, answering, server, batch_size),
            progress=progress,
            say=progress.say,
            look=thumbnails.add,
        )
    if document is not None:
        show_evaluation(document, json_only=json)
        if output:
            write_pages(document, output)
            if not server:  # whose FLOPs are not known
                plot_results(document, output)
            write_html(document, output, thumbnails)
        if plot:
            plot_accuracy(document, plot)


@contextmanager
def _say_how_to_go_on(output: Path | None) -> Iterator[None]:
    """Turn Ctrl-C before the first question, or between benchmarks, into its message; the runner does so elsewhere."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "the same command goes on, and what --output holds is kept" if output else "run the same command again"
        raise Interrupted(f"stopped while no question was asked; {kept}.") from None
