"""Perception Test, multiple-choice video questions: memory, abstraction, physics, semantics; three options.

The publishers ask to cut the end of some videos (cup games) of the validation split at a frame they list. The paper's
base model reads whole files, and so does the split "validation"; "validation_cut" keeps what comes before that frame.
The test split's answers are not public: replies are kept, not scored.
"""

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, bare_options, letter
from stts_cli.data.rows import Row, flatten, read_json
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of
from stts_cli.media.source import Source

CUTS = "**/cut_frame_mapping_valid.json"  # video -> frame


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read the hub's parquet or the publishers' JSON, and for the cut split their mapping of frames."""
    cuts: dict[str, int] = read_json(folder.find(CUTS)) if split == "validation_cut" else {}
    patterns = ("**/mc_question/test-*.parquet", "**/test-*.parquet", "**/*mc_question_test*.json")
    if split.startswith("validation"):
        patterns = ("**/mc_question_val/*.parquet", "**/validation-*.parquet", "**/*mc_question_valid*.json")
    path = folder.find(*patterns)
    if path.suffix == ".parquet":
        rows = folder.rows(*patterns)[1]
    else:
        rows = list(flatten({name: entry["mc_question"] for name, entry in read_json(path).items()}, "video_name"))

    def make(row: Row) -> QaItem:
        video = text_of(row, "video_name")
        options = bare_options(row["options"])
        answer = row.get("answer_id")
        cut = int(cuts.get(video, 0))  # 0 or less: the whole video
        return QaItem(
            id=f"{video}/{row['question_id' if 'question_id' in row else 'id']}",
            video=video,
            source=Source(folder.video(video), end_frame=cut if cut > 0 else None),
            question=text_of(row, "question"),
            options=options,
            answer=None if answer is None else letter(answer, len(options)),
            groups={"area": (text_of(row, "area"),), "reasoning": (text_of(row, "reasoning"),)},
        )

    return build_items(path, rows, make)


BENCHMARK = Benchmark(
    name="perceptiontest",
    title="Perception Test (multiple choice)",
    splits=("validation", "validation_cut", "test"),
    load=load,
    questions=19140,
    download="70 GB",
    licence="CC-BY-4.0",
    repos=("lmms-eval/PerceptionTest_Val", "lmms-lab/PerceptionTest_Val"),
    annotations={"validation": ("mc_question_val/*.parquet",)},
    media=("*.zip", "videos/*"),
    where="https://huggingface.co/datasets/lmms-lab/PerceptionTest_Val, or github.com/google-deepmind/perception_test",
    scorers=scoring.rules(molmo2=published.first_letter),
    remark="the split 'validation' reads videos whole; 'validation_cut' cuts them as the publishers ask",
)
