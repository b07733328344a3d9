"""VideoEval-Pro, asked as multiple choice: harder questions drawn from four long-video benchmarks.

Its publishers ask it open-ended, with a language model as judge; what is measured here is the variant with options.
"""

from __future__ import annotations

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder, Row
from stts_cli.data.items import QaItem, bare_options, given_letter
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of
from stts_cli.media.source import Source


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read the questions.

    Args:
        folder: holds `data/test-*.parquet` and `videos_filtered/`.
        split: "test", the only one.
    """
    path, found = folder.rows("**/data/test-*.parquet", "**/test-*.parquet")
    rows = [{**row, "number": number} for number, row in enumerate(found)]

    def make(row: Row) -> QaItem:
        options = bare_options(row["options"])
        return QaItem(
            id=str(row["number"]),
            video=text_of(row, "video"),
            source=Source(folder.video(text_of(row, "video"), "videos/videos_filtered", "videos_filtered")),
            question=text_of(row, "question"),
            options=options,
            answer=given_letter(text_of(row, "answer"), len(options)),
            groups={"type": (text_of(row, "qa_type"),), "source": (text_of(row, "source"),)},
        )

    return build_items(path, rows, make)


BENCHMARK = Benchmark(
    name="videoevalpro",
    title="VideoEval-Pro (as multiple choice)",
    length="long",
    splits=("test",),
    load=load,
    questions=1289,
    licence="see its page",
    repos=("TIGER-Lab/VideoEval-Pro",),
    annotations={"test": ("data/test-*.parquet",)},
    media=("videos/videos_part_*.tar.gz",),
    where="https://huggingface.co/datasets/TIGER-Lab/VideoEval-Pro",
    prompt=prompts.only_the_letter,
    scorers=scoring.rules(molmo2=published.starts_with),
    max_new_tokens=32,
    remark="multiple choice; the publishers' open-ended protocol needs a judge model",
)
