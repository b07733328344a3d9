"""LongVideoBench: questions that refer to a moment of a video of 8 s to an hour; up to five options, subtitles.

Subtitles come in two forms, and their times count from the start of the video the clip was cut from.
"""

from contextlib import suppress

from stts_cli.data.files import DataFolder
from stts_cli.data.items import Cue, QaItem, letter
from stts_cli.data.rows import Row, read_json
from stts_cli.data.times import read_time
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `lvb_val.json` or `validation-*.parquet`, and `subtitles/`; "no_subtitles" skips what speaks of them."""
    long = split.partition("_")[0]
    path, rows = folder.rows(f"**/lvb_{'test' if long == 'test' else 'val'}*.json", f"**/{long}-*.parquet")
    cues: dict[str, tuple[Cue, ...]] = {}

    def make(row: Row) -> QaItem | None:
        if split.endswith("no_subtitles") and "subtitle" in text_of(row, "question").lower():
            return None  # it cannot be answered without
        columns = [str(row.get(f"option{index}") or "").strip() for index in range(5)]
        options = row["candidates"] if "candidates" in row else [each for each in columns if each not in ("", "N/A")]
        answer = row.get("correct_choice")
        file, start_s, duration_s = row["subtitle_path"], row["starting_timestamp_for_subtitles"], row["duration"]
        if file not in cues and not split.endswith("no_subtitles"):
            found = folder.find_all(f"subtitles/{file}", f"**/subtitles/{file}", f"**/{file}")
            cues[file] = _cues(read_json(found[0]), float(start_s), float(duration_s)) if found else ()
        return QaItem(
            id=text_of(row, "id"),
            video=text_of(row, "video_id"),
            source=folder.source(text_of(row, "video_path")),
            question=text_of(row, "question"),
            options=tuple(str(option).strip() for option in options),
            answer=None if answer is None else letter(answer, len(options)),
            subtitles=cues.get(file, ()),
            groups={"duration": (f"{int(row['duration_group'])} s",), "category": (text_of(row, "question_category"),)},
        )

    return build_items(path, rows, make)


def _cues(entries: list[Row], start_s: float, duration_s: float) -> tuple[Cue, ...]:
    cues = []
    for entry in entries:
        if "timestamp" in entry:
            (begin, end), text = entry["timestamp"], entry["text"]
        else:
            begin, end, text = read_time(entry["start"]), read_time(entry["end"]), entry["line"]
        first, last = float(begin) - start_s, duration_s
        with suppress(TypeError, ValueError):  # an end may be a word
            last = float(end) - start_s
        if last > 0 and first < duration_s:
            cues.append(Cue(max(first, 0.0), min(last, duration_s), " ".join(str(text).split())))
    return tuple(cues)


BENCHMARK = Benchmark(
    name="longvideobench",
    title="LongVideoBench",
    splits=("validation", "test", "validation_no_subtitles"),
    load=load,
    questions=1337,
    download="161 GB",
    repos=("longvideobench/LongVideoBench",),
    annotations={
        "validation": ("lvb_val.json",),
        "validation_no_subtitles": ("lvb_val.json",),
        "test": ("lvb_test_wo_gt.json",),
    },
    media=("videos.tar.part.*", "subtitles.tar"),
    terms="https://huggingface.co/datasets/longvideobench/LongVideoBench",
    scorers=scoring.rules(molmo2=published.longvideobench, official=published.longvideobench),
    subtitles=True,
    remark="subtitles stand behind the video, as in Molmo2's evaluation; the publishers weave them between the frames",
)
