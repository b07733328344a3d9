"""Ask every question of a benchmark under every arm and score it: items in, accuracy beside cost out.

One video after another is read ahead (`reader`), encoded once an arm and asked all its questions behind one prefix
(`answers.answer`). Every arm answers the same questions about the same decoded frames. Each answer goes to the journal
at once; what is there already is not asked again.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli import __version__
from stts_cli.data.items import QaItem
from stts_cli.engine.device import resolve_device
from stts_cli.engine.model import Loaded, VideoModel
from stts_cli.engine.remote import Engine, RemoteModel, load_remote
from stts_cli.engine.token_cache import weights_hash
from stts_cli.errors import InputError, Interrupted
from stts_cli.evaluation.answers import AnyModel, Asking, Batch, answer, load_arms
from stts_cli.evaluation.at_once import run_jobs
from stts_cli.evaluation.gather import Questions
from stts_cli.evaluation.journal import Journal, Row
from stts_cli.evaluation.metrics import Seconds, compare, summarize, summarize_times
from stts_cli.evaluation.ranks import Ranks
from stts_cli.evaluation.seeds import summarize_seeds
from stts_cli.evaluation.served import server_notes
from stts_cli.evaluation.settings import items_hash, versions
from stts_cli.media.reader import ReadResult, read_ahead
from stts_cli.media.source import Source
from stts_cli.settings import GREEDY, THINKING_TOKENS, Answering, Arm

Progress = Callable[..., None]  # (what is going on, done, total)


@dataclass(frozen=True)
class RunSettings:
    """How a run goes."""

    output: Path | None = None  # folder of the journal and the results
    device: str = "auto"  # or "cpu", "cuda", "cuda:N", "mps"
    workers: int | None = None  # processes that read videos; None for as many as the machine can spare
    timeout_s: float = 120.0  # after which a video is given up
    max_new_tokens: int | None = None  # None for the benchmark's own
    seed: int = 0  # of guesses, of the random scorer and of answers that are drawn
    times: bool = False  # time the arms too, with nothing read meanwhile
    answering: Answering = GREEDY
    engine: Engine | None = None  # a server that answers; None for models loaded here
    batch_size: int = 1  # answers that are decoded together

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(f"--max-new-tokens {self.max_new_tokens}: must be at least 1.")
        if self.workers is not None and self.workers < 0:
            raise InputError(f"--workers {self.workers}: must be at least 0.")
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1.")
        if self.batch_size > 1 and self.times:
            raise InputError("--times: times every question alone; it cannot stand with --batch-size.")
        if not 0 < self.timeout_s < math.inf:
            raise InputError(f"--timeout {self.timeout_s:g}: must be seconds, greater than 0.")

    @property
    def num_workers(self) -> int:
        """Processes that read videos; while arms are timed at most one, others would start up meanwhile."""
        spare = max(1, min(4, (os.cpu_count() or 2) // 2)) if self.workers is None else self.workers
        return min(1, spare) if self.times else spare


@dataclass(frozen=True, kw_only=True)
class Run(RunSettings):
    """What is asked, and how: every arm answers all questions, and is compared with the first."""

    questions: Questions
    arms: Sequence[Arm]
    scoring: str = "strict"  # a key of the benchmark's scorers

    @property
    def asking(self) -> Asking:
        """How questions are put and replies are read."""
        benchmark = self.questions.benchmark
        own = THINKING_TOKENS if self.answering.think else benchmark.max_new_tokens
        return Asking(benchmark, self.scoring, self.max_new_tokens or own, self.seed)


def evaluate(
    run: Run,
    *,
    progress: Progress = lambda *_: None,
    ranks: Ranks | None = None,
    families: Loaded | None = None,
) -> dict[str, Any] | None:
    """Answer and score everything that is not answered yet; `ranks` None are those that the environment names.

    `families` holds models that are loaded, and gets those loaded here. Return the document: settings, per arm a
    summary (`metrics.summarize`), comparisons of every arm with the first, those of the other pairs, and every row;
    None in every process but the first.

    Raises:
        InputError: a setting is wrong, the folder holds another run, or nothing could be answered.
        Interrupted: stopped by Ctrl-C; it says how to go on.
    """
    ranks = ranks or Ranks()
    items, benchmark = run.questions.items, run.questions.benchmark
    if run.scoring not in benchmark.scorers:
        has = f"{benchmark.name} has {', '.join(benchmark.scorers)}"
        raise InputError(f"--scoring {run.scoring}: is not a rule of this benchmark; {has}.")
    device = resolve_device(ranks.device(run.device))
    progress("loading the model")
    models, notes = _load(run, device, {} if families is None else families)
    config = _config(run, models, device)
    journal = Journal(run.output, config, ranks.rank)
    notes = [*run.questions.notes, *notes, *journal.notes]
    ranks.wait()  # everyone has read what is there before anyone writes
    total = len(items) * len(models)
    if journal.rows:
        notes.append(f"{len(journal.rows)} of {total} answers were there already")
    alone = (model.batch_note(run.batch_size) for model in models if isinstance(model, VideoModel))
    notes += dict.fromkeys(filter(None, alone))
    journal.open()
    try:
        timed = _answer_all(run, models, journal, ranks, progress)
    except KeyboardInterrupt:
        how = "the same command continues the run" if run.output else "nothing was kept; --output DIR keeps them"
        raise Interrupted(f"stopped after {len(journal.rows)} of {total} answers; {how}.") from None
    finally:
        journal.close()
    rows: dict[tuple[str, str], Row] = {}
    seconds: list[Seconds] = []
    for part, its_seconds in ranks.collect((journal.rows, timed)):
        seconds += its_seconds[1:]  # the first clip warms up
        rows |= {key: row for key, row in part.items() if key not in rows or rows[key].get("error")}
    if ranks.rank:
        return None
    ordered = [rows[model.arm.name, item.id] for item in items for model in models]
    journal.merge(ordered)
    if all(row.get("error") for row in ordered):
        raise InputError(f"no question could be answered; the first: {ordered[0]['error']}")
    document = _document(run, models, config, notes, ordered)
    if run.times:
        document["times"] = summarize_times(seconds, len({item.source for item in items}), ranks.size)
    return document


def _load(run: Run, device: str, families: Loaded) -> tuple[Sequence[AnyModel], list[str]]:
    if run.engine is None:
        return load_arms(run.arms, device, families, run.seed, run.answering)
    models = load_remote(run.engine, run.arms, run.answering, run.seed)
    return models, list(dict.fromkeys(note for model in models for note in model.notes))


def _config(run: Run, models: Sequence[AnyModel], device: str) -> dict[str, Any]:
    questions = run.questions
    loaded = [model for model in models if isinstance(model, VideoModel)]
    hashes = {id(model.family): weights_hash(model.family) for model in loaded}
    return {
        "bench": questions.benchmark.name,
        "split": questions.split,
        "questions": len(questions.items),
        "items": items_hash(questions.items),
        "scoring": run.scoring,
        "seed": run.seed,
        "max_new_tokens": run.asking.max_new_tokens,
        **run.answering.to_dict(),
        **({} if run.batch_size == 1 else {"batch_size": run.batch_size}),
        "device": "server" if run.engine else device.split(":")[0],
        "arms": {
            model.arm.name: {
                **model.describe(),
                **({"weights": hashes[id(model.family)]} if loaded else {}),
                "seed": settings.seed,
            }
            for model, settings in zip(models, run.arms, strict=True)
        },
        "versions": versions(),
    }


def _answer_all(
    run: Run, models: Sequence[AnyModel], journal: Journal, ranks: Ranks, progress: Progress
) -> list[Seconds]:
    """Go through this process's share of the videos; return the seconds of each that every arm answered in full."""
    by_source: dict[Source, list[QaItem]] = {}
    for item in run.questions.items:
        by_source.setdefault(item.source, []).append(item)
    work = []  # a clip, and the questions that every arm has not answered
    for source, items in by_source.items():
        todo = {
            name: [i for i in items if not journal.is_done(name, i.id)] for name in (model.arm.name for model in models)
        }
        if any(todo.values()):
            work.append((source, todo))
    work = ranks.share(work)
    requests = [
        list(dict.fromkeys(model.request(src) for model in models if todo[model.arm.name])) for src, todo in work
    ]
    clips = read_ahead(
        [one for some in requests for one in some],
        workers=run.num_workers,
        timeout_s=run.timeout_s,
        ahead=not run.times,
    )
    batches: dict[str, Batch] = {}
    keep = _Keeper(journal, progress, sum(len(questions) for _, todo in work for questions in todo.values()))

    def jobs() -> Iterator[Callable[[], Seconds]]:
        """Read each clip when its turn comes, and yield what asks every arm about it."""
        for turn, ((source, todo), wanted) in enumerate(zip(work, requests, strict=True)):
            results = {request: next(clips) for request in wanted}
            turn = turn % len(models) if run.times else 0
            order = [*models[turn:], *models[:turn]]
            yield functools.partial(ask_all, source, todo, results, order)

    def ask_all(
        source: Source, todo: dict[str, list[QaItem]], results: dict[Any, ReadResult], order: list[AnyModel]
    ) -> Seconds:
        seconds: Seconds = {}
        for model in order:
            name = model.arm.name
            if todo[name] and name in batches:
                batches[name].add(todo[name], results[model.request(source)])
            elif todo[name]:
                took = answer(run.asking, model, todo[name], results[model.request(source)], keep)
                if took is not None and len(todo[name]) == len(by_source[source]):
                    seconds[name] = took
        return seconds

    for model in models:
        if run.batch_size > 1 and isinstance(model, VideoModel) and model.is_joined:
            batches[model.arm.name] = Batch(run.asking, model, run.batch_size, keep)
    timed: list[Seconds] = []
    try:
        for seconds in run_jobs(jobs(), run.engine.in_flight if run.engine else 1):
            if len(seconds) == len(models):
                timed.append({model.arm.name: seconds[model.arm.name] for model in models})
        for batch in batches.values():
            batch.answer()
    finally:
        keep.stop()
        clips.close()  # type: ignore[attr-defined]  # a generator
    return timed


