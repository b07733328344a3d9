"""The procedural world as a benchmark: held-out scenes written as H.264 files, open questions, exact match.

`shapes` has clips of 4-8 s, `shapes_long` clips of 1-3 min with one event of 1-2 s. The files are made when they are
first read and kept in a cache folder. The split `reworded` asks about the test clips in words that no training used.
Results on them say nothing about real video.
"""

import dataclasses
from pathlib import Path

import numpy as np

from stts_cli.data.files import cache_folder
from stts_cli.data.items import QaItem
from stts_cli.data.prompts import bare_question
from stts_cli.evaluation.benchmarks.benchmark import Benchmark
from stts_cli.media.source import Source
from stts_cli.toy.clips import SceneClip
from stts_cli.toy.questions import UNSEEN_WORDINGS, ask
from stts_cli.toy.world import make_scene

SPLITS = ("test", "validation", "reworded")
DEFAULT_VIDEOS = 100


def make_items(long: bool, split: str, num_videos: int, folder: Path | None = None) -> list[QaItem]:
    """Ask everything about a split's first scenes, scene after scene; no file is written yet.

    The files will go to `folder`, "shapes" in the cache folder when not given.
    """
    folder = folder or cache_folder("shapes")
    bench, name = ("shapes_long", "long") if long else ("shapes", "short")
    scenes = "test" if split == "reworded" else split
    items = []
    for index in range(num_videos):
        scene = make_scene(scenes, index, long)
        source = Source(folder / f"v1-{scenes}-{name}-{index}.mp4", write=SceneClip(scene))
        video = f"{bench}/{split}/{index}"
        rng = np.random.default_rng(index)
        for number, question in enumerate(ask(scene)):
            if split == "reworded":
                question = question.reworded(rng, UNSEEN_WORDINGS)
            items.append(
                QaItem(
                    id=f"{video}/{number}",
                    video=video,
                    source=source,
                    question=question.text,
                    answer=question.answer,
                    groups={"family": (question.type,)},
                    guess=1 / len(question.options),
                )
            )
    return items


BENCHMARK = Benchmark(
    name="shapes",
    title="the built-in procedural world, clips of 4-8 s",
    splits=SPLITS,
    load=lambda folder, split: make_items(False, split, DEFAULT_VIDEOS),
    download="none",
    licence="Apache-2.0",
    prompt=bare_question,
    max_new_tokens=24,
    remark="a demonstration: says nothing about real video",
)
VARIANT = dataclasses.replace(
    BENCHMARK,
    name="shapes_long",
    title="the built-in procedural world, clips of 1-3 min",
    load=lambda folder, split: make_items(True, split, DEFAULT_VIDEOS),
)
