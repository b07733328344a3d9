"""One finetuning run from start to end: data and a base model in, a checkpoint folder and what it gained out.

Beside the result, the folder holds `run.json` (the settings), `log.jsonl` and `checkpoints/`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any

from stts_cli import __version__
from stts_cli.errors import EnvironmentFailure, InputError, install_hint, writing
from stts_cli.settings import check_prune_layer
from stts_cli.training import run_folder
from stts_cli.training.datasets import Data, fingerprint, make_data, num_steps, read_rows
from stts_cli.training.run_folder import CHECKPOINTS, LOG_FILE, Document, Report, RunLog, process
from stts_cli.training.settings import FinetuneSettings, main_keep_ratio, without_effect


def finetune(
    settings: FinetuneSettings,
    output: str | Path,
    *,
    resume: bool = False,
    skip_invalid: bool = False,
    device: str = "auto",
    report: Report = lambda event: None,
) -> Document:
    """Train, and leave the result in the folder `output`.

    Args:
        settings: the run's.
        output: made if needed.
        resume: go on with the run that the folder holds.
        skip_invalid: leave out the questions that the check of the data finds fault with.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        report: takes what happens, as documents with "event".

    Returns:
        A document with "before" and "after" (accuracy and loss by arm), "steps", "seconds" and the settings.

    Raises:
        InputError: bad data, an unknown base model, or a folder that holds another run.
        EnvironmentFailure: a missing package, or too little memory.
    """
    out, (rank, world) = Path(output), process()
    log = RunLog(out / LOG_FILE if rank == 0 else None, report)
    settings = _settle(settings, device)
    notes = without_effect(settings)
    settings, rows = read_rows(settings, notes, skip_invalid)
    record = run_folder.record_of(settings) | {"rows": fingerprint(rows)}
    run_folder.check_folder(out, record, resume=resume, first=rank == 0)
    settings = _divide_batch(settings, world)
    for text in notes:
        log.note(text)
    checkpoint = run_folder.checkpoint_of(out, world, log) if resume else None
    log({"event": "stage", "name": "loading"})
    from stts_cli.training.trainer import trainer_arguments

    has_eval = bool(settings.eval_videos or settings.eval_data)
    arguments = trainer_arguments(settings, out / CHECKPOINTS, device=device, has_eval=has_eval)
    family, had_scorer = load_base(settings, arguments.device)
    for text in family.notes:
        log.note(text)
    if had_scorer and settings.scorer != "learned":
        log.note(f"--scorer {settings.scorer}: the trained scorer of {family.model_name} is left out of the result.")
    if settings.train == "lora" and hasattr(family.model.config.text_config, "num_experts_per_tok"):
        log.note("--train lora: reaches the language model's attention, not its experts.")
    if not family.shared_rows:
        sharing = f"--seq-len {settings.seq_len} has no effect" if settings.seq_len else "a video is read once for each"
        log.note(f"{family.model_name} keeps no conversations apart in one row: each has its own, {sharing}.")
    data = make_data(settings, family, rows, world, skip_invalid, log)
    arguments.max_steps = num_steps(settings, data, world)
    arguments.save_steps = arguments.save_steps or arguments.max_steps
    if rank == 0:
        run_folder.claim(out, record)
    trainer = _trainer(settings, family, arguments, data, log)
    log({"event": "start", "steps": arguments.max_steps, **describe(trainer.training_model, settings, data, world)})
    before = {} if data.held_out is None else _before(out, trainer, had_scorer, checkpoint is not None, log)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - began
    document = {
        "stts": __version__,
        "model": settings.model,
        "train": settings.train,
        "data": data.name,
        "is_demonstration": family.is_demonstration,
        "notes": log.notes,
        "steps": arguments.max_steps,
        "resumed_from": checkpoint.name if checkpoint else None,
        "best_step": trainer.state.best_global_step,
        "seconds": round(seconds, 1),
        "before": before,
        "after": {} if data.held_out is None else trainer.measured(),
        "settings": dataclasses.asdict(settings),
    }
    _finish(out, trainer, document)
    log({"event": "done", **document})
    return document


def _settle(settings: FinetuneSettings, device: str) -> FinetuneSettings:
    """Replace "auto" by what it means here, and check what goes together."""
    for name in ("model", "data"):
        if not getattr(settings, name):
            raise InputError(f"--{name}: is missing; give a model to start from and data to train on, or a --preset.")
    from stts_cli.engine.device import resolve_device

    if "tensorboard" in settings.report_to.split(",") and importlib.util.find_spec("tensorboard") is None:
        raise EnvironmentFailure(f"--report-to tensorboard: the package is not installed; {install_hint('train')}")
    if settings.precision == "auto":
        on_gpu = resolve_device(device).startswith("cuda")
        settings = settings.override(precision="bf16" if on_gpu else "float32")
    return settings


def _divide_batch(settings: FinetuneSettings, world: int) -> FinetuneSettings:
    """Divide the videos of a step among the processes and their forward passes."""
    if settings.global_batch is None:
        return settings
    if settings.data == "shapes" or settings.accumulate != 1:
        other = "--data shapes" if settings.data == "shapes" else f"--accumulate {settings.accumulate}"
        raise InputError(f"--global-batch {settings.global_batch}: cannot go with {other}, which decides the same.")
    passes, rest = divmod(settings.global_batch, settings.batch_size * world)
    if rest:
        raise InputError(
            f"--global-batch {settings.global_batch}: must be a multiple of --batch-size {settings.batch_size} x "
            f"{world} processes."
        )
    return settings.override(accumulate=passes)


def load_base(settings: FinetuneSettings, device: Any) -> tuple[Any, bool]:
    """Load the base model and freeze what is not trained; say whether it came with a learned scorer."""
    import torch
    from transformers.utils import logging

    from stts_cli.families import load_family
    from stts_cli.pruning import TokenScorer
    from stts_cli.training.adapters import add_lora

    half, master = settings.precision != "float32", settings.precision == "bf16-master"
    # frozen weights need no float32
    dtype = torch.bfloat16 if master or (half and settings.train != "full") else torch.float32
    # bfloat16 attention without explicit products has a slow backward pass on a CPU
    attention = "eager" if master and device.type == "cpu" else "sdpa"
    logging.disable_progress_bar()
    how = {"device": device, "dtype": dtype, "attn_implementation": attention}
    family = load_family(settings.model, revision=settings.revision, quantize=settings.quantize, **how)
    had_scorer = family.scorer is not None and not settings.new_scorer
    family.settings = family.settings.override(
        prune_layer=settings.prune_layer,
        bias_rescale=settings.bias_rescale,
        keep_ratio=main_keep_ratio(settings.keep_ratio),
        scorer=settings.scorer if settings.scorer != "none" else None,
    )
    check_prune_layer(family.settings.prune_layer, len(family.vit_blocks))
    torch.manual_seed(settings.seed)
    family.model.requires_grad_(settings.train == "full")
    for block in family.idle_vit_blocks:
        block.requires_grad_(False)
    if settings.scorer != "learned":
        family.scorer = None
    else:
        scorer = family.scorer if had_scorer and family.scorer else TokenScorer(**family.scorer_sizes)
        family.scorer = scorer.to(device, torch.bfloat16 if master else torch.float32)
        family.scorer.requires_grad_(True)
    if settings.train == "lora":
        add_lora(family, rank=settings.lora_rank, alpha=settings.lora_alpha, vit=settings.lora_vit)
    if settings.gradient_checkpointing:
        family.enable_gradient_checkpointing()
    return family, had_scorer


def _trainer(settings: FinetuneSettings, family: Any, arguments: Any, data: Data, log: RunLog) -> Any:
    from stts_cli.training.model import TrainingModel
    from stts_cli.training.results import load_weights, write_checkpoint
    from stts_cli.training.trainer import Files, SttsTrainer

    def write(folder: Path, state_dict: Any, **options: Any) -> None:
        """Write the result or, without its "training", a checkpoint."""
        options = {"training": {"unfinished": True}, **options}
        base_model = settings.model
        write_checkpoint(folder, family, train=settings.train, base_model=base_model, state_dict=state_dict, **options)

    files = Files(write, lambda folder: load_weights(folder, family, settings.train))
    model = TrainingModel(family, settings, log.note)
    return SttsTrainer(
        settings, model, arguments, train_dataset=data.train, eval_dataset=data.held_out, files=files, report=log
    )


def _before(out: Path, trainer: Any, had_scorer: bool, resumed: bool, log: RunLog) -> Document:
    """Measure the model as it came; a resumed run keeps what it measured at its start."""
    record = out / CHECKPOINTS / "before.json"
    if resumed and record.is_file():
        return run_folder.read_object(record, "Delete it to measure what the run has now as its start")
    log({"event": "stage", "name": "measuring the model as it is"})
    arms = trainer.arms()
    if "pruned" in arms and trainer.settings.scorer == "learned" and not had_scorer:
        arms["temporal"] = (arms["pruned"][0], "temporal")  # what an untrained model does without training
    before: Document = trainer.measure(arms)
    if trainer.is_world_process_zero():
        run_folder.write_whole(record, before)
    return before


def _finish(out: Path, trainer: Any, document: Document) -> None:
    """Write the result and its card into the output folder."""
    import torch

    from stts_cli.families.checkpoints import read_config
    from stts_cli.training.model_card import model_card

    state_dict = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not trainer.is_world_process_zero():
        return
    config = read_config(trainer.training_model.family.chain)
    half = trainer.settings.train == "full" and (config.get("dtype") or config.get("torch_dtype")) == "bfloat16"
    with writing(out):
        trainer.files.write(out, state_dict, dtype=torch.bfloat16 if half else None, training=_without_paths(document))
        (out / "README.md").write_text(model_card(document), encoding="utf-8")


def _without_paths(value: Any) -> Any:
    """Return a run's document with folders and files of this machine by their names only: it may be published."""
    left_out = ("notes", "cache", "video_root", "workers")  # notes name files
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items() if key not in left_out}
    return Path(value).name if isinstance(value, str) and Path(value).exists() else value


def describe(model: Any, settings: FinetuneSettings, data: Data, world: int) -> Document:
    """Return what a run sets out to do, for its "start" event."""
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train": settings.train,
        "data": data.name,
        "items": len(data.train),
        "held_out": 0 if data.held_out is None else len(data.held_out),
        "processes": world,
        "precision": settings.precision,
    }
