"""MLVU, the seven multiple-choice tasks: videos of minutes to two hours, four options (six in the test set).

The benchmark's own headline is the mean of the tasks' accuracies; others report the mean over questions. Both are
shown.
"""

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, bare_options, given_letter, letters_of_text, split_question
from stts_cli.data.rows import Row, flatten, read_rows
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of

TASKS = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `json/<task>.json` (dev), `test_mcq_gt.json` (test), or a re-pack as parquet."""
    files = [path for task in TASKS for path in folder.find_all(f"**/{task}.json")] if split == "dev" else []
    names = [f"**/{task}.json" for task in TASKS] if split == "dev" else ["**/test_mcq_gt.json"]
    others = (*names, f"**/{split}*.parquet", "**/test-*.parquet")
    path = folder.find(*others)
    rows = [
        {**row, "file": file.stem} for file in files or folder.find_all(*others) for row in flatten(read_rows(file))
    ]

    def make(row: Row) -> QaItem:
        video = str(row.get("video") or row["video_name"]).strip()
        task = row["file"] if files else str(row.get("task_type") or row.get("question_type"))
        number = row["number"] if files else row.get("question_id", row["number"])
        question, embedded = split_question(text_of(row, "question"))
        options = embedded or bare_options(row["candidates"])
        answer = text_of(row, "answer")
        right = letters_of_text(answer, options)
        if not right and len(answer) == 1:
            right = (given_letter(answer, len(options)),)
        return QaItem(
            id=f"{task}/{number}",
            video=f"{task}/{video}",  # file names recur in several tasks
            source=folder.source(video, f"video/{task}", f"MLVU/video/{task}", task),
            question=question,
            options=options,
            answer=right[0] if right else None,  # two answers of the dev set are not among their candidates
            also=right[1:],
            groups={"task": (task,)},
        )

    return build_items(path, rows, make)


BENCHMARK = Benchmark(
    name="mlvu",
    title="MLVU (multiple choice)",
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
