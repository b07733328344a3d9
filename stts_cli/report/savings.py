"""What pruning saved, as rows of text: tokens, FLOPs by part, time by stage, memory; a terminal's table or HTML.

Both are drawn from one list of rows, so they cannot disagree. No torch.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import NamedTuple

from rich.table import Table

from stts_cli.report.terminal import Document, plain_table
from stts_cli.report.units import format_bytes, format_seconds, format_si
from stts_cli.text import printable

HEADINGS = ("", "dense", "pruned", "saved")
TOTAL = "FLOPs, total"
STAGES = {  # row -> stages that make it up; an arm that drops nothing runs every ViT block dense
    "preprocess": ("preprocess",),
    "ViT": ("vit_dense", "vit_packed"),
    "score, select, pack": ("score_select_pack",),
    "connector": ("connector",),
    "LLM prefill": ("llm_prefill",),
    "decode": ("decode",),
}


class Row(NamedTuple):
    """A row of the savings table; empty cells are of an arm that did not run."""

    label: str
    dense: str
    pruned: str
    ratio: float | None  # pruned to dense
    part: str  # "tokens", "FLOPs" or "measured": rows of one part stand together

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """What stands below `HEADINGS`."""
        return self.label, self.dense, self.pruned, "" if self.ratio is None else f"{1 - self.ratio:.1%}"


def savings_rows(document: Document, pruned: Document) -> list[Row]:
    """Return tokens, FLOPs by part, time by stage and memory of one arm of a run, beside its dense arm if any.

    The document is what `stts ask --json` prints; FLOPs and the time to the first token are its first question's.
    """
    dense = next((arm for arm in document["arms"] if arm["name"] == "dense"), None)
    kept = pruned["kept_per_frame"]
    unit = "frames" if pruned["frames_per_unit"] == 1 else f"units of {pruned['frames_per_unit']} frames"
    rows = [_row(f"{unit} with a token", "tokens", "{:,}".format, len(kept), sum(map(bool, kept)))]
    rows += counted_rows(pruned["answers"][0]["savings"])
    times = {f"time, {label}": [_stage_s(arm, stages) for arm in (dense, pruned)] for label, stages in STAGES.items()}
    times["time to first token"] = [arm["answers"][0]["ttft_s"] if arm else None for arm in (dense, pruned)]
    rows += [_row(label, "measured", format_seconds, *values) for label, values in times.items() if any(values)]
    peaks = [arm["peak_bytes"] if arm else None for arm in (dense, pruned)]
    return rows + ([_row("peak memory", "measured", format_bytes, *peaks)] if any(peaks) else [])


def counted_rows(savings: Document) -> list[Row]:
    """Return what is counted, not measured: "tokens" and "flops" give "dense" and "pruned" by name."""
    rows = [_row(name, "tokens", "{:,}".format, row["dense"], row["pruned"]) for name, row in savings["tokens"].items()]
    for name, row in savings["flops"].items():
        rows.append(_row(f"FLOPs, {name}", "FLOPs", format_si, row["dense"], row["pruned"]))
    return rows


def as_table(rows: list[Row]) -> Table:
    """Draw the rows for a terminal."""
    table = plain_table(*HEADINGS, no_wrap=True)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends = following is not None and following.part != row.part
        table.add_row(*row.cells, style="bold" if row.label == TOTAL else "", end_section=ends)
    return table


def as_html(rows: list[Row]) -> str:
    """Write the rows as an HTML table, for a notebook."""
    lines = [_html_row("th" if row.label == TOTAL else "td", row.cells) for row in rows]
    return "\n".join(["<table>", _html_row("th", HEADINGS), *lines, "</table>"])


def _html_row(tag: str, cells: tuple[str, ...]) -> str:
    sides = ("left", "right", "right", "right")
    styled = zip(sides, cells, strict=True)
    written = (f'<{tag} style="text-align: {side}">{escape(printable(cell))}</{tag}>' for side, cell in styled)
    return f"<tr>{''.join(written)}</tr>"


def _row(label: str, part: str, form: Callable[[float], str], dense: float | None, pruned: float | None) -> Row:
    left, right = ("" if value is None else form(value) for value in (dense, pruned))
    return Row(label, left, right, pruned / dense if dense and pruned is not None else None, part)


def _stage_s(arm: Document | None, stages: tuple[str, ...]) -> float | None:
    """Add up stages; None for an arm that did not run them."""
    return sum(arm["seconds"].get(stage, 0.0) for stage in stages) or None if arm else None
