"""MVBench: 20 tasks of 200 questions about clips of 5 to 35 s, gathered from a dozen sources.

Two layouts. The branch `video` has every clip as an mp4, already cut, and `test.json` says where; the main branch has
`json/<task>.json` with start and end times, and frames of TV series as folders of jpg. A clip that is already cut is
not cut again.
"""

from __future__ import annotations

from collections.abc import Iterator

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder, Row, read_json, read_rows
from stts_cli.data.items import QaItem, letters_of_text
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of
from stts_cli.media.source import Source

CUT = {  # task -> folders of whole videos, folders of cut clips
    "action_sequence": (("star/Charades_v1_480",), ("star/Charades_segment",)),
    "action_prediction": (("star/Charades_v1_480",), ("star/Charades_segment",)),
    "object_interaction": (("star/Charades_v1_480",), ("star/Charades_segment",)),
    "action_localization": (("sta/sta_video",), ("sta/sta_video_segment",)),
    "episodic_reasoning": (("tvqa/frames_fps3_hq",), ("tvqa/video_fps3_hq_segment",)),
}
FOLDERS = {
    "action_antonym": ("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_pose": ("nturgbd", "nturgbd_convert"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "unexpected_action": ("FunQA_test/test",),
    "scene_transition": ("scene_qa/video",),
    "egocentric_navigation": ("vlnqa",),
    **dict.fromkeys(("object_shuffle", "action_count", "state_change", "character_order"), ("perception/videos",)),
    **dict.fromkeys(
        ("object_existence", "moving_direction", "moving_count", "moving_attribute", "counterfactual_inference"),
        ("clevrer/video_validation",),
    ),
}


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read the questions of all tasks.

    Args:
        folder: holds `json/<task>.json` or `test.json`, and the videos in either branch's folders.
        split: "test", the only one.
    """
    path = folder.find("**/json/*.json", "**/test.json")
    rows = _rows_of_test_json(folder) if path.name == "test.json" else _rows_of_tasks(folder)

    def make(row: Row) -> QaItem:
        task, number = row["task"], row["number"]
        options = tuple(str(option).strip() for option in row["candidates"])
        right = letters_of_text(text_of(row, "answer"), options)
        if not right:
            raise ValueError(f"the answer '{row['answer']}' is none of the candidates")
        source = _source(folder, task, text_of(row, "video"), row)
        return QaItem(
            id=f"{task}/{number}",
            video=f"{task}/{text_of(row, 'video')}",
            source=source,
            question=text_of(row, "question"),
            options=options,
            answer=right[0],
            also=right[1:],
            groups={"task": (task,)},
        )

    return build_items(path, rows, make)


def _rows_of_tasks(folder: DataFolder) -> Iterator[Row]:
    for path in folder.find_all("**/json/*.json"):
        for number, row in enumerate(read_rows(path)):
            yield {**row, "task": path.stem, "number": number}


def _rows_of_test_json(folder: DataFolder) -> Iterator[Row]:
    meta = read_json(folder.find("**/test.json"))["meta"]
    for task, rows in meta.items():
        for number, row in enumerate(rows):
            yield {**row, "task": task, "number": number}


def _source(folder: DataFolder, task: str, video: str, row: Row) -> Source:
    prefixes = ("video", "videos", "data", "", "video/data0613", "data0613")  # the last two: videos replaced later
    if task not in CUT:
        return Source(folder.video(video, *(f"{p}/{f}".strip("/") for p in prefixes for f in FOLDERS.get(task, ("",)))))
    whole, cut = CUT[task]
    segment = folder.video(video, *(f"{p}/{f}".strip("/") for p in prefixes for f in cut))
    if segment.exists() and any(name in segment.as_posix() for name in cut):
        return Source(segment)
    return Source(
        folder.video(video, *(f"{p}/{f}".strip("/") for p in prefixes for f in whole)),
        start_s=None if row.get("start") is None else float(row["start"]),
        end_s=None if row.get("end") is None else float(row["end"]),
    )


BENCHMARK = Benchmark(
    name="mvbench",
    title="MVBench",
    length="short",
    splits=("test",),
    load=load,
    questions=4000,
    download="15.8 GB",
    licence="each source's own",
    repos=("OpenGVLab/MVBench",),
    revision="video",
    annotations={"test": ("json/*.json", "test.json")},
    media=("video/**",),
    terms="https://huggingface.co/datasets/OpenGVLab/MVBench",
    where="https://huggingface.co/datasets/OpenGVLab/MVBench (the branch 'video' is the simpler one)",
    prompt=prompts.only_the_letter,
    scorers=scoring.rules(molmo2=published.starts_with, official=published.mvbench),
    max_new_tokens=32,
    headline="task",
    remark="fine_grained_pose (NTU RGB+D) is not distributed: without it 3,800 questions, --allow-missing",
)
