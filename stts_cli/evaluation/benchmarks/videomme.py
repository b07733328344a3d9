"""Video-MME: 900 videos of 11 s to an hour, three questions each, four options; with and without subtitles."""

import dataclasses

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder
from stts_cli.data.items import Cue, QaItem, bare_options, given_letter
from stts_cli.data.rows import Row, read_json
from stts_cli.data.subtitles import read_published
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `videomme/test-*.parquet`; the videos are in `data/` or `video/`."""
    path, rows = folder.rows("**/videomme/test-*.parquet", "**/test-*.parquet")

    def make(row: Row) -> QaItem:
        video, duration = text_of(row, "videoID"), text_of(row, "duration")
        options = bare_options(row["options"])
        return QaItem(
            id=text_of(row, "question_id"),
            video=video,
            source=folder.source(video, "data", "video"),
            question=text_of(row, "question"),
            options=options,
            answer=given_letter(text_of(row, "answer"), len(options)),
            groups={
                "duration": (duration, *(("medium+long",) if duration != "short" else ())),
                "task": (text_of(row, "task_type"),),
                "sub-category": (text_of(row, "sub_category"),),
            },
        )

    return build_items(path, rows, make)


def load_with_subtitles(folder: DataFolder, split: str) -> list[QaItem]:
    """Read the same, with the subtitles of `subtitle/<video>.srt` or of Molmo2's `subtitles.json`."""
    items = load(folder, split)
    path = folder.find("**/subtitles.json", "**/subtitle/*.srt", "**/*.srt")
    cues: dict[str, tuple[Cue, ...]] = {}
    if path.suffix == ".json":
        for video, entries in read_json(path).items():
            spoken = (entries[key] for key in sorted(entries, key=int))
            cues[video] = tuple(Cue(float(e["start"]), float(e["end"]), str(e["text"]).strip()) for e in spoken)
    else:
        files = folder.find_all("**/subtitle/*.srt", "**/*.srt")
        cues = {file.stem: read_published(file, folder.notes) for file in files}
    return [dataclasses.replace(item, subtitles=cues.get(item.video, ())) for item in items]


BENCHMARK = Benchmark(
    name="videomme",
    title="Video-MME (without subtitles)",
    load=load,
    questions=2700,
    videos=900,
    download="about 100 GB",
    licence="research only",
    repos=("lmms-eval/Video-MME", "lmms-lab/Video-MME"),
    annotations={"test": ("videomme/test-*.parquet",)},
    media=("videos_chunked_*.zip",),
    prompt=prompts.best_answer,
    scorers=scoring.rules(molmo2=published.videomme_molmo2, official=published.videomme),
)
VARIANT = dataclasses.replace(
    BENCHMARK,
    name="videomme_sub",
    title="Video-MME (with subtitles)",
    load=load_with_subtitles,
    media=(*BENCHMARK.media, "subtitle.zip"),
    subtitles=True,
    remark="videos without a subtitle file are asked without",
)
