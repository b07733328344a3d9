"""MVBench: 20 tasks of 200 questions about clips of 5 to 35 s, gathered from a dozen sources.

Two layouts. The branch `video` has every clip as an mp4, already cut, and `test.json` says where; the main branch has
`json/<task>.json` with start and end times, and frames of TV series as folders of jpg. A clip that is already cut is
not cut again.
"""

from pathlib import Path

from stts_cli.data import prompts
from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, letters_of_text
from stts_cli.data.rows import Row, flatten, read_json, read_rows
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of
from stts_cli.media.source import Source

PREFIXES = ("video", "videos", "data", "", "video/data0613", "data0613")  # the last two: videos replaced later
CUT = {  # task -> folder of whole videos, folder of cut clips
    "action_sequence": ("star/Charades_v1_480", "star/Charades_segment"),
    "action_prediction": ("star/Charades_v1_480", "star/Charades_segment"),
    "object_interaction": ("star/Charades_v1_480", "star/Charades_segment"),
    "action_localization": ("sta/sta_video", "sta/sta_video_segment"),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
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
FOLDER_FPS = 3.0  # of "episodic_reasoning", which is published as folders of frames


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `json/<task>.json` or `test.json`; the videos are in either branch's folders."""
    files = folder.find_all("**/json/*.json")
    path = files[0] if files else folder.find("**/json/*.json", "**/test.json")
    tasks = {file.stem: read_rows(file) for file in files} or read_json(path)["meta"]

    def make(row: Row) -> QaItem:
        task, video = row["task"], text_of(row, "video")
        options = tuple(str(option).strip() for option in row["candidates"])
        right = letters_of_text(text_of(row, "answer"), options)
        if not right:
            raise ValueError(f"the answer '{row['answer']}' is none of the candidates")
        return QaItem(
            id=f"{task}/{row['number']}",
            video=f"{task}/{video}",
            source=_source(folder, task, video, row),
            question=text_of(row, "question"),
            options=options,
            answer=right[0],
            also=right[1:],
            groups={"task": (task,)},
        )

    return build_items(path, flatten(tasks, "task"), make)


def _source(folder: DataFolder, task: str, video: str, row: Row) -> Source:
    def find(*names: str) -> Path:
        return folder.video(video, *(f"{prefix}/{name}".strip("/") for prefix in PREFIXES for name in names))

    if task not in CUT:
        return Source(find(*FOLDERS.get(task, ("",))))
    whole, cut = CUT[task]
    segment = find(cut)
    if segment.exists() and cut in segment.as_posix():
        return Source(segment)
    start, end = row.get("start"), row.get("end")
    start_s, end_s = (None if value is None else float(value) for value in (start, end))
    return Source(find(whole), start_s, end_s, fps=FOLDER_FPS)


BENCHMARK = Benchmark(
    name="mvbench",
    title="MVBench",
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
