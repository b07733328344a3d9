"""The tables and lines of an evaluation as plain text: `evaluate` prints them, `evaluation_page` writes Markdown.

In: the document of `evaluation.suite.run_benchmarks`. Out: cells and sentences.
"""

from __future__ import annotations

from typing import NamedTuple

from stts_cli.report.terminal import Document
from stts_cli.report.units import format_bytes, format_seconds, format_si

COSTS = {"tokens_ratio": "tokens", "flops_ratio": "FLOPs", "seconds_ratio": "time"}  # of a suite; times if asked for
SUITE_NOTE = (
    "points: on the same questions, of the mean that each benchmark's accuracy is (over questions, micro, or over the "
    "groups of a breakdown, macro); all: the mean of the benchmarks; tokens, FLOPs, time: ratios"
)


class Table(NamedTuple):
    """Headings, and rows of a label and figures; None for a rule between rows."""

    headings: list[str]
    rows: list[list[str] | None]


def benchmark_tables(document: Document, columns: int) -> list[Table]:
    """Return accuracy by every breakdown, `columns` arms side by side, then accuracy and cost of every arm."""
    first, parts = next(iter(document["arms"].values())), _in_parts(document["arms"], columns)
    tables = [_group_table(document, name, some) for some in parts for name in first["groups"]]
    means = _means_table({f"accuracy ({first['mean']})": document["seeds"]})
    return [*tables, _accuracy_table(document), *means, _cost_table(document)]


def suite_tables(document: Document, columns: int) -> list[Table]:
    """Return accuracy by benchmark with averages, `columns` arms side by side, then how far arms differ."""
    tables = []
    arms = document["benchmarks"][0]["arms"]
    for some in _in_parts(arms, columns):
        rows: list[list[str] | None] = []
        for each in document["benchmarks"]:
            scores = [each["arms"][name] for name in some]
            words = [each["bench"], each["class"], each["split"], f"{scores[0]['n']:,}", scores[0]["mean"]]
            rows.append([*words, *(_percent(score["accuracy"]) for score in scores)])
        rows.append(None)
        for name, means in document["averages"].items():
            rows.append([f"{name} average", "", "", "", "of these", *(_percent(means[arm]) for arm in some)])
        if document.get("paper"):
            figures = ["" if arm not in document["paper"] else f"{document['paper'][arm]:.1f}%" for arm in some]
            rows.append(["the paper, all", "", "", "", "", *figures])
        tables.append(Table([document["suite"], "class", "split", "questions", "mean", *some], rows))
    tables += [_differences_table(document)] if len(arms) > 1 else []
    return tables + _means_table(document["seeds"])


def header_lines(document: Document) -> list[str]:
    """Return what a benchmark's result is of: the questions, and a line an arm."""
    config, first = document["config"], next(iter(document["arms"].values()))
    demonstration = " (demonstration model)" if document["is_demonstration"] else ""
    lines = [
        f"{document['bench']}, {document['split']} split, {document['title']}: {first['videos']} clips, "
        f"{first['n_total']:,} questions, {document['scoring']} scoring{demonstration}"
    ]
    for name, arm in config["arms"].items():
        if "engine" in document:
            ratio = "the server's" if arm["keep_ratio"] is None else f"{arm['keep_ratio']:g}"
            how = f"at most {arm['frames']} frames and {arm['max_fps']:g} a second, sent as {arm['send']}"
            lines.append(f"{name}: {arm['model']} at {document['engine']}, {how}, keep ratio {ratio}")
            continue
        kept = (
            "every window kept"
            if arm["keep_ratio"] == 1
            else f"{arm['scorer']} scorer, keep ratio {arm['keep_ratio']:g} (drop ratio {1 - arm['keep_ratio']:g})"
        )
        lines.append(
            f"{name}: {arm['model']}, at most {arm['frames']} frames and {arm['max_fps']:g} a second, {kept}, "
            f"{arm['dtype']} on {config['device']}"
        )
    return lines + ([f"note: {document['remark']}"] if document["remark"] else [])


def footer_lines(document: Document) -> list[str]:
    """Return how the figures of a benchmark's tables came about, and what is not in them."""
    first_name, first = next(iter(document["arms"].items()))
    lines = []
    if document["comparisons"]:
        lines.append(
            f"points and ratios: against {first_name}, on the same questions; paired 95%: bootstrap over videos; "
            "p: McNemar"
        )
    lines.append(
        "tokens: means a question, visual ones a video, as the server counts them; time to first token: median, from "
        "the request on"
        if "engine" in document
        else "FLOPs: a question asked alone"
    )
    if cut := [f"{name} {arm['n_cut']:,}" for name, arm in document["arms"].items() if arm.get("n_cut")]:
        limit = document["config"]["max_new_tokens"]
        lines.append(f"cut at {limit} tokens, so perhaps unread: {', '.join(cut)} answers; --max-new-tokens gives more")
    lines += [document["times"]["how"]] if "times" in document else []
    counts = {
        "failed": first["n_errors"],
        "without a public answer": first["n_unscored"],
        "left out by the rule, unread": first["n_left_out"],
        "about missing videos": document["num_missing"],
    }
    left_out = [f"{number:,} questions {label}" for label, number in counts.items() if number]
    return lines + ([f"not scored: {', '.join(left_out)}"] if left_out else [])


