"""One run of `stts ask`: questions about one video, answered by one or more arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stts_cli import __version__
from stts_cli.engine.model import VideoModel, check_question, load_arm
from stts_cli.engine.results import Answer, Video
from stts_cli.media.clip import Clip
from stts_cli.media.source import ReadRequest, Source
from stts_cli.pruning.stopwatch import clock
from stts_cli.settings import Arm

if TYPE_CHECKING:
    from stts_cli.families.base import Family

Progress = Callable[[str], None]
WARM_UP_FRAMES = 2


@dataclass(frozen=True)
class ArmRun:
    """What one arm gave.

    Attributes:
        name: for tables.
        model: that answered.
        video: as it saw it.
        answers: one a question.
    """

    name: str
    model: VideoModel
    video: Video
    answers: list[Answer]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        video, pruning = self.video, self.video.pruning
        kept = video.keep_mask.sum(1).tolist()
        shared = {"llm_prefill": video.prefill_s, "decode": 0.0}
        for answer in self.answers:
            shared = {stage: shared[stage] + answer.seconds[stage] for stage in shared}
        return {
            "name": self.name,
            "scorer": pruning.scorer,
            "keep_ratio": pruning.keep_ratio,
            "prune_layer": pruning.prune_layer,
            "kernel": video.tokens.kernel,
            "kernel_reason": video.tokens.kernel_reason,
            "num_windows": video.keep_mask.numel(),
            "num_windows_kept": sum(kept),
            "kept_per_frame": kept,
            "seconds": {**video.seconds, **shared},
            "peak_bytes": self.answers[-1].peak_bytes,
            "answers": [answer.to_dict() for answer in self.answers],
        }


@dataclass(frozen=True)
class AskRun:
    """One run of `stts ask`.

    Attributes:
        path: the video.
        arms: at least one.
        seconds: "load" and "read".
        notes: what a user should know.
    """

    path: str
    arms: list[ArmRun]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain data, ready for JSON."""
        first = self.arms[0]
        return {
            "stts": __version__,
            "command": "ask",
            "model": first.model.name,
            "is_demonstration": first.model.family.is_demonstration,
            "device": str(first.model.device),
            "dtype": first.model.dtype,
            "video": {**_describe(self.path, first.video.clip), "resize": first.model.arm.resize},
            "arms": [arm.to_dict() for arm in self.arms],
            "seconds": self.seconds,
            "notes": self.notes,
        }


def ask(
    arms: Sequence[Arm],
    path: str | Path,
    questions: Sequence[str],
    *,
    options: Sequence[str] = (),
    device: str = "auto",
    max_new_tokens: int = 64,
    progress: Progress = lambda stage: None,
) -> AskRun:
    """Answer questions about a video file under every arm, all after a warm-up where there are several.

    Args:
        arms: at least one; each checkpoint is loaded once.
        path: the video file.
        questions: one or more.
        options: if given, at least two: the likeliest is the answer to every question.
        device: as for `model.load`.
        max_new_tokens: the most tokens of an answer.
        progress: called with the name of each stage as it starts.

    Returns:
        The run.

    Raises:
        InputError: the video, a model's name or a setting is wrong.
        EnvironmentFailure: the device is not there.
    """
    for question in questions:
        check_question(question, options)
    progress("loading the model")
    started = clock("cpu")
    families: dict[tuple[str, str], Family] = {}
    models = [load_arm(arm, device, max_new_tokens=max_new_tokens, loaded=families) for arm in arms]
    loaded = clock("cpu")
    progress("reading the video")
    requests = [model.request(Source(Path(path))) for model in models]
    clips: dict[ReadRequest, Clip] = {}
    for model, request in zip(models, requests, strict=True):
        if request not in clips:
            clips[request] = model.read(path)
    seconds = {"load": loaded - started, "read": clock("cpu") - loaded}
    if len(models) > 1:
        progress("warming up")
        for model, request in zip(models, requests, strict=True):
            model.ask(model.encode(clips[request].first(WARM_UP_FRAMES)), "?", max_new_tokens=2)
    runs = []
    for arm, model, request in zip(arms, models, requests, strict=True):
        progress("looking at the video" + (", dense" if model.is_dense else ""))
        video = model.encode(clips[request])
        progress("answering")
        answers = [model.ask(video, question, options=options) for question in questions]
        runs.append(ArmRun("dense" if model.is_dense else arm.name, model, video, answers))
    return AskRun(str(path), runs, seconds, list(dict.fromkeys(note for run in runs for note in run.video.notes)))


def _describe(path: str, clip: Clip) -> dict[str, Any]:
    return {
        "path": path,
        "duration_s": clip.duration_s,
        "source_fps": clip.source_fps,
        "num_source_frames": clip.num_source_frames,
        "num_frames": len(clip.timestamps_s),
        "timestamps_s": clip.timestamps_s,
        "frame_size": list(clip.frames.shape[1:3]),
        "backend": clip.backend,
    }
