"""MotionBench: fine-grained motion in clips of a few seconds. Rows answered "NA" are the hidden test, left out."""

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, given_letter, split_question
from stts_cli.data.rows import Row
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of

FOLDERS = tuple(path for name in ("self-collected", "public-dataset") for path in (f"MotionBench/{name}", name))


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `video_info.meta.jsonl`, a line a video."""
    path, videos = folder.rows("**/video_info.meta.jsonl")

    def make(row: Row) -> QaItem | None:
        if str(row["answer"]).strip().upper() == "NA":
            return None
        stem, options = split_question(text_of(row, "question"))
        if not options:
            raise ValueError(f"the question '{stem[:60]}' has no option lines")
        return QaItem(
            id=text_of(row, "uid"),
            video=row["video_path"],
            source=folder.source(row["video_path"], *FOLDERS),
            question=stem,
            options=options,
            answer=given_letter(str(row["answer"]), len(options)),
            groups={"type": (text_of(row, "question_type"),)},
        )

    return build_items(path, ({**video, **question} for video in videos for question in video["qa"]), make)


BENCHMARK = Benchmark(
    name="motionbench",
    title="MotionBench",
    splits=("validation",),
    load=load,
    licence="CC-BY-NC-SA-4.0",
    repos=("zai-org/MotionBench", "THUDM/MotionBench"),
    annotations={"validation": ("**/video_info.meta.jsonl",)},
    media=("MotionBench/self-collected/**", "MotionBench/public-dataset/**"),
    where="https://huggingface.co/datasets/zai-org/MotionBench",
    prompt=prompts.bare_question,
    remark="about half of its 8,052 questions have a public answer",
    scorers=scoring.rules(molmo2=published.starts_with, official=published.first_in_brackets),
)
