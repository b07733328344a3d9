"""STTS on transformers.Trainer: the loss, the rates, evaluation and checkpoints; the loop is Trainer's.

The loss is (sum of the answers' cross-entropy) / (answers' tokens) + weight x (sum of the temporal loss) / (windows),
all taken over one optimizer step on all processes: so their number, accumulation and packing change nothing. Where
tokens have weights, both sums over them are weighted. Source: arXiv 2603.18004, training.
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.nn.functional  # before a group is made: its functions' defaults would hold it to the very end
from torch import Tensor, distributed, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints

from stts_cli.config.training import keep_ratios
from stts_cli.data.rows import first_line
from stts_cli.engine.device import keep_freed_memory, resident_bytes, resolve_device
from stts_cli.errors import InputError, is_out_of_memory, suggest, writing
from stts_cli.training.clips import Batch, collate
from stts_cli.training.evaluation import Figures, evaluate_arms
from stts_cli.training.model import Step, TrainingModel, stage
from stts_cli.training.optimizers import make_groups, make_optimizer, rate_factor
from stts_cli.training.run_folder import SAVING, Files, Report, checkpoints_of, step_of
from stts_cli.training.settings import FinetuneSettings, main_keep_ratio

RANK = "accuracy_then_loss"  # what the best checkpoint is best in: of equal accuracies the lower loss wins


class SttsTrainer(Trainer):
    """Trainer for a `TrainingModel`, with the run's settings.

    `arguments` come from `trainer_arguments`; items of the data sets are lists of clips, `eval_dataset` is None for no
    evaluation. `files` says how weights are written and read; `report` takes what is logged, on the first process.
    """

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        settings: FinetuneSettings,
        model: TrainingModel,
        arguments: TrainingArguments,
        *,
        train_dataset: Any,
        eval_dataset: Any,
        files: Files,
        report: Report,
    ) -> None:
        self.settings, self.training_model = settings, model
        self.files, self._report = files, report
        self._ratios = keep_ratios(settings.keep_ratio)
        self._sums = torch.zeros(9, dtype=torch.float64)
        self._measured: dict[int | None, Figures] = {}
        self._since = time.perf_counter()
        super().__init__(
            model=model, args=arguments, train_dataset=train_dataset, eval_dataset=eval_dataset, data_collator=collate
        )
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_Heartbeat(report))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """Train; a run that ended before its result was written is only read back."""
        if isinstance(resume_from_checkpoint, str) and step_of(Path(resume_from_checkpoint)) >= self.args.max_steps:
            # Trainer would take one step more before it sees that there is nothing left to do
            checkpoint = Path(resume_from_checkpoint)
            self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            best = self.state.best_global_step if self.args.load_best_model_at_end else None
            self.files.read(checkpoint if best is None else checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{best}"))
            return TrainOutput(self.state.global_step, 0.0, {})
        return super().train(resume_from_checkpoint, *args, **options)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer, a group for every part."""
        if self.optimizer is None:
            named = (self.training_model if model is None else model).named_parameters()
            self.optimizer = make_optimizer(make_groups(named, self.settings, self.training_model.family.part_names))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule, each part's its own."""
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            factor = functools.partial(rate_factor, settings=self.settings, total=num_training_steps)
            factors: list[Any] = [functools.partial(factor, part=group["part"]) for group in optimizer.param_groups]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Draw an optimizer step's batches, and count over all processes what the losses are divided by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [self.training_model.count(batch["clips"]) for batch in batches]
        return batches, self._add_up(torch.tensor(counts, dtype=torch.float64).sum(0)).float().to(device)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this batch's share of the step's loss."""
        step = self.state.global_step
        draw = np.random.default_rng([self.settings.seed, 43, step])  # the same on all processes
        ratio = float(draw.choice([r for r, _ in self._ratios], p=[share for _, share in self._ratios]))
        alone = step < self.settings.scorer_warmup
        if alone:
            ratio = min(r for r, _ in self._ratios)
        weights, windows = num_items_in_batch.clamp_min(1)
        out: Step = model(
            inputs["clips"],
            ratio,
            seed=int(draw.integers(2**31)),
            temporal_only=alone,
            score_bound=self.accelerator.num_processes / float(windows),
        )
        temporal = self.settings.temporal_weight * out.temporal_sum / windows
        loss = temporal if alone else out.answer_sum / weights + temporal
        self._sums += out.sums()
        return loss * self.accelerator.num_processes  # processes' gradients are averaged, and these are sums

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the whole gradient, or each part's by itself; return the whole one's norm before."""
        if self.settings.clip_by == "all":
            return super()._clip_grad_norm(model)
        parts: dict[str, list[nn.Parameter]] = {}
        for group in self.optimizer.param_groups:
            parts.setdefault(group["part"], []).extend(group["params"])
        norms = [self.accelerator.clip_grad_norm_(weights, self.args.max_grad_norm) for weights in parts.values()]
        return math.hypot(*(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm) for norm in norms))

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Run one batch forward and backward."""
        with stage("the backward pass", "--batch-size, --frames or --keep-ratio"):
            return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss's parts, the share of windows kept and the speed to a line of the log."""
        if "loss" in logs:
            now, device = time.perf_counter(), self.args.device
            lm, tokens, temporal, windows, kept, total, inputs, right, answers = self._add_up(self._sums).tolist()
            parts = {"lm_loss": (lm, tokens), "temporal_loss": (temporal, windows), "accuracy": (right, answers)}
            logs |= {name: value / count for name, (value, count) in parts.items() if count}
            logs |= {"kept": kept / max(1, total), "tokens_per_s": inputs / (now - self._since)}
            cuda = device.type == "cuda"
            held: int | None = torch.cuda.max_memory_allocated(device) if cuda else resident_bytes()
            if held is not None:
                logs["memory_gib"] = held / 2**30
            self._sums, self._since = torch.zeros_like(self._sums), now
        super().log(logs, start_time)
        if self.is_world_process_zero() and "loss" in logs:
            self._report({"event": "log", "step": self.state.global_step, **logs})

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure held-out questions dense and pruned: "eval_dense_accuracy", "eval_pruned_accuracy" and the like."""
        arms = self._measured[self.state.global_step] = self.measure(self.arms())
        metrics = {f"{metric_key_prefix}_{arm}_{k}": v for arm, one in arms.items() for k, v in one.items()}
        last = arms.get("pruned", arms["dense"])
        metrics[f"{metric_key_prefix}_{RANK}"] = last["accuracy"] - 1e-6 * min(last["loss"], 1e3)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def arms(self) -> dict[str, tuple[float, str]]:
        """Return what an evaluation compares: dense, and pruned as it is trained."""
        ratio = main_keep_ratio(self.settings.keep_ratio)
        pruned = ratio < 1 and self.settings.scorer != "none"
        return {"dense": (1.0, "none")} | ({"pruned": (ratio, self.settings.scorer)} if pruned else {})

    def measured(self) -> Figures:
        """Return what the weights that training ended with give on the held-out clips, measured once."""
        step = self.state.best_global_step if self.args.load_best_model_at_end else self.state.global_step
        if step not in self._measured:
            self._measured[step] = self.measure(self.arms())
        return self._measured[step]

    def measure(self, arms: dict[str, tuple[float, str]]) -> Figures:
        """Measure the held-out clips; see `evaluation.evaluate_arms`."""
        began = time.perf_counter()
        # before training, Trainer has not put its own autocast around the model yet
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            result = evaluate_arms(
                self.training_model,
                self.eval_dataset,
                arms=arms,
                rank=self.args.process_index,
                world=self.args.world_size,
                workers=self.settings.workers,
                reduce=self._add_up,
            )
        if self.is_world_process_zero():
            self._report({"event": "evaluation", "step": self.state.global_step, "arms": result})
        self._since += time.perf_counter() - began
        return result

    def _add_up(self, values: Tensor) -> Tensor:
        """Add a tensor up over all processes."""
        if self.args.world_size == 1:
            return values
        total: Tensor = self.accelerator.reduce(values.to(self.args.device), "sum")
        return total.to(values)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint beside the others and move it in when it is whole; then delete old ones."""
        run, limit = Path(self.args.output_dir), self.args.save_total_limit
        part, name = run / SAVING, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.args.output_dir, self.args.save_total_limit = str(part), None
        try:
            with writing(part):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir, self.args.save_total_limit = str(run), limit
        self.accelerator.wait_for_everyone()
        best = self.state.best_global_step
        if best:
            self.state.best_model_checkpoint = str(run / f"{PREFIX_CHECKPOINT_DIR}-{best}")
        if self.args.should_save:
            with writing(run / name):
                self.state.save_to_json(str(part / name / "trainer_state.json"))
                shutil.rmtree(run / name, ignore_errors=True)
                os.replace(part / name, run / name)
            shutil.rmtree(part, ignore_errors=True)
            latest = [step_of(one) for one in checkpoints_of(run)][-(limit or 1) :]
            more = best is not None and best not in latest  # the best is kept beside the latest
            rotate_checkpoints(str(run), limit and limit + more, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            self.files.write(Path(output_dir or self.args.output_dir), state_dict)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both, or say which file is damaged; Trainer would go on without a file that is missing."""
        if checkpoint is None or self.is_fsdp_enabled:
            with _readable(checkpoint, "optimizer"):
                return super()._load_optimizer_and_scheduler(checkpoint)
        # several processes would hold as many copies in the machine's memory
        place = self.args.device if self.args.world_size > 1 and self.args.device.type != "cpu" else "cpu"
        for name, target in (("optimizer.pt", self.optimizer), ("scheduler.pt", self.lr_scheduler)):
            with _readable(checkpoint, name):
                target.load_state_dict(torch.load(Path(checkpoint) / name, map_location=place, weights_only=True))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        number = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        with _readable(checkpoint, f"rng_state{number}.pth"):
            super()._load_rng_state(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.files.read(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            return super()._load_best_model()
        # not the path that the state holds: a resumed run may have been started from another folder
        self.files.read(Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")


@contextmanager
def _readable(checkpoint: str | None, name: str) -> Iterator[None]:
    """Say of a checkpoint's file that it is damaged; what unpickling may raise is no short list."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{checkpoint}/{name}: is damaged, or of another run ({first_line(error)}). Delete the checkpoint to go on "
            "from an earlier one."
        ) from error


