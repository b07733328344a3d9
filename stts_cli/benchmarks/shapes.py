"""The procedural world as a benchmark: held-out scenes written as H.264 files, open questions, exact match.

`shapes` has clips of 4-8 s, `shapes_long` clips of 1-3 min with one event of 1-2 s. The files are made on first use and
kept in a cache folder. Results on them say nothing about real video.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stts_cli.shapes.clips import write_clip
from stts_cli.shapes.questions import Question, ask
from stts_cli.shapes.world import make_scene

BENCHMARKS = {"shapes": False, "shapes_long": True}


@dataclass(frozen=True)
class VideoItem:
    """One video and what is asked about it."""

    id: str
    path: Path
    questions: tuple[Question, ...]


def cache_folder() -> Path:
    """Return where clips are kept: $XDG_CACHE_HOME/stts/shapes, ~/.cache/stts/shapes by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stts" / "shapes"


def items(name: str, num_videos: int, split: str = "test", folder: Path | None = None) -> Iterator[VideoItem]:
    """Yield held-out videos with all their questions, writing files that are not there yet.

    Args:
        name: a key of `BENCHMARKS`.
        num_videos: how many, from index 0 on.
        split: "test" or "validation".
        folder: where the files go; `cache_folder()` when not given.

    Yields:
        One item a video.
    """
    long = BENCHMARKS[name]
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num_videos):
        scene = make_scene(split, index, long)
        path = folder / f"v1-{split}-{'long' if long else 'short'}-{index}.mp4"
        if not path.exists():
            write_clip(scene, path)
        yield VideoItem(f"{name}/{split}/{index}", path, tuple(ask(scene)))
