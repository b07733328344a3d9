"""EgoSchema: five options about three minutes of egocentric video. The subset's 500 answers are public."""

from __future__ import annotations

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, bare_options, letter
from stts_cli.data.rows import Row, read_json
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `Subset/*.parquet` or `MC/*.parquet`, else `questions.json` with `subset_answers.json`."""
    config = "Subset" if split == "subset" else "MC"
    path, rows = folder.rows(f"**/{config}/*.parquet", "**/questions.json")
    if path.suffix == ".json":
        rows = _json_rows(folder, rows, split)

    def make(row: Row) -> QaItem:
        video = text_of(row, "video_idx")
        options = bare_options(row["option"])
        answer = row["answer"]
        return QaItem(
            id=text_of(row, "question_idx"),
            video=video,
            source=folder.source(video),
            question=text_of(row, "question"),
            options=options,
            answer=None if answer is None or str(answer).strip() == "" else letter(answer, len(options)),
        )

    return build_items(path, rows, make)


def _json_rows(folder: DataFolder, rows: list[Row], split: str) -> list[Row]:
    answers: dict[str, int] = read_json(folder.find("**/subset_answers.json")) if split == "subset" else {}
    return [
        {
            "question_idx": row["q_uid"],
            "video_idx": row["q_uid"],
            "question": row["question"],
            "option": [row[f"option {index}"] for index in range(5)],
            "answer": answers.get(row["q_uid"]),
        }
        for row in rows
        if split == "full" or row["q_uid"] in answers
    ]


BENCHMARK = Benchmark(
    name="egoschema",
    title="EgoSchema",
    length="short",
    splits=("subset", "full"),
    load=load,
    questions=500,
    videos=500,
    download="105 GB",
    licence="MIT",
    repos=("lmms-eval/egoschema", "lmms-lab/egoschema"),
    annotations={"subset": ("Subset/*.parquet",), "full": ("MC/*.parquet",)},
    media=("videos_chunked_*.zip",),
    where="https://huggingface.co/datasets/lmms-lab/egoschema, or github.com/egoschema/EgoSchema",
    scorers=scoring.rules(molmo2=published.first_of_several),
    max_new_tokens=32,
    remark="answers of the split 'full' are on the publishers' server: replies are kept, not scored",
)
