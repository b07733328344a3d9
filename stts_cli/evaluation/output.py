"""Write a result where it stays: results.json. The journal writes samples.jsonl, `report` the pages and plot.svg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts_cli.errors import writing
from stts_cli.text import to_json

Document = dict[str, Any]


def write_results(document: Document, folder: Path) -> None:
    """Write the document of a benchmark or a suite, without its single answers, into a folder made if needed."""
    with writing(folder / "results.json"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(to_json(_without_samples(document), indent=2) + "\n", encoding="utf-8")


def _without_samples(document: Document) -> Document:
    short = {key: value for key, value in document.items() if key != "samples"}
    return short | {"benchmarks": [*map(_without_samples, short["benchmarks"])]} if "benchmarks" in short else short
