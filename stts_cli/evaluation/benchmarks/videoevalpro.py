"""VideoEval-Pro, asked as multiple choice: harder questions drawn from four long-video benchmarks.

Its publishers ask it open-ended, with a language model as judge; what is measured here is the variant with options.
"""

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, bare_options, given_letter
from stts_cli.data.rows import Row, flatten
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `data/test-*.parquet`; the videos are in `videos_filtered/`."""
    path, rows = folder.rows("**/data/test-*.parquet", "**/test-*.parquet")

    def make(row: Row) -> QaItem:
        video, options = text_of(row, "video"), bare_options(row["options"])
        return QaItem(
            id=str(row["number"]),
            video=video,
            source=folder.source(video, "videos/videos_filtered", "videos_filtered"),
            question=text_of(row, "question"),
            options=options,
            answer=given_letter(text_of(row, "answer"), len(options)),
            groups={"type": (text_of(row, "qa_type"),), "source": (text_of(row, "source"),)},
        )

    return build_items(path, flatten(rows), make)


BENCHMARK = Benchmark(
    name="videoevalpro",
    title="VideoEval-Pro (as multiple choice)",
    load=load,
    questions=1289,
    repos=("TIGER-Lab/VideoEval-Pro",),
    annotations={"test": ("data/test-*.parquet",)},
    media=("videos/videos_part_*.tar.gz",),
    prompt=prompts.only_the_letter,
    scorers=scoring.rules(molmo2=published.starts_with),
    max_new_tokens=32,
    remark="multiple choice; the publishers' open-ended protocol needs a judge model",
)
