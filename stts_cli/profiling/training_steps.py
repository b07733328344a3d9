"""One training step of one arm, timed stage by stage: forward, backward, optimizer.

In: frames and an arm. Out: a `Pass`, as of inference. The step is that of `stts finetune --train full`: the same
module, loss, clipping and optimizer, everything trained, one video with one question; only Trainer's own bookkeeping is
left out. Weights really move, and are thrown away. Source: arXiv 2603.18004, training.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from stts_cli.cost import estimate
from stts_cli.data.conversations import Conversation
from stts_cli.engine.device import PeakMemory
from stts_cli.errors import EnvironmentFailure
from stts_cli.families.base import EncodedVideo, Family, Patches
from stts_cli.media.clip import Clip
from stts_cli.profiling.passes import DENSE, Arm, Job, Pass, late_blocks, run_pass
from stts_cli.pruning.stopwatch import clock
from stts_cli.settings import Execution, Pruning
from stts_cli.training.clips import TrainingClip
from stts_cli.training.model import Step, TrainingModel
from stts_cli.training.optimizers import make_groups, make_optimizer
from stts_cli.training.settings import FinetuneSettings

Run = Callable[[Clip, Arm], Pass]


def runner(family: Family, job: Job) -> Run:
    """Return what runs one pass of a job: an answer, or a training step."""
    if job.train:
        return Trainee(family, job).run
    return lambda clip, arm: run_pass(family, clip, arm, job)


class Trainee:
    """A model in training, all arms on the same float32 weights, every one trained; dtype "bfloat16" means autocast."""

    def __init__(self, family: Family, job: Job) -> None:
        self.settings, self.job = FinetuneSettings(train="full"), job
        self.watched = _Watched(family, job)
        self.model = TrainingModel(cast(Family, self.watched)).train()
        self.model.requires_grad_(True)
        for block in family.idle_vit_blocks:
            block.requires_grad_(False)
        self.optimizer = make_optimizer(make_groups(self.model.named_parameters(), self.settings, family.part_names))

    def run(self, clip: Clip, arm: Arm) -> Pass:
        """Take one step on a clip, timed stage by stage; "step_cpu" is all threads' processor time, on a CPU only."""
        device = self.watched.device
        gc.collect()
        memory = PeakMemory(device) if device.type == "cuda" else None
        held = torch.cuda.memory_allocated(device) if memory else 0
        started, worked = clock(device), time.process_time()
        step = self.forward(clip, arm)
        loss = step.lm_sum / step.num_tokens
        if step.num_windows:
            loss = loss + self.settings.temporal_weight * step.temporal_sum / step.num_windows
        forward = clock(device)
        loss.backward()
        backward = clock(device)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        stepped, worked = clock(device), time.process_time() - worked
        seen = self.watched
        seconds = {
            "preprocess": seen.began - started,
            **seen.seconds,
            "rows": seen.read - seen.ended,
            "llm": forward - seen.read,
            "backward": backward - forward,
            "optimizer": stepped - backward,
            "forward_backward": backward - seen.began,
            "step": stepped - started,
        }
        if device.type == "cpu":
            seconds["step_cpu"] = worked
        return Pass(
            seconds=seconds,
            kept_per_frame=step.keep_mask.sum(1).tolist(),
            packed_patches=seen.packed_patches,
            prompt_tokens=(step.num_inputs + int((~step.keep_mask).sum()), step.num_inputs),
            scorer=seen.scored_by,
            kernel=seen.kernel,
            kernel_reason=seen.kernel_reason,
            peak_bytes=(memory.peak_bytes() or 0) - held if memory else None,
            answer_tokens=step.num_tokens,
        )

    def forward(self, clip: Clip, arm: Arm) -> Step:
        """Read a clip, a question and its answer, with gradients; EnvironmentFailure out of memory, with the stage."""
        device = self.watched.device
        talk = Conversation(((estimate.QUESTION, estimate.ANSWER),))
        frames, times = torch.from_numpy(clip.frames), tuple(clip.timestamps_s)
        given = TrainingClip(frames, times, (talk,), "profile", duration_s=clip.duration_s)
        note = self.watched.model.model.register_forward_pre_hook(self.watched.note_reading)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.job.dtype == "bfloat16"):
                step: Step = self.model([given], arm.keep_ratio, scorer=arm.scorer)
        except EnvironmentFailure as error:  # it names finetune's flags
            what = str(error).partition("; ")[0]
            raise EnvironmentFailure(f"{what}; lower --frames or --keep-ratio, or use --dtype bfloat16.") from error
        finally:
            note.remove()
        return step


class _Watched:
    """A family that notes when the encoder starts and ends, and what it says of itself."""

    def __init__(self, family: Family, job: Job) -> None:
        self.family, self.job = family, job
        self.device: torch.device = family.device
        self.began = self.ended = self.read = 0.0
        self.seconds: dict[str, float] = {}
        self.packed_patches: list[int] = []
        self.scored_by = self.kernel = self.kernel_reason = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def encode(self, patches: Patches, pruning: Pruning, *, execution: Execution) -> EncodedVideo:
        dense = pruning.scorer == DENSE.scorer
        pruning = pruning.override(prune_layer=self.job.layer)
        execution = dataclasses.replace(execution, kernel=self.job.kernel)
        self.began = clock(self.device)
        with late_blocks(self.family, self.job.layer, dense) as late:
            encoded = self.family.encode(patches, pruning, execution=execution)
        self.ended = clock(self.device)
        self.seconds = dict(encoded.seconds)
        self.seconds["vit_dense"] -= late.seconds
        self.seconds["vit_packed"] += late.seconds
        self.packed_patches, self.scored_by = encoded.packed_patches, encoded.scorer
        self.kernel, self.kernel_reason = encoded.kernel, encoded.kernel_reason
        return encoded

    def note_reading(self, *_: Any) -> None:
        self.read = clock(self.device)
