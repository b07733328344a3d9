"""Run one benchmark or a suite of them, and keep the results: the entry for `stts eval`.

In: a name and settings. Out: one document; with an output folder also results.json, results.md, results.html,
samples.jsonl and plot.svg, a sub-folder a benchmark for a suite. The table of a suite is the paper's: every benchmark,
and the averages of the short ones, the long ones and all (arXiv 2603.18004, results).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli import __version__
from stts_cli.config.suites import Suite
from stts_cli.data.rows import is_own_file
from stts_cli.engine.device import resolve_device
from stts_cli.errors import InputError, suggest
from stts_cli.evaluation.answers import load_arms, same_arms
from stts_cli.evaluation.benchmarks.registry import SUITES
from stts_cli.evaluation.changed import Look, look_again
from stts_cli.evaluation.cost import cost_line, estimate_cost
from stts_cli.evaluation.gather import Questions, gather
from stts_cli.evaluation.output import write_results
from stts_cli.evaluation.ranks import Ranks
from stts_cli.evaluation.runner import Progress, Run, RunSettings, evaluate
from stts_cli.evaluation.seeds import summarize_seeds
from stts_cli.settings import Arm


def plan_arms(arms: Sequence[Arm], scaling: bool) -> list[Arm]:
    """Decide which arms run; the others are compared with the first, which is dense where that is one of them.

    `scaling` is test-time scaling instead: dense at T frames against pruned at T and at T / keep_ratio frames, the last
    of which costs about as much as dense. InputError for both, or for two arms that are the same.
    """
    if scaling:
        (first, *others) = arms
        if others:
            raise InputError("--test-time-scaling: cannot go with --compare; leave one out.")
        if first.name == "dense":
            raise InputError("--test-time-scaling: a dense arm saves nothing; must be with a --keep-ratio below 1.")
        dense = dataclasses.replace(first, name="dense", keep_ratio=1.0, scorer="none")
        return [dense, first, dataclasses.replace(first, name="pruned, more frames", spend_savings=True)]
    for index, arm in enumerate(arms):
        for earlier in arms[:index]:
            if earlier.name == arm.name or dataclasses.replace(earlier, name=arm.name) == arm:
                raise same_arms(earlier.name, arm.name)
    return sorted(arms, key=lambda arm: arm.name != "dense")


RULES = ("strict", "relaxed", "molmo2", "official")  # how replies are read; not every benchmark has the last


@dataclass(frozen=True)
class DataSource:
    """Where the questions and videos are."""

    data_dir: Path | None = None  # a folder with the benchmark's files; None for the hub
    hf_repo: str | None = None  # a dataset id on the hub instead of the benchmark's own
    allow_missing: bool = False  # leave out questions whose video is not there


def run_benchmarks(
    asked: Suite,
    arms: Sequence[Arm],
    source: DataSource,
    how: RunSettings,
    *,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda text: None,
    look: Look | None = None,
) -> dict[str, Any] | None:
    """Evaluate on one benchmark, or on every one of a suite.

    `asked.bench` is a benchmark's name, a file of the user's own, or a key of `SUITES`, several with commas; arms are
    `plan_arms`'. `say` gets what a suite will cost before any model is loaded; `look` the clips of questions that arms
    answer differently, where there is an output folder.

    Return the document (`runner.evaluate`'s; for a suite {"suite", "cost", "benchmarks", "averages", "paper"}); None in
    every process of a launcher but the first. InputError for no benchmark, or settings that exclude each other.
    """
    if not asked.bench:
        raise InputError("--bench: is missing; must be a benchmark (--list shows them), or --suite with one.")
    names = _names(asked.bench)
    is_suite = asked.bench in SUITES or len(names) > 1
    if is_suite and (asked.split or source.hf_repo):
        flag = "--split" if asked.split else "--hf-repo"
        raise InputError(f"{flag}: must be left out, or one benchmark named; it cannot go with a suite.")
    if asked.scoring not in RULES:
        raise InputError(f"--scoring {asked.scoring}: is no rule{suggest(asked.scoring, RULES)}")
    progress("looking for the questions")
    ranks = Ranks()
    wanted = {"split": asked.split, "videos": asked.videos, "limit": asked.limit, **vars(source)}
    gathered = [gather(name, **wanted, progress=progress) for name in names]
    cost: dict[str, Any] = {}
    if is_suite and how.engine is None:
        cost = _cost(asked, gathered, arms, how)
        say(cost_line(cost))
    families: dict[Any, Any] = {}
    documents = []
    for questions in gathered:
        scoring = asked.scoring
        if is_suite and scoring not in questions.benchmark.scorers:
            note = f"{questions.benchmark.name} has no scoring {scoring}: its replies are read strictly"
            questions, scoring = dataclasses.replace(questions, notes=(*questions.notes, note)), "strict"
        run = Run(**vars(how), questions=questions, arms=arms, scoring=scoring)
        if how.output and is_suite:
            run = dataclasses.replace(run, output=how.output / questions.benchmark.name)
        document = evaluate(run, progress=progress, ranks=ranks, families=families)
        if document is not None:
            documents.append(document)
            if run.output:
                write_results(document, run.output)
                if look and how.engine is None:  # a server does not say which windows it kept
                    models, _ = load_arms(run.arms, resolve_device(ranks.device(run.device)), families, run.seed)
                    look_again(run, models, document["samples"], look, progress)
    if not documents:
        return None
    if not is_suite:
        return documents[0]
    suite: dict[str, Any] = {"stts": __version__, "command": "eval", "suite": asked.bench, "cost": cost}
    suite |= {"benchmarks": documents, "paper": asked.paper}
    suite |= {"averages": averages(documents), "differences": differences(documents)}
    suite |= {"seeds": {name: summarize_seeds(arms, means) for name, means in suite["averages"].items()}}
    if how.output:
        write_results(suite, how.output)
    return suite


def _cost(asked: Suite, gathered: Sequence[Questions], arms: Sequence[Arm], how: RunSettings) -> dict[str, Any]:
    names = [arm.name for arm in arms]
    if strangers := [name for name in asked.paper if name not in names]:
        raise InputError(f"paper: {strangers[0]}: is no arm; its arms are {', '.join(names)}.")
    on_gpu = resolve_device(how.device) != "cpu"
    return estimate_cost(gathered, arms, on_gpu=on_gpu, max_new_tokens=how.max_new_tokens)


def _classes(documents: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the short benchmarks, the long ones, and all; no class that has none."""
    classes = {
        name: [each for each in documents if name in (each["class"], "all")] for name in ("short", "long", "all")
    }
    return {name: own for name, own in classes.items() if own}


def averages(documents: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean accuracy of every arm over the short benchmarks, the long ones, and all."""
    means: dict[str, dict[str, float]] = {}
    for name, own in _classes(documents).items():
        rows = [each["arms"] for each in own if all(arm["accuracy"] is not None for arm in each["arms"].values())]
        if rows:
            means[name] = {arm: sum(row[arm]["accuracy"] for row in rows) / len(rows) for arm in rows[0]}
    return means


def differences(documents: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return how far every arm is from the first over the short benchmarks, the long ones, and all.

    By class and arm: "difference", the mean of the benchmarks' paired differences, each of the mean that `averages`
    takes (micro, or macro where that is the benchmark's headline); "interval", 95 %, as if each benchmark's error were
    normal and independent of the others'; "tokens_ratio" and "flops_ratio", means too; where every benchmark was timed
    also "seconds_ratio". None where a benchmark lacks it.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, own in _classes(documents).items():
        found[name] = {}
        for arm in [each["arm"] for each in own[0]["comparisons"]]:
            pairs = [each for document in own for each in document["comparisons"] if each["arm"] == arm]
            mean = _mean([each["accuracy_difference"] for each in pairs])
            ends = [each["accuracy_interval"] for each in pairs if each["accuracy_interval"]]
            halves = [(high - low) / 2 for low, high in ends]
            half = math.hypot(*halves) / len(pairs) if len(halves) == len(pairs) else None
            tokens = [_tokens(document, each) for document, each in zip(own, pairs, strict=True)]
            found[name][arm] = {
                "difference": mean,
                "interval": None if mean is None or half is None else (mean - half, mean + half),
                "tokens_ratio": _mean(tokens),
                "flops_ratio": _mean([each["flops_ratio"] for each in pairs]),
            }
            if all("times" in document for document in own):
                ratios = [document["times"]["arms"].get(arm, {}).get("ratio") for document in own]
                found[name][arm]["seconds_ratio"] = _mean(ratios)
    return found


def _tokens(document: dict[str, Any], pair: dict[str, Any]) -> float | None:
    own, first = (document["arms"][pair[key]]["visual_tokens"] for key in ("arm", "against"))
    return own / first if own and first else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _names(bench: str) -> tuple[str, ...]:
    if is_own_file(bench) and Path(bench).expanduser().is_file():
        return (bench,)  # its name may hold a comma
    names = [name for part in bench.split(",") for name in SUITES.get(part.strip(), (part.strip(),))]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--bench {bench}: names {name} twice; must be each once.")
    return tuple(names)
