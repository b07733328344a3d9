"""LVBench: 103 videos of an hour and more, four options; a question may count for several abilities."""

from __future__ import annotations

from collections.abc import Iterator

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder, Row
from stts_cli.data.items import QaItem, bare_options, given_letter, split_question
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of
from stts_cli.media.source import Source


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read the questions.

    Args:
        folder: holds `video_info.meta.jsonl` (or a re-pack as parquet) and `<key>.mp4`.
        split: "test", the only one.
    """
    path, rows = folder.rows("**/video_info.meta.jsonl", "**/train-*.parquet", "**/data/*.parquet")

    def make(row: Row) -> QaItem:
        stem, options = split_question(text_of(row, "question"))
        options = options or bare_options(row["options"])
        kinds = row.get("question_type") or []
        groups = {"ability": tuple([kinds] if isinstance(kinds, str) else kinds)}
        if row.get("type"):
            groups["video type"] = (str(row["type"]),)
        return QaItem(
            id=text_of(row, "uid"),
            video=row["video"],
            source=Source(folder.video(row["video"], "videos", "video_chunks")),
            question=stem,
            options=options,
            answer=given_letter(str(row["answer"]), len(options)),
            groups=groups,
        )

    return build_items(path, _flat(rows), make)


def _flat(rows: list[Row]) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if "qa" not in row:
            video = str(row["video_path"]).removesuffix(".mp4")
            yield {**row, "video": video, "uid": row.get("uid", number)}
            continue
        for question in row["qa"]:
            yield {**question, "video": row["key"], "type": row.get("type")}


BENCHMARK = Benchmark(
    name="lvbench",
    title="LVBench",
    length="long",
    splits=("test",),
    load=load,
    questions=1549,
    videos=103,
    download="62 GB",
    licence="CC-BY-NC-SA-4.0",
    repos=("lmms-eval/LVBench", "lmms-lab/LVBench"),
    annotations={"test": ("data/*.parquet",)},
    media=("video_chunks/*.zip",),
    where="https://huggingface.co/datasets/lmms-lab/LVBench, or questions without videos from zai-org/LVBench",
    prompt=prompts.only_the_letter,
    scorers=scoring.rules(molmo2=published.starts_with_uncleaned, official=published.first_in_brackets),
)
