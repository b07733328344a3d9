"""MLVU, the seven multiple-choice tasks: videos of minutes to two hours, four options (six in the test set).

The benchmark's own headline is the mean of the tasks' accuracies; others report the mean over questions. Both are
shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from stts_cli.data.files import DataFolder, Row, read_rows
from stts_cli.data.items import QaItem, bare_options, given_letter, letters_of_text, split_question
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of
from stts_cli.media.source import Source

TASKS = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read the questions of a split.

    Args:
        folder: holds `json/<task>.json` (dev), `test_mcq_gt.json` (test), or a re-pack as parquet.
        split: "dev" or "test".
    """
    names = [f"**/{task}.json" for task in TASKS] if split == "dev" else ["**/test_mcq_gt.json"]
    path = folder.find(*names, f"**/{split}*.parquet", "**/test-*.parquet")

    def make(row: Row) -> QaItem:
        task, video = row["task"], text_of(row, "video")
        question, embedded = split_question(text_of(row, "question"))
        options = embedded or bare_options(row["candidates"])
        answer = text_of(row, "answer")
        right = letters_of_text(answer, options)
        if not right and len(answer) == 1:
            right = (given_letter(answer, len(options)),)
        return QaItem(
            id=f"{task}/{row['number']}",
            video=f"{task}/{video}",  # file names recur in several tasks
            source=Source(folder.video(video, *(f"{base}/{task}".strip("/") for base in ("video", "MLVU/video", "")))),
            question=question,
            options=options,
            answer=right[0] if right else None,  # two answers of the dev set are not among their candidates
            also=right[1:],
            groups={"task": (task,)},
        )

    return build_items(path, _rows(folder, split), make)


def _rows(folder: DataFolder, split: str) -> Iterator[Row]:
    if split == "dev" and folder.find_all(*(f"**/{task}.json" for task in TASKS)):
        for task in TASKS:
            for path in folder.find_all(f"**/{task}.json"):
                for number, row in enumerate(read_rows(path)):
                    yield {**row, "task": task, "number": number}
        return
    patterns = (f"**/{split}*.parquet", "**/test-*.parquet")
    for path in folder.find_all(*(patterns if split == "dev" else ("**/test_mcq_gt.json", *patterns))):
        for number, row in enumerate(read_rows(path)):
            kind = row.get("task_type") or row.get("question_type")
            name = row.get("question_id", number)
            yield {**row, "task": str(kind), "number": name, "video": row.get("video") or row.get("video_name")}


BENCHMARK = Benchmark(
    name="mlvu",
    title="MLVU (multiple choice)",
    length="long",
    splits=("dev", "test"),
    load=load,
    questions=2175,
    licence="CC-BY-NC-SA-4.0",
    repos=("MLVU/MVLU",),
    annotations={"dev": ("MLVU/json/*.json",)},
    media=("MLVU/video/**",),
    terms="https://huggingface.co/datasets/MLVU/MVLU",
    where="https://huggingface.co/datasets/MLVU/MVLU (dev), MLVU/MLVU_Test (test)",
    scorers=scoring.rules(molmo2=published.starts_with, official=published.mlvu),
    headline="task",
    remark="two needle questions of the dev set have an answer that is not among the candidates: asked, not scored",
)