class _Keeper:
    """Write answers to the journal, and say how far the run is and how every arm does; threads may share it."""

    def __init__(self, journal: Journal, progress: Progress, total: int) -> None:
        self._journal, self._progress, self._total = journal, progress, total
        self._done, self._started_s = 0, time.monotonic()
        self._lock, self._is_open = threading.Lock(), True
        self._right: Counter[str] = Counter()
        self._scored: Counter[str] = Counter()
        for row in journal.rows.values():
            self._count(row)

    def __call__(self, row: Row) -> None:
        with self._lock:
            if self._is_open:
                self._keep(row)

    def stop(self) -> None:
        """Keep nothing more: an answer that comes after the run was stopped is asked for again."""
        with self._lock:
            self._is_open = False

    def _keep(self, row: Row) -> None:
        self._journal.append(row)
        self._count(row)
        self._done += 1
        shares = ", ".join(f"{name} {self._right[name] / scored:.1%}" for name, scored in self._scored.items())
        per_s = self._done / (time.monotonic() - self._started_s)
        self._progress(f"{per_s:.2f} answers/s; {shares}", self._done, self._total)

    def _count(self, row: Row) -> None:
        if row["correct"] is not None:
            self._right[row["arm"]] += row["correct"]
            self._scored[row["arm"]] += 1


