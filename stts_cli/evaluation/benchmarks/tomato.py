"""TOMATO: visual temporal reasoning in clips of a few seconds; three to seven options."""

from __future__ import annotations

from collections.abc import Iterator

from stts_cli.data.files import DataFolder, Row, read_json, read_rows
from stts_cli.data.items import QaItem, bare_options, letter
from stts_cli.data.prompts import option_lines
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of
from stts_cli.media.source import Source

FILES = ("count", "direction", "rotation", "shape&trend", "velocity&frequency", "visual_cues")


def prompt(item: QaItem) -> str:
    """The question, the request, then the options: in this order the paper's base model asks it."""
    return f"{item.question}\nOnly return the correct option.\n{option_lines(item)}"


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read the questions.

    Args:
        folder: holds the publishers' `data/<type>.json` or `test-*.parquet`, and `videos/{human,object,simulated}/`.
        split: "test", the only one.
    """
    path = folder.find("**/test-*.parquet", *(f"**/{name}.json" for name in FILES))
    rows = _parquet_rows(folder) if path.suffix == ".parquet" else _json_rows(folder)

    def make(row: Row) -> QaItem:
        options = bare_options(row["options"])
        return QaItem(
            id=f"{row['reason_type']}/{row['id']}",
            video=row["video"],
            source=Source(folder.video(row["video"], "videos")),
            question=text_of(row, "question"),
            options=options,
            answer=letter(row["answer"], len(options)),
            groups={
                "reasoning": (text_of(row, "reason_type"),),
                "demonstration": (text_of(row, "demonstration_type"),),
            },
        )

    return build_items(path, rows, make)


def _json_rows(folder: DataFolder) -> Iterator[Row]:
    for name in FILES:  # ids start again in each file
        for path in folder.find_all(f"**/{name}.json"):
            for number, row in read_json(path).items():
                video = f"{row['demonstration_type']}/{row['key']}"
                yield {**row, "id": number, "reason_type": name, "video": video}


def _parquet_rows(folder: DataFolder) -> Iterator[Row]:
    for path in folder.find_all("**/test-*.parquet"):
        for row in read_rows(path):
            yield {**row, "video": str(row["video_path"]).removeprefix("videos/")}


BENCHMARK = Benchmark(
    name="tomato",
    title="TOMATO",
    length="short",
    splits=("test",),
    load=load,
    questions=1484,
    videos=1417,
    licence="CC-BY-SA-4.0",
    repos=("lmms-eval/TOMATO", "lmms-lab/TOMATO"),
    annotations={"test": ("**/test-*.parquet",)},
    media=("*.zip", "videos/**"),
    where="https://huggingface.co/datasets/lmms-lab/TOMATO, or github.com/yale-nlp/TOMATO (data/*.json, videos.zip)",
    prompt=prompt,
    scorers=scoring.rules(molmo2=published.nearest_letter),
    max_new_tokens=32,
    remark="the publishers' own parser asks GPT: --scoring official is not offered",
)
