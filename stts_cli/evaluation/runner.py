"""Ask every question of a benchmark under every arm and score it: items in, accuracy beside cost out.

One video after another is read ahead (`reader`), encoded once an arm and asked all its questions behind one prefix
(`pipeline.answer_questions`). Every arm answers the same questions about the same decoded frames. Each answer goes to
the journal at once; what is there already is not asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stts_cli import __version__
from stts_cli.data.items import QaItem
from stts_cli.engine.device import resolve_device
from stts_cli.errors import InputError, Interrupted
from stts_cli.evaluation.answers import Asking, LoadedArm, answer, load_arms
from stts_cli.evaluation.benchmarks.benchmark import Benchmark
from stts_cli.evaluation.journal import Journal, Row
from stts_cli.evaluation.metrics import Seconds, compare, summarize, summarize_times
from stts_cli.evaluation.ranks import Ranks
from stts_cli.evaluation.settings import ArmSettings, items_hash, versions, weights_hash
from stts_cli.families.base import clamp_note
from stts_cli.media.reader import read_ahead
from stts_cli.media.source import Source

if TYPE_CHECKING:
    from stts_cli.families.base import Family

Progress = Callable[..., None]  # (what is going on, done, total)


@dataclass(frozen=True)
class Run:
    """What is asked, and how.

    Attributes:
        benchmark: the questions' benchmark.
        split: of it.
        items: the questions.
        arms: at least one; each answers all of them, and is compared with the first.
        num_missing: questions left out because their video is not there.
        notes: what else there is to say of the questions.
        scoring: a key of the benchmark's scorers.
        device: "auto", "cpu", "cuda" or "cuda:N".
        output: folder of the journal, or None.
        workers: processes that read videos.
        timeout_s: seconds after which a video is given up.
        max_new_tokens: None for the benchmark's own.
        seed: of guesses and of the random scorer.
        times: time the arms too, with nothing read meanwhile.
    """

    benchmark: Benchmark
    split: str
    items: Sequence[QaItem]
    arms: Sequence[ArmSettings]
    num_missing: int = 0
    notes: Sequence[str] = ()
    scoring: str = "strict"
    device: str = "auto"
    output: Path | None = None
    workers: int = 1
    timeout_s: float = 120.0
    max_new_tokens: int | None = None
    seed: int = 0
    times: bool = False

    @property
    def asking(self) -> Asking:
        """How questions are put and replies are read."""
        max_new_tokens = self.max_new_tokens or self.benchmark.max_new_tokens
        return Asking(self.benchmark, self.scoring, max_new_tokens, self.seed)


def evaluate(
    run: Run,
    *,
    progress: Progress = lambda *_: None,
    ranks: Ranks | None = None,
    families: dict[tuple[str, str], Family] | None = None,
) -> dict[str, Any] | None:
    """Answer and score everything that is not answered yet.

    Args:
        run: what to do.
        progress: called with what is going on, and behind it questions done and in all.
        ranks: the processes that share the work; None for those the environment names.
        families: models that are loaded already, by name and dtype; what is loaded here is added.

    Returns:
        The document: settings, per arm a summary (`metrics.summarize`), comparisons of every arm with the first, those
        of the other pairs, and every row; None in every process but the first.

    Raises:
        InputError: a setting is wrong, the folder holds another run, or nothing could be answered.
        Interrupted: stopped by Ctrl-C; it says how to go on.
    """
    ranks = ranks or Ranks()
    if run.scoring not in run.benchmark.scorers:
        raise InputError(
            f"{run.benchmark.name} has no scoring '{run.scoring}' -> {', '.join(run.benchmark.scorers)} "
            "-> change --scoring"
        )
    device = resolve_device(ranks.device(run.device))
    progress("loading the model")
    arms, notes = load_arms(run.arms, device, {} if families is None else families)
    notes = [*run.notes, *notes]
    config = _config(run, arms, device)
    journal = Journal(run.output, config, ranks.rank)
    notes += journal.notes
    ranks.wait()  # everyone has read what is there before anyone writes
    resumed = len(journal.rows)
    if resumed:
        notes.append(f"{resumed} of {len(run.items) * len(arms)} answers were there already")
    journal.open()
    try:
        timed = _answer_all(run, arms, journal, ranks, progress)
    except KeyboardInterrupt:
        raise Interrupted(_how_to_resume(run, len(journal.rows), len(run.items) * len(arms))) from None
    finally:
        journal.close()
    rows: dict[tuple[str, str], Row] = {}
    seconds: list[Seconds] = []
    for part, its_seconds in ranks.collect((journal.rows, timed)):
        seconds += its_seconds[1:]  # the first clip warms up
        rows |= {key: row for key, row in part.items() if key not in rows or rows[key].get("error")}
    if ranks.rank:
        return None
    ordered = [rows[arm.settings.name, item.id] for item in run.items for arm in arms]
    journal.merge(ordered)
    if all(row.get("error") for row in ordered):
        raise InputError(f"no question could be answered; the first: {ordered[0]['error']}")
    document = _document(run, arms, config, notes, ordered)
    if run.times:
        document["times"] = summarize_times(seconds, len({item.source for item in run.items}), ranks.size)
    return document


def _config(run: Run, arms: Sequence[LoadedArm], device: str) -> dict[str, Any]:
    hashes = {id(arm.family): weights_hash(arm.family) for arm in arms}
    return {
        "bench": run.benchmark.name,
        "split": run.split,
        "questions": len(run.items),
        "items": items_hash(run.items),
        "scoring": run.scoring,
        "seed": run.seed,
        "max_new_tokens": run.asking.max_new_tokens,
        "device": device.split(":")[0],
        "arms": {
            arm.settings.name: {
                "model": arm.family.model_name,
                "weights": hashes[id(arm.family)],
                "frames": arm.frames,
                "max_fps": arm.settings.max_fps,
                "resize": arm.settings.resize,
                "keep_ratio": arm.keep_ratio,
                "scorer": arm.scorer,
                "prune_layer": arm.prune_layer,
                "dtype": arm.dtype,
            }
            for arm in arms
        },
        "versions": versions(),
    }


def _answer_all(
    run: Run, arms: Sequence[LoadedArm], journal: Journal, ranks: Ranks, progress: Progress
) -> list[Seconds]:
    """Go through this process's share of the videos; return the seconds of each that every arm answered in full."""
    by_source: dict[Source, list[QaItem]] = {}
    for item in run.items:
        by_source.setdefault(item.source, []).append(item)
    work: list[tuple[Source, dict[str, list[QaItem]]]] = []
    for source, items in by_source.items():
        open_ones = {arm.settings.name: _open_questions(items, arm, journal) for arm in arms}
        if any(open_ones.values()):
            work.append((source, open_ones))
    work = ranks.deal(work)
    requests = [list(dict.fromkeys(arm.request(src) for arm in arms if todo[arm.settings.name])) for src, todo in work]
    clips = read_ahead(
        [one for some in requests for one in some],
        workers=min(1, run.workers) if run.times else run.workers,  # others would start up while the first arms run
        timeout_s=run.timeout_s,
        ahead=not run.times,
    )
    timed: list[Seconds] = []
    total = sum(len(questions) for _, todo in work for questions in todo.values())
    done, started = 0, time.monotonic()
    tally = _Tally(arms, journal.rows.values())

    def keep(row: Row) -> None:
        nonlocal done
        journal.append(row)
        tally.add(row)
        done += 1
        progress(f"{done / (time.monotonic() - started):.2f} answers/s; {tally}", done, total)

    try:
        for turn, ((source, todo), wanted) in enumerate(zip(work, requests, strict=True)):
            results = {request: next(clips) for request in wanted}
            turn = turn % len(arms) if run.times else 0
            seconds: dict[str, float | None] = dict.fromkeys(todo)
            for arm in [*arms[turn:], *arms[:turn]]:
                name = arm.settings.name
                if todo[name]:
                    took = answer(run.asking, arm, todo[name], results[arm.request(source)], keep)
                    seconds[name] = took if len(todo[name]) == len(by_source[source]) else None
            whole = {name: took for name, took in seconds.items() if took is not None}
            if len(whole) == len(arms):
                timed.append(whole)
    finally:
        clips.close()  # type: ignore[attr-defined]  # a generator
    return timed


