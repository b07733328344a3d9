"""Show an evaluation: tables of accuracy beside cost; and the list of benchmarks.

In: the document of `evaluation.suite.run_benchmarks`. Out: text; tables and JSON on stdout, notes on stderr. No torch.
"""

from __future__ import annotations

import rich.table

from stts_cli.report.evaluation_tables import (
    SUITE_NOTE,
    Table,
    benchmark_tables,
    footer_lines,
    header_lines,
    suite_tables,
)
from stts_cli.report.terminal import Document, Screen, plain_table, print_json, print_lines, print_note

COLUMNS = 4  # arms beside each other


def show_evaluation(document: Document, *, json_only: bool) -> None:
    """Print the document of a benchmark, or of a suite: tables, or with `json_only` itself."""
    for each in document.get("benchmarks", [document]):
        for line in each["notes"]:
            print_note(f"{each['bench']}: {line}")
        if each.get("missing"):
            listed = ", ".join(each["missing"][:5]) + (", ..." if len(each["missing"]) > 5 else "")
            print_note(f"{each['bench']}: {len(each['missing'])} videos are missing: {listed}")
    if json_only:
        print_json(document)
    elif "benchmarks" in document:
        Screen().show(*map(_drawn, suite_tables(document, COLUMNS)), SUITE_NOTE)
    else:
        tables = map(_drawn, benchmark_tables(document, COLUMNS))
        Screen().show(*header_lines(document), *tables, *footer_lines(document))


def show_list(rows: list[Document], *, json_only: bool) -> None:
    """Print the benchmarks there are: rows of `evaluation.benchmarks.registry.describe`."""
    if json_only:
        return print_json(rows)
    lines = [f"{'name':16} {'class':5} {'questions':>9} {'videos':>6}  download"]
    for row in rows:
        counts = [f"{row[key]:,}" if row[key] else "" for key in ("questions", "videos")]
        lines.append(f"{row['name']:16} {row['class']:5} {counts[0]:>9} {counts[1]:>6}  {row['download'] or '?'}")
        terms = f"accept the terms at {row['terms']}" if row["terms"] else "open"
        splits, scorings = ", ".join(row["splits"]), ", ".join(row["scorings"])
        lines.append(f"    splits {splits}; scoring {scorings}; licence: {row['licence']}; {terms}")
    last = (
        "Defaults come first. A file of your own: --bench items.jsonl, .json, .csv. Suites: all-short, all-long, all."
    )
    print_lines(*lines, last)


def _drawn(table: Table) -> rich.table.Table:
    """Return a table for the terminal."""
    drawn = plain_table(*table.headings)
    for row in table.rows:
        if row is None:
            drawn.add_section()
        else:
            drawn.add_row(*row)
    return drawn
