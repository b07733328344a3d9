"""From answered questions to a result: accuracy as the benchmark defines it, its breakdowns, and what it cost.

In: rows of the journal. Out: plain dicts for the report. Questions without a public answer, and those whose video could
not be read, are counted apart and never enter an accuracy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from stts_cli.evaluation.journal import Row
from stts_cli.evaluation.served import summarize_server
from stts_cli.evaluation.statistics import mcnemar_p, mean_interval

Seconds = dict[str, float]  # of a clip, by arm


def summarize(rows: Sequence[Row], headline: str) -> dict[str, Any]:
    """Sum up an arm's answers; `headline` is "micro", or the breakdown whose groups' mean is the accuracy.

    Returns:
        "accuracy" (the headline; "mean" says of what), "micro" with a 95 % interval, "macro" by breakdown, "groups" by
        breakdown and value, counts, and means: visual tokens a video, FLOPs a question.
    """
    answered = [row for row in rows if not row.get("error")]
    scored = [row for row in answered if row["correct"] is not None and row["counted"]]
    whole = _score(scored)
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in scored:
        for name, values in row["groups"].items():
            for value in values:
                groups[name][value].append(row)
    tables = {
        name: {value: _score(members) for value, members in sorted(by_value.items(), key=_natural)}
        for name, by_value in groups.items()
    }
    macro = {name: _mean(score["accuracy"] for score in table.values()) for name, table in tables.items()}
    first = {row["segment"]: row for row in answered}
    return {
        "n": whole["n"],
        "n_total": len(rows),
        "n_unscored": sum(row["correct"] is None for row in answered),
        "n_left_out": sum(not row["counted"] for row in answered),
        "n_errors": len(rows) - len(answered),
        "n_cut": sum(not row["finished"] for row in answered),
        "unparsed_rate": _mean(row["parsed"] is None for row in answered),
        "accuracy": macro.get(headline, whole["accuracy"]),
        "headline": headline,
        "mean": f"macro over {headline}" if headline in macro else "micro",
        "micro": whole["accuracy"],
        "interval": mean_interval([row["correct"] for row in scored], [row["video"] for row in scored]),
        "macro": macro,
        "chance": whole["chance"],
        "groups": tables,
        "videos": len(first),
        "visual_tokens": _mean_known(row["visual_tokens"] for row in first.values()),
        "flops": _mean_known(row["flops"] for row in answered),
        "peak_bytes": max((row["peak_bytes"] or 0 for row in answered), default=0) or None,
        **({"server": summarize_server(answered)} if any("ttft_s" in row for row in answered) else {}),
    }


def compare(rows_a: Sequence[Row], rows_b: Sequence[Row], headline: str = "micro") -> dict[str, Any]:
    """Compare two arms on the questions that both answered; `headline` is as for `summarize`.

    Returns:
        "difference", of the means over questions (micro; a - b), with its 95 % "interval" and McNemar's p;
        "accuracy_difference" and "accuracy_interval", of the headline's means; cost ratios a / b.
    """
    others = {row["id"]: row for row in rows_b if not row.get("error")}
    pairs = [(row, others[row["id"]]) for row in rows_a if not row.get("error") and row["id"] in others]
    scored = [(a, b) for a, b in pairs if a["correct"] is not None and a["counted"] and b["counted"]]
    differences = [a["correct"] - b["correct"] for a, b in scored]
    videos = [a["video"] for a, _ in scored]
    micro = _mean(differences), mean_interval(differences, videos)
    groups = [a["groups"].get(headline, ()) for a, _ in scored]
    accuracy = micro
    if any(groups):
        names = dict.fromkeys(name for own in groups for name in own)
        means = [_mean(d for d, own in zip(differences, groups, strict=True) if name in own) for name in names]
        accuracy = _mean(m for m in means if m is not None), mean_interval(differences, videos, groups=groups)
    only_a, only_b = differences.count(1), differences.count(-1)
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    flops = [sum(row["flops"] or 0 for row in side) for side in sides]  # a server's are not known
    return {
        "n": len(scored),
        "a": _mean(a["correct"] for a, _ in scored),
        "b": _mean(b["correct"] for _, b in scored),
        "difference": micro[0],
        "interval": micro[1],
        "accuracy_difference": accuracy[0],
        "accuracy_interval": accuracy[1],
        "only_a": only_a,
        "only_b": only_b,
        "mcnemar_p": mcnemar_p(only_a, only_b),
        "flops_ratio": flops[0] / flops[1] if flops[1] else None,
    }


def summarize_times(timed: Sequence[Seconds], num_clips: int, num_processes: int) -> dict[str, Any]:
    """Sum up the seconds of clips that all arms answered in full in this run, without those that warmed up.

    `num_clips` is how many the benchmark has, `num_processes` how many answered at once. Return "arms": by name
    "seconds", the median over the clips, and "ratio", the median of the paired ratios to the first arm (None for that
    one); "clips", every clip's; "how", a sentence.
    """
    arms: dict[str, dict[str, float | None]] = {}
    for name in timed[0] if timed else ():
        first = next(iter(arms), None)
        arms[name] = {
            "seconds": median(clip[name] for clip in timed),
            "ratio": median(clip[name] / clip[first] for clip in timed) if first else None,
        }
    how = (
        f"times: medians over {len(timed)} of {num_clips} clips, arms in changing order, nothing read meanwhile; all "
        "questions of a clip, reading it excluded; ratio: median of the clips' own"
    )
    left_out = "the first clip warms up; clips that failed, or were answered before this run, are not timed"
    at_once = f"; {num_processes} processes ran at once" if num_processes > 1 else ""
    return {"arms": arms, "clips": list(timed), "how": f"{how} ({left_out}{at_once})"}


def _score(rows: Sequence[Row]) -> dict[str, Any]:
    chances = [row["chance"] for row in rows]
    accuracy = _mean(row["correct"] for row in rows)
    return {"n": len(rows), "accuracy": accuracy, "chance": None if None in chances else _mean(chances)}


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def _mean_known(values: Iterable[float | None]) -> float | None:
    """Return the mean; None where a server did not tell one of them."""
    listed = list(values)
    return None if None in listed else _mean(value for value in listed if value is not None)


def _natural(entry: tuple[str, Any]) -> float:
    """Sort "15 s" before "600 s"; names stay in the order they come in."""
    head = entry[0].split(" ")[0]
    return float(head) if head.isdigit() else float("inf")
