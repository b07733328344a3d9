"""LongVideoBench: questions that refer to a moment of a video of 8 s to an hour; up to five options, subtitles.

Subtitles come in two forms, and their times count from the start of the video the clip was cut from.
"""

from __future__ import annotations

from typing import Any

from stts_cli.data.files import DataFolder, Row, read_json
from stts_cli.data.items import Cue, QaItem, letter
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, options_of, text_of
from stts_cli.media.source import Source

SPLITS = ("validation", "test", "validation_no_subtitles")


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read the questions of a split.

    Args:
        folder: holds `lvb_val.json` or `validation-*.parquet`, `videos/` and `subtitles/`.
        split: "validation", "test" (answers not public), or "validation_no_subtitles", without the questions that
            speak of subtitles.
    """
    short = "val" if split.startswith("validation") else "test"
    path, rows = folder.rows(f"**/lvb_{short}*.json", f"**/{'validation' if short == 'val' else 'test'}-*.parquet")
    cues: dict[str, tuple[Cue, ...]] = {}

    def make(row: Row) -> QaItem | None:
        if split.endswith("no_subtitles") and "subtitle" in text_of(row, "question").lower():
            return None  # it cannot be answered without
        options = tuple(row["candidates"]) if "candidates" in row else tuple(options_of(row, *OPTION_COLUMNS))
        answer = row.get("correct_choice")
        file, start, duration = (row["subtitle_path"], row["starting_timestamp_for_subtitles"], row["duration"])
        if file not in cues and not split.endswith("no_subtitles"):
            cues[file] = _read_cues(folder, file, float(start), float(duration))
        return QaItem(
            id=text_of(row, "id"),
            video=text_of(row, "video_id"),
            source=Source(folder.video(text_of(row, "video_path"))),
            question=text_of(row, "question"),
            options=tuple(str(option).strip() for option in options),
            answer=None if answer is None else letter(answer, len(options)),
            subtitles=cues.get(file, ()),
            groups={
                "duration": (f"{int(row['duration_group'])} s",),
                "category": (text_of(row, "question_category"),),
            },
        )

    return build_items(path, rows, make)


OPTION_COLUMNS = tuple(f"option{index}" for index in range(5))


def _read_cues(folder: DataFolder, file: str, start_s: float, duration_s: float) -> tuple[Cue, ...]:
    found = folder.find_all(f"subtitles/{file}", f"**/subtitles/{file}", f"**/{file}")
    if not found:
        return ()
    cues = []
    for entry in read_json(found[0]):
        if "timestamp" in entry:
            begin, end = entry["timestamp"]
            text = entry["text"]
        else:
            begin, end, text = _clock(entry["start"]), _clock(entry["end"]), entry["line"]
        begin = float(begin) - start_s
        end = float(end) - start_s if _is_number(end) else duration_s
        if end > 0 and begin < duration_s:
            cues.append(Cue(max(begin, 0.0), min(end, duration_s), " ".join(str(text).split())))
    return tuple(cues)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _clock(text: str) -> float:
    """Read "H:M:S.f"."""
    seconds = 0.0
    for part in str(text).split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


BENCHMARK = Benchmark(
    name="longvideobench",
    title="LongVideoBench",
    length="long",
    splits=SPLITS,
    load=load,
    questions=1337,
    download="161 GB",
    licence="see its page",
    repos=("longvideobench/LongVideoBench",),
    annotations={
        "validation": ("lvb_val.json",),
        "validation_no_subtitles": ("lvb_val.json",),
        "test": ("lvb_test_wo_gt.json",),
    },
    media=("videos.tar.part.*", "subtitles.tar"),
    terms="https://huggingface.co/datasets/longvideobench/LongVideoBench",
    where="https://huggingface.co/datasets/longvideobench/LongVideoBench",
    scorers=scoring.rules(molmo2=published.longvideobench, official=published.longvideobench),
    subtitles=True,
    remark="subtitles stand behind the video, as in Molmo2's evaluation; the publishers weave them between the frames",
)