def _in_parts(arms: dict[str, Document], columns: int) -> list[dict[str, Document]]:
    names = list(arms)
    return [{name: arms[name] for name in names[i : i + columns]} for i in range(0, len(names), columns)]


def _group_table(document: Document, name: str, arms: dict[str, Document]) -> Table:
    first = next(iter(document["arms"].values()))
    rows: list[list[str] | None] = []
    for value, score in first["groups"][name].items():
        shares = [arm["groups"].get(name, {}).get(value, {}).get("accuracy") for arm in arms.values()]
        rows.append([value, f"{score['n']:,}", _percent(score["chance"]), *map(_percent, shares)])
    mark = ", headline" if first["headline"] == name else ""
    rows.append([f"mean of these (macro{mark})", "", "", *(_percent(arm["macro"].get(name)) for arm in arms.values())])
    shares = [arm["micro"] for arm in arms.values()]
    rows += [None, ["all (micro)", f"{first['n']:,}", _percent(first["chance"]), *map(_percent, shares)]]
    return Table([name, "questions", "chance", *arms], rows)


def _accuracy_table(document: Document) -> Table:
    pairs = {each["arm"]: each for each in document["comparisons"]}
    rows: list[list[str] | None] = []
    for name, arm in document["arms"].items():
        own = "{:.1f}-{:.1f}%".format(*(100 * end for end in arm["interval"])) if arm["interval"] else ""
        points = ["", "", ""]
        if name in pairs and pairs[name]["difference"] is not None:
            pair = pairs[name]
            points = [f"{pair['difference'] * 100:+.1f}", _ends(pair["interval"]), f"{pair['mcnemar_p']:.2g}"]
        rows.append([name, _percent(arm["micro"]), own, *points, _percent(arm["unparsed_rate"])])
    return Table(["all questions (micro)", "right", "95% interval", "points", "paired 95%", "p", "unparsed"], rows)


def _cost_table(document: Document) -> Table:
    if "engine" in document:
        return _server_table(document)
    times = document.get("times", {}).get("arms", {})
    arms = document["arms"]
    with_peak = any(arm["peak_bytes"] for arm in arms.values())
    headings = ["cost", "visual tokens", "FLOPs a question", "ratio", *(("time a clip", "ratio") if times else ())]
    pairs = {each["arm"]: each for each in document["comparisons"]}
    rows: list[list[str] | None] = []
    for name, arm in arms.items():
        row = [name, f"{arm['visual_tokens'] or 0.0:,.0f}", format_si(arm["flops"] or 0.0)]
        row.append(_ratio(pairs.get(name, {}).get("flops_ratio")))
        row += [format_seconds(times[name]["seconds"]), _ratio(times[name]["ratio"])] if times else []
        row += [format_bytes(arm["peak_bytes"]) if arm["peak_bytes"] else ""] if with_peak else []
        rows.append(row)
    return Table([*headings, *(["peak memory"] if with_peak else [])], rows)


def _server_table(document: Document) -> Table:
    rows: list[list[str] | None] = []
    for name, arm in document["arms"].items():
        told = arm.get("server", {})
        counts = (arm["visual_tokens"], told.get("prompt_tokens"), told.get("new_tokens"))
        ttft_s = told.get("ttft_s")
        cells = ["" if count is None else f"{count:,.0f}" for count in counts]
        rows.append([name, *cells, "" if ttft_s is None else format_seconds(ttft_s)])
    return Table(["cost", "visual tokens", "prompt tokens", "new tokens", "time to first token"], rows)


def _differences_table(document: Document) -> Table:
    classes = document["differences"]
    costs = [key for key in COSTS if key in next(iter(classes["all"].values()))]
    rows: list[list[str] | None] = []
    for name in classes["all"]:
        row = [name]
        for pairs in classes.values():
            difference, ends = pairs[name]["difference"], pairs[name]["interval"]
            between = f" ({_ends(ends)})" if ends else ""
            row.append("" if difference is None else f"{100 * difference:+.1f}{between}")
        rows.append([*row, *(_ratio(classes["all"][name][key]) for key in costs)])
    first = next(iter(document["benchmarks"][0]["arms"]))
    return Table([f"points against {first}", *classes, *(COSTS[key] for key in costs)], rows)


def _means_table(columns: dict[str, Document]) -> list[Table]:
    """Return a table of means over seeds where there are any: heading -> `evaluation.seeds.summarize_seeds`."""
    rows: list[list[str] | None] = []
    for name, first in next(iter(columns.values()), {}).items():
        row = [name, str(len(first["arms"]))]
        for column in columns.values():
            std = column[name]["std"]
            row.append(_percent(column[name]["mean"]) + ("" if std is None else f" \u00b1 {std:.1%}"))
        rows.append(row)
    return [Table(["mean \u00b1 std over seeds", "seeds", *columns], rows)] if rows else []


def _ends(ends: tuple[float, float] | None) -> str:
    return "{:+.1f} to {:+.1f}".format(*(100 * end for end in ends)) if ends else "unknown"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} x"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
