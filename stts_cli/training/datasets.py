"""What a run trains and measures on: rows read and checked, then the data sets that Trainer draws from."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.data.conversations import Conversation
from stts_cli.errors import InputError
from stts_cli.media.container import VideoInfo
from stts_cli.media.resize import DECODER, NOTE, choose_filter
from stts_cli.settings import FixedLayout, Layout
from stts_cli.training.run_folder import RunLog
from stts_cli.training.settings import FinetuneSettings


@dataclass(frozen=True)
class Data:
    """What a run trains and measures on: items are lists of clips; `held_out` is None for no evaluation."""

    train: Any
    held_out: Any
    name: str


def read_rows(
    settings: FinetuneSettings, notes: list[str], skip_invalid: bool
) -> tuple[FinetuneSettings, tuple[Any, Any]]:
    """Read the data files: the settings with the number of held-out videos decided, samples to train on, held-out."""
    if settings.data == "shapes":
        return settings.override(eval_videos=20 if settings.eval_videos is None else None), (None, None)
    from stts_cli.training.samples import read_samples, split_held_out

    read = functools.partial(
        read_samples,
        video_root=settings.video_root,
        max_questions=settings.max_questions,
        notes=notes,
        skip_invalid=skip_invalid,
    )
    rows = read(settings.data)
    if settings.eval_videos is None:
        num_videos = len({row.video for row in rows})
        tenth = min(20, max(1, num_videos // 10)) if num_videos > 1 else 0
        settings = settings.override(eval_videos=20 if settings.eval_data else tenth)
    if settings.eval_data is None:
        return settings, split_held_out(rows, settings.eval_videos or 0, settings.seed)
    return settings, (rows, None if settings.eval_data == "shapes" else read(settings.eval_data))


def fingerprint(rows: tuple[Any, Any]) -> str:
    """Return what changes when the rows do; it stands in the record of runs that have begun."""
    return "shapes" if rows[0] is None else hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def make_data(
    settings: FinetuneSettings, family: Any, rows: tuple[Any, Any], world: int, skip_invalid: bool, log: RunLog
) -> Data:
    """Check every row and video, and make the data sets."""
    from stts_cli.toy.world_clips import DRAWN_SIDE, HeldOutShapes, ShapesClips
    from stts_cli.training.clips import VideoClips

    held_out: Any = None
    rule = family.layout_rule
    shapes_size = rule(DRAWN_SIDE, DRAWN_SIDE, settings.frames).frame_size
    if "shapes" in (settings.data, settings.eval_data) and settings.eval_videos:
        held_out = HeldOutShapes(settings, shapes_size)
    if settings.data == "shapes":
        train = ShapesClips(settings, shapes_size, world)
        return Data(train, held_out, "the procedural world, training seeds")
    if settings.resize == DECODER:
        log.note(NOTE)
    clips = [
        VideoClips(
            check_rows(settings, family, samples, skip_invalid, log),
            num_frames=settings.frames,
            max_fps=settings.max_fps,
            frame_size=rule.layout.frame_size if isinstance(rule, FixedLayout) else rule,
            resample=choose_filter(settings.resize, family.resample),
            cache_dir=Path(settings.cache) if settings.cache else None,
        )
        for samples in rows
        if samples
    ]
    return Data(clips[0], clips[1] if len(clips) > 1 else held_out, settings.data)


def check_rows(settings: FinetuneSettings, family: Any, samples: Any, skip_invalid: bool, log: RunLog) -> Any:
    """Look at every row and video before the first step."""
    import torch

    from stts_cli.training.samples import leave_out, report_problems, validate

    most = family.model.config.get_text_config().max_position_embeddings

    @functools.cache
    def before(num_frames: int, layout: Layout) -> int:
        """Count the tokens up to the end of a video whose times are not known yet: of no fewer digits than these."""
        keep = torch.ones(layout.num_units(num_frames), layout.num_windows, dtype=torch.bool)
        if keep.numel() > most:
            return keep.numel()
        return len(family.video_prefix([9999.9] * num_frames, keep, layout).ids)

    def measure(info: VideoInfo, num_frames: int, conversation: Conversation) -> int:
        layout = family.layout_rule(info.height, round(info.width * info.aspect), max(1, num_frames))
        return before(num_frames, layout) + len(conversation.tokens(family)[0]) - 1

    problems = validate(
        samples,
        max_frames=settings.frames,
        max_fps=settings.max_fps,
        measure=measure,
        limit=min(settings.seq_len or most, most),
        progress=lambda done, total: log({"event": "checking", "done": done, "total": total}),
    )
    if not problems:
        return samples
    text = report_problems(problems)
    if not skip_invalid:
        raise InputError(f"{text}; correct the data, or add --skip-invalid to train without them.")
    log.note(f"left out: {text}")
    rest = leave_out(samples, problems)
    if not rest:
        raise InputError(f"--data {settings.data}: no sample is left; correct the data.")
    return rest


def num_steps(settings: FinetuneSettings, data: Data, world: int) -> int:
    """Return the optimizer steps of a run, the scorer's warm-up included."""
    if settings.data == "shapes" and not settings.steps:
        raise InputError("--data shapes: has no end; give --steps.")
    if settings.steps:
        return settings.steps + settings.scorer_warmup
    each = settings.batch_size * settings.accumulate * world
    return max(1, round(settings.epochs * -(-len(data.train) // each))) + settings.scorer_warmup
