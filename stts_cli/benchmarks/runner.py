"""Ask every question of a benchmark and score it: videos with questions in, accuracy beside cost out.

Every arm (pruned, dense) answers the same questions about the same decoded frames. Scoring is exact match on the text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from stts_cli.benchmarks.shapes import VideoItem
from stts_cli.families.family import Family
from stts_cli.pipeline import answer_questions
from stts_cli.video import read_clip


def evaluate(
    family: Family,
    videos: Iterable[VideoItem],
    *,
    frames: int,
    max_fps: float,
    arms: dict[str, dict[str, Any]],
    max_new_tokens: int = 24,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run every arm over every question.

    Args:
        family: a loaded model.
        videos: what to ask.
        frames: at most this many frames a video.
        max_fps: at most this many a second.
        arms: name -> keyword arguments of `answer_questions` (keep_ratio, scorer, prune_layer).
        max_new_tokens: the most tokens of an answer.
        progress: called with a line after every video.

    Returns:
        {"arms": {name: {"families": {family: {"n", "accuracy", "chance"}}, "n", "accuracy", "chance", "videos",
        "visual_tokens", "flops", "seconds"}}, "samples": [...]}. Visual tokens and seconds are means a video, FLOPs
        are the mean of one question asked alone.
    """
    samples: list[dict[str, Any]] = []
    costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in arms}
    for count, video in enumerate(videos, start=1):
        clip = read_clip(video.path, num_frames=frames, max_fps=max_fps, size=family.frame_size)
        rows = [
            {
                "video": video.id,
                "family": q.family,
                "question": q.text,
                "answer": q.answer,
                "chance": 1 / len(q.options),
            }
            for q in video.questions
        ]
        for name, settings in arms.items():
            begin = time.perf_counter()
            arm = answer_questions(
                family, clip, [q.text for q in video.questions], max_new_tokens=max_new_tokens, **settings
            )
            seconds = time.perf_counter() - begin
            for row, answer in zip(rows, arm.answers, strict=True):
                row[name] = answer.text.strip()
            flops = arm.answers[0].savings["flops"]["total"]["pruned"]
            costs[name].append((arm.num_windows_kept, flops, seconds))
        samples += rows
        progress(f"{count} videos, {len(samples)} questions")
    return {"arms": {name: _summary(name, samples, costs[name]) for name in arms}, "samples": samples}


def _summary(name: str, samples: list[dict[str, Any]], costs: list[tuple[float, float, float]]) -> dict[str, Any]:
    families: dict[str, dict[str, Any]] = {}
    for family in dict.fromkeys(row["family"] for row in samples):
        families[family] = _score(name, [row for row in samples if row["family"] == family])
    tokens, flops, seconds = (sum(column) / max(1, len(costs)) for column in zip(*costs, strict=True))
    return {
        "families": families,
        **_score(name, samples),
        "videos": len(costs),
        "visual_tokens": tokens,
        "flops": flops,
        "seconds": seconds,
    }


def _score(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    n = len(rows)
    return {
        "n": n,
        "accuracy": sum(row[name] == row["answer"] for row in rows) / n,
        "chance": sum(row["chance"] for row in rows) / n,
    }
