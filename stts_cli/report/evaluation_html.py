"""Write an evaluation as a page for a browser, results.html: tables, curve, the questions that arms answer differently.

In: the document of `evaluation.suite.run_benchmarks`, and small pictures of the clips of some questions. Out: one
self-contained file in the folder, and in that of each benchmark of a suite.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stts_cli.errors import writing
from stts_cli.evaluation.changed import LONGEST, changed_questions
from stts_cli.report.evaluation_page import comparison_line
from stts_cli.report.evaluation_tables import (
    SUITE_NOTE,
    Table,
    benchmark_tables,
    footer_lines,
    header_lines,
    suite_tables,
)
from stts_cli.report.page import alike, escape, fill, gallery, paragraphs
from stts_cli.report.pictures import Kept
from stts_cli.report.terminal import Document

if TYPE_CHECKING:
    from stts_cli.engine.results import Video

MOST_FRAMES = 12  # of a clip
MOST_BYTES = 19_000_000  # of the questions of a page, which is 20 MB at most
MOST_LETTERS = 500  # of a question or a reply


class Thumbnails:
    """Small pictures of clips, by benchmark and question; `add` is what `run_benchmarks` is to call."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, dict[str, Kept]]] = {}

    def add(self, bench: str, questions: Sequence[str], videos: Mapping[str, tuple[Video, np.ndarray]]) -> None:
        """Keep what each arm, by name, kept of the clip of some questions; arms may share the frames that are shown."""
        smaller: dict[int, np.ndarray] = {}
        kept = {}
        for name, (video, frames) in videos.items():
            small = dataclasses.replace(Kept.of(video), frames=frames).small(MOST_FRAMES, LONGEST)
            same = smaller.setdefault(id(frames), small.frames)
            kept[name] = dataclasses.replace(small, frames=same)
        self._kept.setdefault(bench, {}).update(dict.fromkeys(questions, kept))

    def of(self, bench: str) -> dict[str, dict[str, Kept]]:
        """Return what there is of a benchmark: by question and arm."""
        return self._kept.get(bench, {})


def write_html(document: Document, folder: Path, thumbnails: Thumbnails) -> None:
    """Write results.html, and one in the folder of each benchmark of a suite; EnvironmentFailure where that fails."""
    for each in document.get("benchmarks", ()):
        write_html(each, folder / each["bench"], thumbnails)
    with writing(folder / "results.html"):
        plot = folder / "plot.svg"
        is_drawn = importlib.util.find_spec("matplotlib") is not None and plot.exists()
        text = page(document, thumbnails, plot.read_bytes() if is_drawn else None)
        (folder / "results.html").write_text(text, encoding="utf-8")


def page(document: Document, thumbnails: Thumbnails, plot: bytes | None) -> str:
    """Return the page of a benchmark, or of a suite, which links to its benchmarks'; `plot` is an SVG."""
    benchmarks = document.get("benchmarks", [document])
    is_suite = "benchmarks" in document
    lines = (
        ["demonstration model: says nothing about real video"] if any(b["is_demonstration"] for b in benchmarks) else []
    )
    about = paragraphs(lines, "warning")
    if is_suite:
        title, tables = document["suite"], suite_tables(document, len(benchmarks[0]["arms"]))
        links = "".join(f'<li><a href="{_address(each)}">{escape(each["title"])}</a></li>' for each in benchmarks)
        changed, below = f"<ul>{links}</ul>", [SUITE_NOTE]
    else:
        title, tables = (
            f"{document['title']}, {document['split']} split",
            benchmark_tables(document, len(document["arms"])),
        )
        pairs = [*document["comparisons"], *document.get("other_pairs", ())]
        about += paragraphs(header_lines(document))
        changed, below = _changed(document, thumbnails.of(document["bench"])), footer_lines(document)
        below += map(comparison_line, pairs)
    uri = "" if plot is None else base64.b64encode(plot).decode()
    return fill(
        "results",
        ["gallery.js", "results.js"],
        title=escape(title),
        about=about,
        tables="\n".join(map(_table, tables)) + paragraphs(below, "faint"),
        curve=f'<img class="curve" alt="accuracy against FLOPs" src="data:image/svg+xml;base64,{uri}">'
        if plot
        else paragraphs(["not drawn: matplotlib is not installed"], "faint"),
        changed=changed,
    )


