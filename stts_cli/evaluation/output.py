"""Write a result where it stays: results.json and results.md. samples.jsonl is the journal's, plot.svg `report`'s."""

from __future__ import annotations

import json
import re
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
        lines += ["", f"## By {literal(name)}", "", _line(name, "questions", "chance %", *arms)]
        lines.append(_line("---", *("---:" for _ in range(len(arms) + 2))))
        for value, score in table.items():
            shares = [arm["groups"].get(name, {}).get(value, {}).get("accuracy") for arm in arms.values()]
            lines.append(_line(value, f"{score['n']:,}", _percent(score["chance"]), *map(_percent, shares)))
    pairs = [*document["comparisons"], *document.get("other_pairs", ())]
    lines += ["", "## Pairs", ""] if pairs else []
    lines += [f"- {literal(comparison_line(each))}" for each in pairs]
    counts = f"{first['n']:,} of {first['n_total']:,} questions scored; {first['n_errors']} failed"
    lines += ["", f"{counts}; {document['num_missing']} left out, their videos missing.", "", "```json"]
    return [*lines, json.dumps(document["config"], indent=2).replace("`", "\\u0060"), "```"]


def _arm_rows(document: Document) -> list[str]:
    """Return the table of all arms, a row each; differences and ratios are against the first."""
    arms = document["arms"]
    mean = next(iter(arms.values()))["mean"]
    headings = ["arm", f"accuracy ({mean}) %", "over questions (micro) %", "difference (micro), points"]
    headings += ["p", "unparsed %"]
    times = document.get("times", {}).get("arms", {})
    headings += ["visual tokens a video", "FLOPs a question", "ratio"]
    headings += ["seconds a clip", "ratio"] if times else []
    headings.append("peak memory, MiB")
    lines = [_line(*headings), _line("---", *["---:"] * (len(headings) - 1))]
    pairs = {each["arm"]: each for each in document["comparisons"]}
    for name, arm in arms.items():
        pair = pairs.get(name)
        difference, p = "", ""
        if pair and pair["difference"] is not None:
            difference, p = _signed(pair["difference"], pair["interval"]), f"{pair['mcnemar_p']:.3g}"
        shares = [_percent(arm["accuracy"]), _with_interval(arm["micro"], arm["interval"])]
        peak = f"{arm['peak_bytes'] / 2**20:,.0f}" if arm["peak_bytes"] else ""
        cost = [f"{arm['visual_tokens'] or 0:,.1f}", f"{arm['flops'] or 0:.4g}"]
        cost.append(_ratio(pair["flops_ratio"] if pair else None, 3))
        cost += [f"{times[name]['seconds']:.3f}", _ratio(times[name]["ratio"], 3)] if times else []
        lines.append(_line(name, *shares, difference, p, _percent(arm["unparsed_rate"]), *cost, peak))
    return [*lines, "", literal(document["times"]["how"])] if "times" in document else lines


def comparison_line(comparison: Document) -> str:
    """Return a comparison of two arms in a sentence.

    Args:
        comparison: from `metrics.compare`, with "arm" and "against".
    """
    if comparison["difference"] is None:
        return f"{comparison['arm']} - {comparison['against']}: no question is scored in both"
    points = f"{comparison['difference'] * 100:+.1f} points"
    if comparison["interval"]:
        points += f" (95% interval {_ends(comparison['interval'])})"
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
    lines += [*suite_rows(document), "", note, ""]
    lines += [_line("benchmark", "class", "mean", *arms), _line("---", "---", "---", *["---:"] * len(arms))]
    for each in document["benchmarks"]:
        shares = [_percent(arm["accuracy"]) for arm in each["arms"].values()]
        mean = next(iter(each["arms"].values()))["mean"]
        lines.append(_line(f"{each['title']}, {each['split']}, {each['scoring']}", each["class"], mean, *shares))
    for name, means in document["averages"].items():
        lines.append(_line(f"{name} average", "", "of the above", *(_percent(share) for share in means.values())))
    if document.get("paper"):
        figures = ("" if arm not in document["paper"] else f"{document['paper'][arm]:.1f}" for arm in arms)
        lines.append(_line("the paper, all", "", "", *figures))
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
    timed = any("seconds_ratio" in pair for pair in whole.values())
    headings = ["arm", *(heading for name in classes for heading in (f"{name} %", "points"))]
    headings += ["tokens", "FLOPs", *(["time"] if timed else [])]
    lines = [_line(*headings), _line("---", *["---:"] * (len(headings) - 1))]
    for arm in document["benchmarks"][0]["arms"]:
        cells = []
        for name in classes:
            pair = document["differences"][name].get(arm)
            points = "" if pair is None or pair["difference"] is None else _signed(pair["difference"], pair["interval"])
            cells += [_percent(document["averages"][name][arm]), points]
        keys = ["tokens_ratio", "flops_ratio", *(["seconds_ratio"] if timed else [])]
        cells += [_ratio(whole[arm][key], 2) if arm in whole else "1" for key in keys]
        lines.append(_line(arm, *cells))
    return lines


def _line(*cells: str) -> str:
    return f"| {' | '.join(map(literal, cells))} |"


def literal(text: str) -> str:
    """Write text so that Markdown shows it as it is: no table's bar, HTML, emphasis, link or second line."""
    return _MARKUP.sub(r"\\\1", escape(" ".join(printable(text).split())))


def _signed(difference: float, ends: tuple[float, float] | None) -> str:
    return f"{difference * 100:+.1f}" + (f" ({_ends(ends)})" if ends else "")


def _ratio(ratio: float | None, digits: int) -> str:
    return "" if ratio is None else f"{ratio:.{digits}f}"


def _ends(ends: tuple[float, float]) -> str:
    return "{:+.1f} to {:+.1f}".format(*(100 * end for end in ends))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.1f}"


def _with_interval(share: float | None, ends: tuple[float, float] | None) -> str:
    return _percent(share) + (f" ({_percent(ends[0])} to {_percent(ends[1])})" if ends else "")
