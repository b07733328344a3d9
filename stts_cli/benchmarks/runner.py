"""Ask every question of a benchmark and score it: videos with questions in, accuracy beside cost out.

Every arm (pruned, dense) answers the same questions about the same decoded frames. Scoring is exact match on the text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from stts_cli import __version__
from stts_cli.benchmarks.shapes import BENCHMARKS, items
from stts_cli.device import resolve_device
from stts_cli.errors import InputError, suggest
from stts_cli.pipeline import answer_questions, load, resolve_scorer
from stts_cli.video import read_clip

Row = dict[str, Any]


def evaluate(
    bench: str,
    *,
    model: str,
    videos: int,
    frames: int,
    max_fps: float,
    keep_ratio: float | None = None,
    scorer: str = "auto",
    prune_layer: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_new_tokens: int = 24,
    compare: bool = False,
    split: str = "test",
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a benchmark of the procedural world.

    Args:
        bench: a key of `shapes.BENCHMARKS`.
        model: a checkpoint folder or a hub id.
        videos: how many clips, each with all its questions.
        frames: at most this many frames a video.
        max_fps: at most this many a second.
        keep_ratio: fraction of windows kept, in (0, 1]; None for the checkpoint's own.
        scorer: "auto", or one of `pruning.SCORERS`.
        prune_layer: 0-based ViT block after which windows are scored; None for the checkpoint's own.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32", "bfloat16" or "float16".
        max_new_tokens: the most tokens of an answer.
        compare: also answer dense.
        split: "test" or "validation".
        progress: called with a line after every video.

    Returns:
        The run's settings, per arm a summary ({"families": {family: score}, **score, "videos", "visual_tokens",
        "flops", "seconds"} with score = {"n", "accuracy", "chance"}), and every sample. Visual tokens and seconds are
        means a video, FLOPs the mean of one question asked alone.

    Raises:
        InputError: an unknown benchmark, a bad number of videos, or what loading raises.
    """
    if bench not in BENCHMARKS:
        raise InputError(f"benchmark '{bench}' is not built in{suggest(bench, BENCHMARKS)} -> choose one of them")
    if videos < 1:
        raise InputError(f"videos is {videos} -> at least 1 -> raise it")
    device = resolve_device(device)
    dtype = ("bfloat16" if device.startswith("cuda") else "float32") if dtype == "auto" else dtype
    progress("loading the model")
    family = load(model, device=device, dtype=dtype)
    scorer, keep_ratio, notes = resolve_scorer(family, scorer, keep_ratio)
    arms = {"pruned": (keep_ratio, scorer)}
    if compare:
        arms["dense"] = (1.0, "none")
    samples: list[Row] = []
    costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in arms}
    for count, item in enumerate(items(bench, videos, split), start=1):
        clip = read_clip(item.path, num_frames=frames, max_fps=max_fps, size=family.frame_size)
        rows = [
            {"video": item.id, "family": q.family, "question": q.text, "answer": q.answer, "chance": 1 / len(q.options)}
            for q in item.questions
        ]
        for name, (ratio, who) in arms.items():
            begin = time.perf_counter()
            arm = answer_questions(
                family,
                clip,
                [q.text for q in item.questions],
                keep_ratio=ratio,
                scorer=who,
                prune_layer=prune_layer,
                max_new_tokens=max_new_tokens,
            )
            seconds = time.perf_counter() - begin
            for row, answer in zip(rows, arm.answers, strict=True):
                row[name] = answer.text.strip()
            costs[name].append((arm.num_windows_kept, arm.answers[0].savings["flops"]["total"]["pruned"], seconds))
        samples += rows
        progress(f"{count} of {videos} videos, {len(samples)} questions")
    return {
        "stts": __version__,
        "command": "eval",
        "bench": bench,
        "split": split,
        "model": family.model_name,
        "is_demonstration": family.is_demonstration,
        "device": device,
        "dtype": dtype,
        "frames": frames,
        "max_fps": max_fps,
        "keep_ratio": keep_ratio,
        "scorer": scorer,
        "scoring": "exact match",
        "notes": notes,
        "arms": {name: _summary(name, samples, costs[name]) for name in arms},
        "samples": samples,
    }


def _summary(name: str, samples: list[Row], costs: list[tuple[float, float, float]]) -> dict[str, Any]:
    names = dict.fromkeys(row["family"] for row in samples)
    families = {family: _score(name, [row for row in samples if row["family"] == family]) for family in names}
    tokens, flops, seconds = (sum(column) / len(costs) for column in zip(*costs, strict=True))
    cost = {"videos": len(costs), "visual_tokens": tokens, "flops": flops, "seconds": seconds}
    return {"families": families, **_score(name, samples), **cost}


def _score(name: str, rows: list[Row]) -> dict[str, Any]:
    return {
        "n": len(rows),
        "accuracy": sum(row[name] == row["answer"] for row in rows) / len(rows),
        "chance": sum(row["chance"] for row in rows) / len(rows),
    }
