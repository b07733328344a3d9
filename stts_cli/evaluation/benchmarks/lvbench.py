"""LVBench: 103 videos of an hour and more, four options; a question may count for several abilities."""

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, bare_options, given_letter, split_question
from stts_cli.data.rows import Row, flatten
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `video_info.meta.jsonl`, a line a video, or a re-pack as parquet, a row a question."""
    path, found = folder.rows("**/video_info.meta.jsonl", "**/train-*.parquet", "**/data/*.parquet")
    rows = ({**row, **question} for row in flatten(found) for question in row.get("qa", [{}]))

    def make(row: Row) -> QaItem:
        video = text_of(row, "video_path" if "video_path" in row else "key").removesuffix(".mp4")
        stem, options = split_question(text_of(row, "question"))
        options = options or bare_options(row["options"])
        kinds = row.get("question_type") or []
        groups = {"ability": tuple([kinds] if isinstance(kinds, str) else kinds)}
        if row.get("type"):
            groups["video type"] = (str(row["type"]),)
        return QaItem(
            id=str(row.get("uid", row["number"])).strip(),
            video=video,
            source=folder.source(video, "videos", "video_chunks"),
            question=stem,
            options=options,
            answer=given_letter(str(row["answer"]), len(options)),
            groups=groups,
        )

    return build_items(path, rows, make)


BENCHMARK = Benchmark(
    name="lvbench",
    title="LVBench",
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
