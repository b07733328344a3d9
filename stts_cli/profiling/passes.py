"""One pass of one arm, timed stage by stage, and many of them in turns.

In: a `Job`, frames and arms. Out: `Pass`es. A pass is the path of `stts ask` with the number of decoded tokens fixed,
so that both arms do the same; figures.py makes medians of the passes.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stts_cli import settings
from stts_cli.config.shapes import Architecture
from stts_cli.cost import estimate
from stts_cli.engine.device import PeakMemory
from stts_cli.engine.model import VideoModel, load_checkpoint
from stts_cli.media import video
from stts_cli.media.clip import Clip
from stts_cli.media.resize import choose_filter
from stts_cli.pruning.stopwatch import clock

if TYPE_CHECKING:
    from stts_cli.families.base import Family

Progress = Callable[..., None]  # (what is going on, done, in all)
STAGES = ("preprocess", "vit_dense", "score_select_pack", "vit_packed", "connector", "llm_prefill")
SUMS = {"vit_to_prefill": STAGES[1:], "ttft": STAGES}
TRAINING_STAGES = (*STAGES[:-1], "rows", "llm", "backward", "optimizer")
TRAINING_SUMS = {"forward_backward": TRAINING_STAGES[1:-1], "step": TRAINING_STAGES}
NEW_TOKENS = 9  # the first comes with the prefill, so that decoding is the mean of eight steps


@dataclass(frozen=True)
class Arm:
    """One way of looking at the video."""

    keep_ratio: float  # fraction of windows kept; 1 with scorer "none" is dense
    scorer: str

    @property
    def name(self) -> str:
        """What to call it."""
        return "dense" if self == DENSE else f"{self.scorer} at {self.keep_ratio:g}"


DENSE = Arm(1.0, "none")


@dataclass(frozen=True)
class Job:
    """What every pass of a profile shares; plain data, so that it can be handed to another process."""

    architecture: Architecture
    model: str | None  # a checkpoint folder or a hub id; None for random weights
    video: str  # the file that frames are taken from
    restamp: bool = False  # give the frames times half a second apart instead of their own
    prune_layer: settings.PruneLayer | None = None  # 0-based ViT block; None for the architecture's own
    device: str = "auto"
    dtype: str = "auto"  # of the weights; in training, which keeps them in float32, of autocast
    kernel: str = "auto"  # of `settings.KERNELS`, for the packed blocks
    train: bool = False  # take training steps instead of answering
    resize: str = "model"  # of `resize.RESIZES`
    revision: str | None = None  # of a hub id

    @property
    def layer(self) -> settings.PruneLayer:
        """0-based ViT block after which windows are scored."""
        return self.architecture.prune_layer if self.prune_layer is None else self.prune_layer


@dataclass(frozen=True)
class Pass:
    """One run of one arm."""

    seconds: dict[str, float]  # by stage, "decode_per_token", and `SUMS`; in training `TRAINING_SUMS`
    kept_per_frame: list[int]  # windows of each frame
    packed_patches: list[int]  # of each frame, that the packed blocks ran on
    prompt_tokens: tuple[int, int]  # the prompt's length: dense, as it was run
    scorer: str  # "none" where nothing was dropped
    kernel: str  # of the packed blocks; "dense" where nothing was dropped
    kernel_reason: str
    peak_bytes: int | None  # GPU memory above the model's; None on a CPU
    answer_tokens: int = 0  # that a training step took its loss on


def build(job: Job) -> Family:
    """Load or make the model of a job."""
    dtype = "float32" if job.train else job.dtype
    if job.model is not None:
        return load_checkpoint(job.model, device=job.device, dtype=dtype, revision=job.revision)
    from stts_cli.families.random_model import random_family

    return random_family(job.architecture, device=torch.device(job.device), dtype=getattr(torch, dtype))


def read_frames(
    job: Job, num_frames: int, family: Family, progress: Progress = lambda *_: None
) -> tuple[Clip, dict[str, Any]]:
    """Take a number of frames from the job's video, the whole of it evenly, and repeat it where it holds too few.

    Return the clip, and what to say about it: "seconds" of reading, "text" and counts of frames.
    """
    progress(f"reading {num_frames} frames")
    started = clock("cpu")
    resample = choose_filter(job.resize, family.resample)
    size = job.architecture.at(num_frames).layout.frame_size
    clip = video.read_clip(job.video, num_frames=num_frames, max_fps=1000.0, size=size, resample=resample)
    seconds = clock("cpu") - started
    num_distinct, times = len(clip.timestamps_s), clip.timestamps_s
    text = f"{num_distinct} of the {clip.num_source_frames} frames of {Path(job.video).name}, spread evenly"
    if num_distinct < num_frames:
        step = (times[-1] - times[0]) / (num_distinct - 1) if num_distinct > 1 else estimate.SECONDS_APART
        times = [times[0] + i * step for i in range(num_frames)]
        clip = dataclasses.replace(clip, frames=clip.frames[np.arange(num_frames) % num_distinct])
        text += f", repeated to make {num_frames}"
    if job.restamp:
        times = [i * estimate.SECONDS_APART for i in range(num_frames)]
        text += f", stamped {estimate.SECONDS_APART:g} s apart"
    about = {
        "path": job.video,
        "num_frames": num_frames,
        "num_source_frames": clip.num_source_frames,
        "num_distinct": num_distinct,
        "seconds": seconds,
        "text": "; ".join([text, f"read by {clip.backend}", *clip.damage, *clip.notes]),
    }
    return dataclasses.replace(clip, timestamps_s=times), about


def take_turns(
    run: Callable[[Clip, Arm], Pass],
    clip: Clip,
    arms: Sequence[Arm],
    repeats: int,
    progress: Progress = lambda *_: None,
) -> list[list[Pass]]:
    """Run every arm once to warm up, then all `repeats` times in changing order; return each arm's timed passes."""
    for arm in arms:
        progress(f"{len(clip.timestamps_s)} frames: warming up, {arm.name}")
        run(clip, arm)
    passes: list[list[Pass]] = [[] for _ in arms]
    for turn in range(repeats):
        for i in range(len(arms)):
            which = (i + turn) % len(arms)
            what = f"{len(clip.timestamps_s)} frames: {arms[which].name}, {turn + 1} of {repeats}"
            progress(what, turn * len(arms) + i, repeats * len(arms))
            passes[which].append(run(clip, arms[which]))
    return passes


