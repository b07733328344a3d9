"""NExT-QA, multiple choice: why, how, when and what in everyday videos of about 40 s; five options.

The parquet names videos by number; the CSV of the publishers' repository needs the map from numbers to VidOR paths.
"""

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, letter
from stts_cli.data.rows import Row, read_json
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of

FAMILIES = {"CW": "causal", "CH": "causal", "TN": "temporal", "TC": "temporal", "TP": "temporal"}
FAMILIES |= {"DC": "descriptive", "DL": "descriptive", "DO": "descriptive"}


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `MC/test-*.parquet`, or `test.csv` with its map."""
    short = "val" if split == "validation" else split
    path, rows = folder.rows(f"**/MC/{short}*.parquet", f"**/{short}-*.parquet", f"**/{short}.csv")
    maps = folder.find_all("**/map_vid_vidorID.json") if path.suffix == ".csv" else []
    vidor: dict[str, str] = read_json(maps[0]) if maps else {}

    def make(row: Row) -> QaItem:
        video, kind = text_of(row, "video"), text_of(row, "type")
        return QaItem(
            id=f"{video}/{text_of(row, 'qid')}/{kind}",
            video=video,
            source=folder.source(vidor.get(video, video), "NExTVideo", "NExTVideo-all-videos"),
            question=text_of(row, "question"),
            options=tuple(str(row.get(f"a{index}", "")).strip() for index in range(5)),
            answer=letter(row["answer"], 5),
            groups={"kind": (FAMILIES.get(kind, kind),), "type": ("TN" if kind == "TP" else kind,)},
        )

    return build_items(path, rows, make)


BENCHMARK = Benchmark(
    name="nextqa",
    title="NExT-QA (multiple choice)",
    splits=("test", "validation"),
    load=load,
    questions=8564,
    videos=1000,
    download="6.5 GB",
    repos=("lmms-eval/NExTQA", "lmms-lab/NExTQA"),
    annotations={"test": ("MC/test-*.parquet",)},
    media=("videos.zip",),
    where="https://huggingface.co/datasets/lmms-lab/NExTQA, or test.csv and the map from github.com/doc-doc/NExT-QA",
    scorers=scoring.rules(molmo2=published.last_of_several),
)