def _open_questions(items: Sequence[QaItem], arm: LoadedArm, journal: Journal) -> list[QaItem]:
    return [item for item in items if not journal.is_done(arm.settings.name, item.id)]


class _Tally:
    """The accuracy so far of every arm."""

    def __init__(self, arms: Sequence[LoadedArm], rows: Iterable[Row]) -> None:
        self._marks = {arm.settings.name: [0, 0] for arm in arms}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        if row["correct"] is not None:
            self._marks[row["arm"]][0] += row["correct"]
            self._marks[row["arm"]][1] += 1

    def __str__(self) -> str:
        return ", ".join(f"{name} {right / asked:.1%}" for name, (right, asked) in self._marks.items() if asked)


def _how_to_resume(run: Run, done: int, total: int) -> str:
    if run.output is None:
        return f"stopped after {done} of {total} answers; nothing was kept -> --output DIR keeps them"
    return f"stopped after {done} of {total} answers -> the same command goes on from there"


def _document(
    run: Run, arms: Sequence[LoadedArm], config: dict[str, Any], notes: list[str], rows: list[Row]
) -> dict[str, Any]:
    by_arm = {arm.settings.name: [row for row in rows if row["arm"] == arm.settings.name] for arm in arms}
    headline = "micro" if run.scoring == "molmo2" else run.benchmark.headline
    names = list(by_arm)
    pairs = [
        {"arm": name, "against": base, **compare(by_arm[name], by_arm[base], headline)}
        for index, base in enumerate(names)
        for name in names[index + 1 :]
    ]
    if any(row.get("backend") == "pyav" for row in rows):
        count = len({row["segment"] for row in rows if row.get("backend") == "pyav"})
        notes.append(f"{count} videos were read with PyAV")
    for arm in arms:
        lengths = {row["segment"]: row["num_frames"] for row in by_arm[arm.settings.name] if not row.get("error")}
        clamped = [note for n in lengths.values() if (note := clamp_note(arm.family, n, arm.keep_ratio, arm.scorer))]
        if clamped:
            notes.append(f"{arm.settings.name}: {len(clamped)} of {len(lengths)} videos; the first, {clamped[0]}")
    failed = {row["video"]: row["error"] for row in rows if row.get("error")}
    notes += [f"{len(failed)} videos failed, {next(iter(failed.values()))}"] if failed else []
    return {
        "stts": __version__,
        "command": "eval",
        "bench": run.benchmark.name,
        "title": run.benchmark.title,
        "remark": run.benchmark.remark,
        "class": run.benchmark.length,
        "split": run.split,
        "scoring": run.scoring,
        "is_demonstration": any(arm.family.is_demonstration for arm in arms),
        "num_missing": run.num_missing,
        "config": config,
        "notes": notes,
        "arms": {name: summarize(mine, headline) for name, mine in by_arm.items()},
        "comparisons": pairs[: len(names) - 1],
        "other_pairs": pairs[len(names) - 1 :],
        "failed": failed,
        "samples": rows,
    }