def run_pass(family: Family, clip: Clip, arm: Arm, job: Job) -> Pass:
    """Take one clip from frames in memory to the last decoded token, and time each stage."""
    device = family.device
    gc.collect()
    memory = PeakMemory(device) if device.type == "cuda" else None
    held = torch.cuda.memory_allocated(device) if memory else 0
    how = settings.Arm(arm.name, "", keep_ratio=arm.keep_ratio, scorer=arm.scorer, prune_layer=job.layer)
    model = VideoModel(family, how, max_new_tokens=NEW_TOKENS)
    with late_blocks(family, job.layer, arm == DENSE) as late:
        video = model.encode(clip, execution=settings.Execution(kernel=job.kernel))
    answer = model.ask(video, estimate.QUESTION, ignore_eos=True)
    seconds = dict(video.seconds)
    seconds["vit_dense"] -= late.seconds
    seconds["vit_packed"] += late.seconds
    seconds["llm_prefill"] = video.prefill_s + answer.seconds["llm_prefill"]
    seconds |= {name: sum(seconds[stage] for stage in stages) for name, stages in SUMS.items()}
    seconds["decode_per_token"] = answer.seconds["decode"] / (NEW_TOKENS - 1)
    return Pass(
        seconds=seconds,
        kept_per_frame=video.keep_mask.sum(1).tolist(),
        packed_patches=video.tokens.packed_patches,
        prompt_tokens=answer.savings.tokens["LLM prompt"],
        scorer=video.tokens.scorer,
        kernel=video.tokens.kernel,
        kernel_reason=video.tokens.kernel_reason,
        peak_bytes=(memory.peak_bytes() or 0) - held if memory else None,
    )


@dataclass
class Late:
    """Seconds that some blocks took."""

    seconds: float = 0.0


@contextmanager
def late_blocks(family: Family, prune_layer: settings.PruneLayer, is_dense: bool) -> Iterator[Late]:
    """Time the blocks of a dense pass that a pruned pass runs packed; yield the time, 0 of a pruned pass."""
    late, entered = Late(), [0.0]
    blocks = family.vit_blocks[settings.num_dense_blocks(prune_layer, len(family.vit_blocks)) :]
    if not is_dense or not blocks:
        yield late
        return
    device = family.device

    def enter(*_: Any) -> None:
        entered[0] = clock(device)

    def leave(*_: Any) -> None:
        late.seconds += clock(device) - entered[0]

    hooks = [blocks[0].register_forward_pre_hook(enter), blocks[-1].register_forward_hook(leave)]
    try:
        yield late
    finally:
        for hook in hooks:
            hook.remove()