class _Heartbeat(TrainerCallback):
    """Report every step to the progress bar."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the step just taken."""
        if state.is_world_process_zero:
            self.report({"event": "step", "step": state.global_step, "total": state.max_steps})


def trainer_arguments(settings: FinetuneSettings, output: Path, *, device: str, has_eval: bool) -> TrainingArguments:
    """Translate a run's settings into Trainer's; `max_steps` and, where it is 0, `save_steps` are the caller's to set.

    Under several processes each takes its own GPU. `output` is the folder for checkpoints.
    """
    every = settings.eval_every if has_eval else 0
    sequential = settings.data == "shapes"
    use_cpu = resolve_device(device) == "cpu"
    if use_cpu:
        keep_freed_memory()
    trackers = [name for name in settings.report_to.split(",") if name not in ("", "none")]
    for name in trackers:
        if name not in INTEGRATION_TO_CALLBACK:
            raise InputError(f"--report-to {name}: is unknown{suggest(name, INTEGRATION_TO_CALLBACK)}")
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=1,
        per_device_train_batch_size=1 if sequential else settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        max_grad_norm=settings.clip,
        bf16=settings.precision == "bf16",
        use_cpu=use_cpu,
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if every else "no",
        eval_steps=every or None,
        save_strategy="steps",
        save_steps=every or settings.save_every or 1,
        save_total_limit=settings.keep_checkpoints,
        load_best_model_at_end=bool(every),
        metric_for_best_model=f"eval_{RANK}" if every else None,
        greater_is_better=True if every else None,
        train_sampling_strategy="sequential" if sequential else "random",
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=False,
        dataloader_persistent_workers=settings.workers > 0,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=trackers or "none",
        ddp_find_unused_parameters=True,  # a dense step leaves the scorer out, its warm-up everything else
        label_names=[],
    )
    arguments.save_steps = every or settings.save_every
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process drives one GPU; several take torchrun
    if distributed.is_initialized():
        _leave_at_exit()
    return arguments


@functools.cache
def _leave_at_exit() -> None:
    """End gloo's threads before the interpreter ends: now and then they would abort a process that is done."""
    atexit.register(distributed.destroy_process_group)
