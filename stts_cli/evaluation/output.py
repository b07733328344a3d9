"""Write a result where it stays: results.json, results.md and plot.svg. samples.jsonl is the journal's.

The picture is accuracy against FLOPs, one point an arm with its interval, as plain SVG: no package is needed for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from stts_cli.errors import writing
from stts_cli.text import printable, to_json

Document = dict[str, Any]
Point = tuple[str, float, float, tuple[float, float]]  # name, FLOPs, accuracy, the ends of its interval
WIDTH, HEIGHT, MARGIN = 640, 400, 64
LETTER, LINE = 7, 14  # pixels of a label's letter and line
COLORS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
)  # fmt: skip
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
        "plot.svg": plot(document),
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


def plot(document: Document) -> str:
    """Draw accuracy against FLOPs a question, a point an arm; of a suite the means over its benchmarks.

    Args:
        document: of a benchmark, or of a suite.

    Returns:
        An SVG document.
    """
    title = document["suite"] if "benchmarks" in document else document["title"]
    points = _suite_points(document) if "benchmarks" in document else _points(document)
    top = max((flops for _, flops, _, _ in points), default=0.0) * 1.15 or 1.0
    low = max(0.0, min((ends[0] for *_, ends in points), default=0.0) - 0.05)
    high = min(1.0, max((ends[1] for *_, ends in points), default=1.0) + 0.05)

    def x(flops: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * flops / top

    def y(share: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (share - low) / ((high - low) or 1.0)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="14">{escape(printable(title))}: accuracy '
        "against FLOPs</text>",
        f'<path d="M{MARGIN} {MARGIN / 1.5} V{HEIGHT - MARGIN} H{WIDTH - MARGIN / 2}" fill="none" stroke="black"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 16}" text-anchor="middle">FLOPs a question</text>',
    ]
    for step in range(5):
        share, flops = low + (high - low) * step / 4, top * step / 4
        parts.append(f'<text x="{MARGIN - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
        parts.append(f'<text x="{x(flops):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{flops:.2g}</text>')
    arms = (document["benchmarks"][0] if "benchmarks" in document else document)["config"]["arms"]
    colors = _colors([name for name, *_ in points], arms)
    for color in dict.fromkeys(colors.values()):  # a line through one scorer's keep ratios
        line = sorted((flops, share) for name, flops, share, _ in points if colors[name] == color)
        path = " L".join(f"{x(flops):.1f} {y(share):.1f}" for flops, share in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-opacity="0.5"/>')
    for name, flops, _, ends in points:
        where = f"{x(flops):.1f}"
        parts.append(f'<path d="M{where} {y(ends[0]):.1f} V{y(ends[1]):.1f}" stroke="{colors[name]}"/>')
    for name, flops, share, _ in points:
        parts.append(f'<circle cx="{x(flops):.1f}" cy="{y(share):.1f}" r="5" fill="{colors[name]}"/>')
    for name, left, height in _labels([(name, x(flops), y(share)) for name, flops, share, _ in points]):
        parts.append(f'<text x="{left + 9:.1f}" y="{height + 4:.1f}">{escape(printable(name))}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _colors(names: list[str], arms: Document) -> dict[str, str]:
    """Give arms that differ in their keep ratio only the same colour; there are ten, then they start again."""
    series = [
        tuple(value for key, value in arms.get(name, {"": name}).items() if key != "keep_ratio") for name in names
    ]
    order = list(dict.fromkeys(series))
    return {name: COLORS[order.index(one) % len(COLORS)] for name, one in zip(names, series, strict=True)}


def _labels(places: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Move labels down until none covers another."""
    placed: list[tuple[str, float, float]] = []
    for name, left, height in sorted(places, key=lambda place: place[2]):
        for other, its_left, its_height in placed:
            width = LETTER * len(other if its_left < left else name) + 9
            if abs(left - its_left) < width and height - its_height < LINE:
                height = its_height + LINE
        placed.append((name, left, height))
    return placed


def _points(document: Document) -> list[Point]:
    return [
        (name, arm["flops"] or 0.0, arm["micro"] or 0.0, arm["interval"] or (arm["micro"] or 0.0,) * 2)
        for name, arm in document["arms"].items()
    ]


def _suite_points(document: Document) -> list[Point]:
    points = []
    for name, share in document["averages"].get("all", {}).items():
        flops = [each["arms"][name]["flops"] or 0.0 for each in document["benchmarks"]]
        points.append((name, sum(flops) / len(flops), share, (share, share)))
    return points


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
