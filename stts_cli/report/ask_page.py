"""Write a run of `ask` as one self-contained HTML page: the frames with what was kept, answers, savings.

In: the run's document, as `report.ask` takes it, and what each arm kept. Out: a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stts_cli.errors import writing
from stts_cli.report.ask import arm_line, footer_lines, header_lines, note_lines
from stts_cli.report.page import alike, bar, escape, fill, gallery, paragraphs, savings_table
from stts_cli.report.pictures import Kept
from stts_cli.report.savings import savings_rows
from stts_cli.report.terminal import Document


def write_page(path: str, document: Document, kept: Mapping[str, Kept]) -> None:
    """Write the page of a run; `kept` is by arm. EnvironmentFailure where the file cannot be written."""
    target = Path(path).expanduser()
    with writing(target):
        target.write_text(page(document, kept), encoding="utf-8")


def page(document: Document, kept: Mapping[str, Kept]) -> str:
    """Return the page of a run; `kept` is by arm."""
    arms = document["arms"]
    shown = [arm for arm in arms if arm["num_windows_kept"] < arm["num_windows"]] or arms[:1]
    savings = [paragraphs([arm_line(arm)]) + savings_table(savings_rows(document, arm)) for arm in shown]
    return fill(
        "ask",
        ["gallery.js"],
        title=escape(document["video"]["path"]),
        about=paragraphs(header_lines(document)) + paragraphs(note_lines(document), "warning"),
        answers="\n".join(_question(arms, number) for number in range(len(arms[0]["answers"]))),
        galleries="\n".join(gallery(group, f"gallery-{i}") for i, group in enumerate(alike(kept))),
        savings="\n".join([*savings, paragraphs(footer_lines(document), "faint")]),
    )


def _question(arms: list[Document], number: int) -> str:
    lines = []
    for arm in arms:
        answer = arm["answers"][number]
        cut = "" if answer["finished"] else ' <span class="faint">(cut)</span>'
        lines.append(f"<dt>{escape(arm['name'])}</dt><dd>{escape(answer['text'])}{cut}{_options(answer)}</dd>")
    question = escape(arms[0]["answers"][number]["question"])
    return f'<div class="question"><h3>{question}</h3><dl>{"".join(lines)}</dl></div>'


def _options(answer: Document) -> str:
    options = sorted(answer["options"] or (), key=lambda option: -option["probability"])
    rows = "".join(
        f"<tr><td>{escape(each['text'])}</td><td>{each['probability']:.1%}</td><td>{bar(each['probability'])}</td></tr>"
        for each in options
    )
    return f"<table>{rows}</table>" if rows else ""
