"""Write a result where it stays: results.json and results.md. samples.jsonl is the journal's, plot.svg `report`'s."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from stts_cli.errors import writing
from stts_cli.text import printable, to_json

Document = dict[str, Any]
# an underline inside a word is one
_MARKUP = re.compile(r"([\\`*\[\]|]|(?<!\w)_|_(?!\w))")


def write_results(document: Document, folder: Path) -> None:
    """Write a document's files into a folder.

    Args:
        document: of a benchmark, or of a suite.
        folder: made if it is not there.

    Raises:
        EnvironmentFailure: it cannot be written.
    """
    texts = {
        "results.json": to_json(without_samples(document), indent=2) + "\n",
        "results.md": "\n".join(markdown(document)) + "\n",
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with writing(folder / name):
            (folder / name).write_text(text, encoding="utf-8")


def without_samples(document: Document) -> Document:
    """Return a document without its single answers."""
    short = {key: value for key, value in document.items() if key != "samples"}
    if "benchmarks" in short:
        short["benchmarks"] = [without_samples(each) for each in short["benchmarks"]]
    return short


def markdown(document: Document) -> list[str]:
    """Return a result as the lines of a Markdown page.

    Args:
        document: of a benchmark, or of a suite.
    """
    if "benchmarks" in document:
        return _suite_page(document)
    arms = document["arms"]
    first = next(iter(arms.values()))
    lines = [f"# {literal(document['title'])}, {literal(document['split'])} split", ""]
    if document["is_demonstration"]:
        lines += ["Demonstration model: says nothing about real video.", ""]
    if document["remark"]:
        lines += [literal(f"{document['remark'][0].upper()}{document['remark'][1:]}."), ""]
    lines += _arm_rows(document)
    for name, table in first["groups"].items():
        rows = []
        for value, score in table.items():
            shares = [arm["groups"].get(name, {}).get(value, {}).get("accuracy") for arm in arms.values()]
            rows.append([value, f"{score['n']:,}", _percent(score["chance"]), *map(_percent, shares)])
        lines += ["", f"## By {literal(name)}", "", *_table([name, "questions", "chance %", *arms], rows)]
    pairs = [*document["comparisons"], *document.get("other_pairs", ())]
    lines += ["", "## Pairs", ""] if pairs else []
    lines += [f"- {literal(comparison_line(each))}" for each in pairs]
    counts = f"{first['n']:,} of {first['n_total']:,} questions scored; {first['n_errors']} failed"
    lines += ["", f"{counts}; {document['num_missing']} left out, their videos missing.", "", "```json"]
    return [*lines, json.dumps(document["config"], indent=2).replace("`", "\\u0060"), "```"]


def _arm_rows(document: Document) -> list[str]:
    """Return the table of all arms, a row each; differences and ratios are against the first."""
    arms = document["arms"]
    times = document.get("times", {}).get("arms", {})
    mean = next(iter(arms.values()))["mean"]
    headings = ["arm", f"accuracy ({mean}) %", "over questions (micro) %", "difference (micro), points", "p"]
    headings += ["unparsed %", "visual tokens a video", "FLOPs a question", "ratio"]
    headings += ["seconds a clip", "ratio"] if times else []
    pairs = {each["arm"]: each for each in document["comparisons"]}
    rows = []
    for name, arm in arms.items():
        pair = pairs.get(name, {"difference": None, "flops_ratio": None})
        row = [name, _percent(arm["accuracy"]), _percent(arm["micro"])]
        row[2] += " ({} to {})".format(*map(_percent, arm["interval"])) if arm["interval"] else ""
        row += [_points(pair), "" if pair["difference"] is None else f"{pair['mcnemar_p']:.3g}"]
        row += [_percent(arm["unparsed_rate"]), f"{arm['visual_tokens'] or 0:,.1f}", f"{arm['flops'] or 0:.4g}"]
        row.append(_ratio(pair["flops_ratio"], 3))
        row += [f"{times[name]['seconds']:.3f}", _ratio(times[name]["ratio"], 3)] if times else []
        rows.append([*row, f"{arm['peak_bytes'] / 2**20:,.0f}" if arm["peak_bytes"] else ""])
    how = ["", literal(document["times"]["how"])] if "times" in document else []
    return [*_table([*headings, "peak memory, MiB"], rows), *how]


def comparison_line(comparison: Document) -> str:
    """Return a comparison of two arms in a sentence.

    Args:
        comparison: from `metrics.compare`, with "arm" and "against".
    """
    if comparison["difference"] is None:
        return f"{comparison['arm']} - {comparison['against']}: no question is scored in both"
    points = f"{comparison['difference'] * 100:+.1f} points"
    if comparison["interval"]:
        points += " (95% interval {:+.1f} to {:+.1f})".format(*(100 * end for end in comparison["interval"]))
    flops = f"; {comparison['flops_ratio']:.2f} x FLOPs" if comparison["flops_ratio"] is not None else ""
    return (
        f"{comparison['arm']} - {comparison['against']}: {points} over {comparison['n']:,} questions; right alone "
        f"{comparison['only_a']} against {comparison['only_b']}, McNemar p = {comparison['mcnemar_p']:.3g}{flops}"
    )


def _suite_page(document: Document) -> list[str]:
    arms = list(document["benchmarks"][0]["arms"])
    lines = [f"# {literal(document['suite'])}", ""]
    if any(each["is_demonstration"] for each in document["benchmarks"]):
        lines += ["Demonstration model: says nothing about real video.", ""]
    note = (
        "Points: against the first arm, on the same questions, of the same mean as the % beside them (each benchmark's "
        "own: over questions, micro, or over the groups of a breakdown, macro); all: the mean of the benchmarks. "
        "Costs: shares of its."
    )
    rows = []
    for each in document["benchmarks"]:
        mean = next(iter(each["arms"].values()))["mean"]
        shares = [_percent(arm["accuracy"]) for arm in each["arms"].values()]
        rows.append([f"{each['title']}, {each['split']}, {each['scoring']}", each["class"], mean, *shares])
    for name, means in document["averages"].items():
        rows.append([f"{name} average", "", "of the above", *map(_percent, means.values())])
    if document.get("paper"):
        figures = ["" if arm not in document["paper"] else f"{document['paper'][arm]:.1f}" for arm in arms]
        rows.append(["the paper, all", "", "", *figures])
    lines += [*suite_rows(document), "", note, "", *_table(["benchmark", "class", "mean", *arms], rows, left=3)]
    for each in document["benchmarks"]:
        lines += ["", *(f"#{line}" if line.startswith("#") else line for line in markdown(each))]
    return lines


def suite_rows(document: Document) -> list[str]:
    """Return a suite as a Markdown table with a row an arm: accuracy by class, what it differs by, what it costs.

    Args:
        document: of a suite.
    """
    classes = list(document["averages"])
    whole = document["differences"]["all"]
    costs = {"tokens_ratio": "tokens", "flops_ratio": "FLOPs"}
    costs |= {"seconds_ratio": "time"} if any("seconds_ratio" in pair for pair in whole.values()) else {}
    rows = []
    for arm in document["benchmarks"][0]["arms"]:
        row = [arm]
        for name in classes:
            row += [_percent(document["averages"][name][arm]), _points(document["differences"][name].get(arm))]
        rows.append([*row, *(_ratio(whole[arm][key], 2) if arm in whole else "1" for key in costs)])
    return _table(["arm", *(cell for name in classes for cell in (f"{name} %", "points")), *costs.values()], rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return a Markdown table, set right from behind its first `left` columns on."""
    lines = [headings, ["---"] * left + ["---:"] * (len(headings) - left), *rows]
    return [f"| {' | '.join(map(literal, cells))} |" for cells in lines]


def literal(text: str) -> str:
    """Write text so that Markdown shows it as it is: no table's bar, HTML, emphasis, link or second line."""
    return _MARKUP.sub(r"\\\1", escape(" ".join(printable(text).split())))


def _points(pair: Document | None) -> str:
    """Return a difference with its interval, in points; "" where there is none."""
    if pair is None or pair["difference"] is None:
        return ""
    between = " ({:+.1f} to {:+.1f})".format(*(100 * end for end in pair["interval"])) if pair["interval"] else ""
    return f"{100 * pair['difference']:+.1f}{between}"


def _ratio(ratio: float | None, digits: int) -> str:
    return "" if ratio is None else f"{ratio:.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.1f}"