def _address(benchmark: Document) -> str:
    from urllib.parse import quote

    return escape(f"{quote(benchmark['bench'])}/results.html")


def _table(table: Table) -> str:
    rows = [f"<tr>{''.join(f'<th>{escape(heading)}</th>' for heading in table.headings)}</tr>"]
    rows += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows if row]
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _changed(document: Document, kept: Mapping[str, Mapping[str, Kept]]) -> str:
    """Write the questions that two arms answer differently, with the switches that say which are shown."""
    arms = list(document["arms"])
    changed = changed_questions(document["samples"])
    if len(arms) < 2:
        return paragraphs(["There is one arm; with --compare a page shows what pruning changed."])
    written, size = [], 0
    for question, rows in changed.items():
        text = _question(arms, rows)
        if size + len(text.encode()) > MOST_BYTES:
            break
        written.append([text, question])
        size += len(text.encode())
    for number, each in enumerate(written):
        pictures = _galleries(kept.get(each[1], {}), number)
        if size + len(pictures) <= MOST_BYTES:
            each[0] = each[0].replace("</article>", pictures + "</article>")
            size += len(pictures)
    left_out = len(changed) - len(written)
    more = paragraphs([f"{left_out:,} more questions changed; they are in samples.jsonl."]) if left_out else ""
    types = dict.fromkeys(name for rows in changed.values() for name in _types(next(iter(rows.values()))))
    return (
        f'<form class="switches"><label>From <select id="from">{_options(arms, 0)}</select></label> '
        f'<label>to <select id="to">{_options(arms, 1)}</select></label> '
        f'<label>Type <select id="type"><option value="">all</option>{_options(types)}</select></label></form>\n'
        '<h3 id="broke" aria-live="polite"></h3><div class="changed"></div>\n'
        '<h3 id="mended" aria-live="polite"></h3><div class="changed"></div>\n'
        f'<div id="questions">{"".join(text for text, _ in written)}</div>{more}'
    )


def _options(names: Sequence[str] | Mapping[str, None], chosen: int | None = None) -> str:
    return "".join(
        f'<option value="{escape(name) if chosen is None else number}"{" selected" if number == chosen else ""}>'
        f"{escape(name)}</option>"
        for number, name in enumerate(names)
    )


def _question(arms: Sequence[str], rows: Mapping[str, Document]) -> str:
    """Write a question with each arm's reply; the page's script reads from it who was right, and its types."""
    first = next(iter(rows.values()))
    lines = [f"<dt>answer</dt><dd>{escape(_short(first['answer']))}</dd>"]
    for arm in arms:
        verdict = {1: "right", 0: "wrong"}.get(rows[arm]["correct"], "")
        said = rows[arm].get("error") or rows[arm].get("text", "")
        lines.append(f'<dt>{escape(arm)}</dt><dd>{escape(_short(said))} <span class="{verdict}">{verdict}</span></dd>')
    correct = "".join({1: "1", 0: "0"}.get(rows[arm]["correct"], "-") for arm in arms)
    types = _types(first)
    about = ", ".join([first["video"], *types])
    return (
        f'<article class="question" data-correct="{correct}" data-types="{escape(json.dumps(types))}">'
        f'<h4>{escape(_short(first["question"]))}</h4><p class="faint">{escape(about)}</p>'
        f"<dl>{''.join(lines)}</dl></article>\n"
    )


def _types(row: Document) -> list[str]:
    return [f"{name}: {value}" for name, values in row["groups"].items() for value in values]


def _galleries(kept: Mapping[str, Kept], number: int) -> str:
    return "".join(gallery(group, f"question-{number}-{i}") for i, group in enumerate(alike(kept)))


def _short(text: object) -> str:
    words = str(text)
    return words if len(words) <= MOST_LETTERS else words[:MOST_LETTERS] + "\u2026"
