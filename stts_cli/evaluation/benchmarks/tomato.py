"""TOMATO: visual temporal reasoning in clips of a few seconds; three to seven options."""

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, bare_options, letter
from stts_cli.data.prompts import option_lines
from stts_cli.data.rows import Row, flatten, read_json
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of

FILES = ("count", "direction", "rotation", "shape&trend", "velocity&frequency", "visual_cues")


def prompt(item: QaItem) -> str:
    """The question, the request, then the options: in this order the paper's base model asks it."""
    return f"{item.question}\nOnly return the correct option.\n{option_lines(item)}"


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `test-*.parquet`, or the publishers' `data/<type>.json` (ids start again in each file)."""
    files = [path for name in FILES for path in folder.find_all(f"**/{name}.json")]
    path = folder.find("**/test-*.parquet", *(f"**/{name}.json" for name in FILES))
    if path.suffix == ".parquet":
        rows = folder.rows("**/test-*.parquet")[1]
    else:
        rows = [{**row, "reason_type": file.stem} for file in files for row in flatten(read_json(file), "id")]

    def make(row: Row) -> QaItem:
        options = bare_options(row["options"])
        if "video_path" in row:
            video = text_of(row, "video_path").removeprefix("videos/")
        else:
            video = f"{row['demonstration_type']}/{row['key']}"
        return QaItem(
            id=f"{row['reason_type']}/{row['id']}",
            video=video,
            source=folder.source(video, "videos"),
            question=text_of(row, "question"),
            options=options,
            answer=letter(row["answer"], len(options)),
            groups={
                "reasoning": (text_of(row, "reason_type"),),
                "demonstration": (text_of(row, "demonstration_type"),),
            },
        )

    return build_items(path, rows, make)


BENCHMARK = Benchmark(
    name="tomato",
    title="TOMATO",
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
