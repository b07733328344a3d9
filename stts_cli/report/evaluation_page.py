"""Write an evaluation as a Markdown page, results.md, beside its results.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.sax.saxutils import escape

from stts_cli.errors import writing
from stts_cli.report.evaluation_tables import (
    SUITE_NOTE,
    Table,
    benchmark_tables,
    footer_lines,
    header_lines,
    suite_tables,
)
from stts_cli.report.terminal import Document
from stts_cli.text import printable

_MARKUP = re.compile(r"([\\`*\[\]|]|(?<!\w)_|_(?!\w))")  # an underline inside a word is one


def write_pages(document: Document, folder: Path) -> None:
    """Write results.md, and one in the folder of each benchmark of a suite; EnvironmentFailure where that fails."""
    for each in document.get("benchmarks", ()):
        write_pages(each, folder / each["bench"])
    with writing(folder / "results.md"):
        (folder / "results.md").write_text("\n".join(markdown(document)) + "\n", encoding="utf-8")


def markdown(document: Document) -> list[str]:
    """Return the document of a benchmark, or of a suite, as the lines of a Markdown page."""
    benchmarks = document.get("benchmarks", [document])
    title = document["suite"] if "benchmarks" in document else f"{document['title']}, {document['split']} split"
    lines = [f"# {literal(title)}", ""]
    if any(each["is_demonstration"] for each in benchmarks):
        lines += ["Demonstration model: says nothing about real video.", ""]
    if "benchmarks" not in document:
        return [*lines, *_benchmark_lines(document)]
    lines += [*_table_lines(suite_tables(document, len(benchmarks[0]["arms"]))), *_list(SUITE_NOTE)]
    for each in benchmarks:
        lines += ["", *(f"#{line}" if line.startswith("#") else line for line in markdown(each))]
    return lines


def _benchmark_lines(document: Document) -> list[str]:
    arms = document["arms"]
    lines = [*_list(*header_lines(document)), "", *_table_lines(benchmark_tables(document, len(arms)))]
    first = next(iter(arms.values()))
    lines += _list(f"{first['n']:,} of {first['n_total']:,} questions scored", *footer_lines(document))
    pairs = [*document["comparisons"], *document.get("other_pairs", ())]
    lines += ["", "## Pairs", "", *_list(*map(comparison_line, pairs))] if pairs else []
    return [*lines, "", "```json", json.dumps(document["config"], indent=2).replace("`", "\\u0060"), "```"]


def comparison_line(comparison: Document) -> str:
    """Return a comparison of two arms in a sentence: `evaluation.metrics.compare`'s, with their names."""
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


def _list(*lines: str) -> list[str]:
    return [f"- {literal(line)}" for line in lines]


def _table_lines(tables: list[Table]) -> list[str]:
    lines = []
    for table in tables:
        rule = ["---", *["---:"] * (len(table.headings) - 1)]
        rows = [table.headings, rule, *filter(None, table.rows)]
        lines += [*(f"| {' | '.join(map(literal, row))} |" for row in rows), ""]
    return lines


def literal(text: str) -> str:
    """Write text so that Markdown shows it as it is: no table's bar, HTML, emphasis, link or second line."""
    return _MARKUP.sub(r"\\\1", escape(" ".join(printable(text).split())))
