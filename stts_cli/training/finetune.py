"""One finetuning run from start to end: data and a base model in, a checkpoint folder and what it gained out.

The output folder holds the result itself (what `stts ask --model FOLDER` takes), `run.json` (the settings), `log.jsonl`
(every logged line and evaluation) and `checkpoints/`. The engine is transformers.Trainer; see `trainer`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli import __version__
from stts_cli.errors import EnvironmentFailure, InputError, install_hint, writing
from stts_cli.media.resize import DECODER, NOTE, choose_filter
from stts_cli.settings import check_prune_layer
from stts_cli.training import run_folder
from stts_cli.training.run_folder import CHECKPOINTS, LOG_FILE, Document, Report, RunLog, process
from stts_cli.training.settings import FinetuneSettings, main_keep_ratio, without_effect


@dataclass(frozen=True)
class Data:
    """What a run trains and measures on.

    Attributes:
        train: items are lists of clips.
        held_out: the same; None for no evaluation.
        name: for people.
    """

    train: Any
    held_out: Any
    name: str


def finetune(
    settings: FinetuneSettings,
    output: str | Path,
    *,
    resume: bool = False,
    skip_invalid: bool = False,
    device: str = "auto",
    report: Report = lambda event: None,
) -> Document:
    """Train, and leave the result in a folder.

    Args:
        settings: the run's.
        output: the folder; made if needed.
        resume: go on with the run that the folder holds.
        skip_invalid: leave out the questions that the check of the data finds fault with.
        device: "auto", "cpu", "cuda" or "cuda:N".
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
    settings, rows = _read_rows(settings, notes, skip_invalid)
    record = run_folder.record_of(settings) | {"rows": _fingerprint(rows)}
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
    data = _data(settings, family, rows, world, skip_invalid, log)
    arguments.max_steps = _steps(settings, data, world)
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


def _read_rows(
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


def _fingerprint(rows: tuple[Any, Any]) -> str:
    """Return what changes when the rows do."""
    return "shapes" if rows[0] is None else hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


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
    family = load_family(settings.model, device=device, dtype=dtype, attn_implementation=attention)
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


def _data(
    settings: FinetuneSettings, family: Any, rows: tuple[Any, Any], world: int, skip_invalid: bool, log: RunLog
) -> Data:
    """Check every row and video, and make the data sets."""
    from stts_cli.toy.world_clips import HeldOutShapes, ShapesClips
    from stts_cli.training.clips import VideoClips

    held_out: Any = None
    if "shapes" in (settings.data, settings.eval_data) and settings.eval_videos:
        held_out = HeldOutShapes(
            settings.eval_videos,
            seed=settings.seed,
            frames=settings.frames,
            frame_size=family.frame_size,
            long=settings.shapes_mix == "long",
        )
    if settings.data == "shapes":
        train = ShapesClips(settings, family.frame_size, world)
        return Data(train, held_out, "the procedural world, training seeds")
    if settings.resize == DECODER:
        log.note(NOTE)
    clips = [
        VideoClips(
            _check(settings, family, samples, skip_invalid, log),
            num_frames=settings.frames,
            max_fps=settings.max_fps,
            frame_size=family.frame_size,
            resample=choose_filter(settings.resize, family.resample),
            cache_dir=Path(settings.cache) if settings.cache else None,
        )
        for samples in rows
        if samples
    ]
    return Data(clips[0], clips[1] if len(clips) > 1 else held_out, settings.data)


def _check(settings: FinetuneSettings, family: Any, samples: Any, skip_invalid: bool, log: RunLog) -> Any:
    """Look at every row and video before the first step."""
    import torch

    from stts_cli.training.samples import leave_out, report_problems, validate

    windows = family.shape().num_windows
    most = family.model.config.get_text_config().max_position_embeddings

    @functools.cache
    def before(num_frames: int) -> int:
        """Count the tokens up to the end of a video whose times are not known yet: of no fewer digits than these."""
        count = num_frames * windows
        if count > most:
            return count
        return len(family.video_prefix([9999.9] * num_frames, torch.ones(num_frames, windows, dtype=torch.bool))[0])

    problems = validate(
        samples,
        max_frames=settings.frames,
        max_fps=settings.max_fps,
        measure=lambda num_frames, conversation: before(num_frames) + len(conversation.tokens(family)[0]) - 1,
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


def _steps(settings: FinetuneSettings, data: Data, world: int) -> int:
    if settings.data == "shapes" and not settings.steps:
        raise InputError("--data shapes: has no end; give --steps.")
    if settings.steps:
        return settings.steps + settings.scorer_warmup
    each = settings.batch_size * settings.accumulate * world
    return max(1, round(settings.epochs * -(-len(data.train) // each))) + settings.scorer_warmup


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

    from stts_cli.training.model_card import model_card

    state_dict = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not trainer.is_world_process_zero():
        return
    half = trainer.settings.train == "full" and _stored_dtype(trainer.settings.model) == "bfloat16"
    with writing(out):
        trainer.files.write(out, state_dict, dtype=torch.bfloat16 if half else None, training=_without_paths(document))
        (out / "README.md").write_text(model_card(document), encoding="utf-8")


def _without_paths(value: Any) -> Any:
    """Return a run's document with folders and files of this machine by their names only: it may be published."""
    left_out = ("notes", "cache", "video_root", "workers")  # notes name files
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items() if key not in left_out}
    return Path(value).name if isinstance(value, str) and Path(value).exists() else value


def _stored_dtype(model: str) -> str:
    """Return the dtype that the config of a checkpoint, or of the whole model under it, names."""
    from transformers import PretrainedConfig

    from stts_cli.families.checkpoints import base_chain

    root = base_chain(model)[-1]
    config = PretrainedConfig.get_config_dict(root.model, revision=root.revision or "main")[0]
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


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