def _document(
    run: Run, models: Sequence[AnyModel], config: dict[str, Any], notes: list[str], rows: list[Row]
) -> dict[str, Any]:
    by_arm = {model.arm.name: [row for row in rows if row["arm"] == model.arm.name] for model in models}
    questions, benchmark = run.questions, run.questions.benchmark
    headline = "micro" if run.scoring == "molmo2" else benchmark.headline
    names = list(by_arm)
    pairs = [
        {"arm": name, "against": base, **compare(by_arm[name], by_arm[base], headline)}
        for index, base in enumerate(names)
        for name in names[index + 1 :]
    ]
    failed = {row["video"]: row["error"] for row in rows if row.get("error")}
    summaries = {name: summarize(own, headline) for name, own in by_arm.items()}
    return {
        "stts": __version__,
        "command": "eval",
        "bench": benchmark.name,
        "title": benchmark.title,
        "remark": benchmark.remark,
        "class": benchmark.length,
        "split": questions.split,
        "scoring": run.scoring,
        "is_demonstration": any(model.is_demonstration for model in models),
        "num_missing": questions.num_missing,
        "missing": questions.missing,
        "config": config,
        **({"engine": run.engine.url} if run.engine else {}),
        "notes": [*notes, *_notes(models, by_arm, failed)],
        "arms": summaries,
        "seeds": summarize_seeds(run.arms, {name: arm["accuracy"] for name, arm in summaries.items()}),
        "comparisons": pairs[: len(names) - 1],
        "other_pairs": pairs[len(names) - 1 :],
        "failed": failed,
        "samples": rows,
    }


def _notes(models: Sequence[AnyModel], by_arm: dict[str, list[Row]], failed: dict[str, str]) -> list[str]:
    """Return what was done otherwise than asked: videos read in part, budgets too small, failures."""
    notes = []
    read: dict[str, str] = {}
    for row in (row for rows in by_arm.values() for row in rows if row.get("reading")):
        read.setdefault(row["video"], "; ".join(row["reading"]))
    for video, how in [*read.items()][:1]:
        what = f"{len(read)} videos were read otherwise than whole and with their own times"
        notes.append(f"{what}; the first, {video}: {how}")
    for model in models:
        lengths = {
            row["segment"]: (row["num_frames"], row["visual_tokens_dense"])
            for row in by_arm[model.arm.name]
            if not row.get("error")
        }
        clamped = [note for each in lengths.values() if (note := model.clamp_note(*each))]
        if clamped:
            notes.append(f"{model.arm.name}: {len(clamped)} of {len(lengths)} videos; the first, {clamped[0]}")
        if isinstance(model, RemoteModel):
            notes += server_notes(model, by_arm[model.arm.name])
    if failed:
        notes.append(f"{len(failed)} videos failed, {next(iter(failed.values()))}")
    return notes
