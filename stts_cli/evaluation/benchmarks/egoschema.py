"""EgoSchema: five options about three minutes of egocentric video. The subset's 500 answers are public."""

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, bare_options, letter
from stts_cli.data.rows import Row, read_json
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `Subset/*.parquet` or `MC/*.parquet`, else `questions.json` with `subset_answers.json`."""
    config = "Subset" if split == "subset" else "MC"
    path, rows = folder.rows(f"**/{config}/*.parquet", "**/questions.json")
    own = path.suffix == ".json"
    public: dict[str, int] = read_json(folder.find("**/subset_answers.json")) if own and split == "subset" else {}

    def make(row: Row) -> QaItem | None:
        name = text_of(row, "q_uid" if own else "question_idx")
        if own and split == "subset" and name not in public:
            return None
        video = name if own else text_of(row, "video_idx")
        options = bare_options([row[f"option {index}"] for index in range(5)] if own else row["option"])
        answer = public.get(name) if own else row["answer"]
        return QaItem(
            id=name,
            video=video,
            source=folder.source(video),
            question=text_of(row, "question"),
            options=options,
            answer=None if answer is None or str(answer).strip() == "" else letter(answer, len(options)),
        )

    return build_items(path, rows, make)


BENCHMARK = Benchmark(
    name="egoschema",
    title="EgoSchema",
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
