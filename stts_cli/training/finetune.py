"""One finetuning run from start to end: data and a base model in, a checkpoint folder and what it gained out.

The output folder holds the result itself (what `stts ask --model FOLDER` takes), `run.json` (the settings), `log.jsonl`
(every logged line and evaluation) and `checkpoints/`. The engine is transformers.Trainer; see `trainer`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli import __version__
from stts_cli.errors import EnvironmentFailure, InputError, install_hint, writing
from stts_cli.media.resize import DECODER, NOTE, choose_filter
from stts_cli.settings import check_prune_layer
from stts_cli.training.run_folder import (
    CHECKPOINTS,
    FREE,
    LOG_FILE,
    Report,
    RunLog,
    check_checkpoint,
    check_folder,
    checkpoints_of,
    claim,
    read_object,
    write_whole,
)
from stts_cli.training.settings import FinetuneSettings, main_keep_ratio, without_effect


@dataclass
class Data:
    """What a run trains and measures on.

    Attributes:
        train: items are lists of clips.
        held_out: the same; None for no evaluation.
        sequential: items come in their own order.
        name: for people.
        fingerprint: changes when the rows do.
    """

    train: Any
    held_out: Any
    sequential: bool
    name: str
    fingerprint: str


def finetune(
    settings: FinetuneSettings,
    output: str | Path,
    *,
    resume: bool = False,
    skip_invalid: bool = False,
    device: str = "auto",
    report: Report = lambda event: None,
) -> dict[str, Any]:
    """Train, and leave the result in a folder.

    Args:
        settings: the run's.
        output: the folder; made if needed.
        resume: go on with the run that the folder holds.
        skip_invalid: leave out the questions that the check of the data finds fault with.
        device: "auto", "cpu", "cuda" or "cuda:N".
        report: told of what happens, as documents with "event".

    Returns:
        A document with "before" and "after" (accuracy and loss by arm), "steps", "seconds" and the settings.

    Raises:
        InputError: bad data, an unknown base model, or a folder that holds another run.
        EnvironmentFailure: a missing package, or too little memory.
    """
    out = Path(output)
    first = int(os.environ.get("RANK", "0")) == 0
    settings = _settle(settings, device)
    notes = without_effect(settings)
    settings, rows, fingerprint = _read_rows(settings, notes, skip_invalid)
    record = {k: v for k, v in dataclasses.asdict(settings).items() if k not in FREE} | {"rows": fingerprint}
    check_folder(out, record, resume=resume, first=first)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    settings = _deal_out(settings, world)
    write: Report = RunLog(out / LOG_FILE, report) if first else (lambda event: None)
    noted: list[str] = []

    def log(event: dict[str, Any]) -> None:
        if event["event"] == "note":
            if event["text"] in noted:
                return
            noted.append(event["text"])
        write(event)

    for text in notes:
        log({"event": "note", "text": text})
    checkpoint = checkpoint_of(out, world, log) if resume else None
    log({"event": "stage", "name": "loading"})
    from stts_cli.training.trainer import trainer_arguments

    arguments = trainer_arguments(
        settings, out / CHECKPOINTS, device=device, has_eval=bool(settings.eval_videos or settings.eval_data)
    )
    family, had_scorer = load_base(settings, arguments.device)
    for note in family.notes:
        log({"event": "note", "text": note})
    if had_scorer and settings.scorer != "learned":
        text = f"--scorer {settings.scorer}: the trained scorer of {family.model_name} is left out of the result."
        log({"event": "note", "text": text})
    data = _data(settings, family, rows, world, skip_invalid, log)
    steps = _steps(settings, data, world)
    if first:
        claim(out, record)
    arguments.max_steps = steps
    arguments.save_steps = arguments.save_steps or steps
    trainer = _trainer(settings, family, arguments, data, log, out)
    log({"event": "start", "steps": steps, **describe(trainer.training_model, settings, data, world)})
    before = _before(out, trainer, had_scorer, data, checkpoint is not None, log, first)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - began
    after = trainer.measured() if data.held_out is not None else {}
    document = {
        "stts": __version__,
        "model": settings.model,
        "train": settings.train,
        "data": data.name,
        "is_demonstration": family.is_demonstration,
        "notes": noted,
        "steps": steps,
        "resumed_from": checkpoint.name if checkpoint else None,
        "best_step": trainer.state.best_global_step,
        "seconds": round(seconds, 1),
        "before": before,
        "after": after,
        "settings": dataclasses.asdict(settings),
    }
    _finish(out, trainer, document)
    log({"event": "done", **document})
    return document


def _settle(settings: FinetuneSettings, device: str) -> FinetuneSettings:
    """Replace "auto" by what it means here, and check what goes together."""
    if not settings.model or not settings.data:
        missing = "--model" if not settings.model else "--data"
        raise InputError(f"{missing} is missing -> a model to start from and data to train on, or a --preset -> add it")
    from stts_cli.engine.device import resolve_device

    if "tensorboard" in settings.report_to.split(",") and importlib.util.find_spec("tensorboard") is None:
        raise EnvironmentFailure(f"--report-to tensorboard: the package is not installed; {install_hint('train')}")
    if settings.precision == "auto":
        on_gpu = resolve_device(device).startswith("cuda")
        settings = dataclasses.replace(settings, precision="bf16" if on_gpu else "float32")
    return settings


def checkpoint_of(out: Path, world: int, log: Report) -> Path | None:
    """Return the checkpoint that a run goes on from.

    Args:
        out: the run's folder.
        world: processes.
        log: is given a note where there is none.

    Raises:
        InputError: it is damaged; see `run_folder.check_checkpoint`.
    """
    found = checkpoints_of(out / CHECKPOINTS)
    if not found:
        log({"event": "note", "text": f"--resume: {out} holds no checkpoint, so the run starts from its beginning."})
        return None
    check_checkpoint(found[-1], world)
    return found[-1]


def _deal_out(settings: FinetuneSettings, world: int) -> FinetuneSettings:
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
    return dataclasses.replace(settings, accumulate=passes)


def _read_rows(
    settings: FinetuneSettings, notes: list[str], skip_invalid: bool
) -> tuple[FinetuneSettings, tuple[Any, Any], str]:
    """Read the rows of the data files: the settings with the number of held-out videos decided, rows, fingerprint."""
    if settings.data == "shapes":
        return settings.override(eval_videos=20 if settings.eval_videos is None else None), (None, None), "shapes"
    from stts_cli.training.samples import read_samples, split_held_out

    def read(source: str) -> Any:
        return read_samples(
            source,
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
    if settings.eval_data is not None:
        held_out = None if settings.eval_data == "shapes" else read(settings.eval_data)
    else:
        rows, held_out = split_held_out(rows, settings.eval_videos or 0, settings.seed)
    return settings, (rows, held_out), hashlib.sha256(repr((rows, held_out)).encode()).hexdigest()[:16]


def load_base(settings: FinetuneSettings, device: Any) -> tuple[Any, bool]:
    """Load the base model and freeze what is not trained; say whether it came with a learned scorer."""
    import torch
    from transformers.utils import logging

    from stts_cli.families import load_family
    from stts_cli.pruning import TokenScorer

    half = settings.precision != "float32"
    whole = torch.bfloat16 if settings.precision == "bf16-master" else torch.float32
    # frozen weights need no float32
    dtype = whole if settings.train == "full" else torch.bfloat16 if half else torch.float32
    # bfloat16 attention without explicit products has a slow backward pass on a CPU
    attention = "eager" if settings.precision == "bf16-master" and device.type == "cpu" else "sdpa"
    logging.disable_progress_bar()
    family = load_family(settings.model, device=device, dtype=dtype, attn_implementation=attention)
    had_scorer = family.scorer is not None and not settings.new_scorer
    chosen: dict[str, Any] = {
        "prune_layer": settings.prune_layer,
        "bias_rescale": settings.bias_rescale,
        "keep_ratio": main_keep_ratio(settings.keep_ratio),
        "scorer": settings.scorer if settings.scorer != "none" else None,
    }
    family.settings = dataclasses.replace(family.settings, **{k: v for k, v in chosen.items() if v is not None})
    check_prune_layer(family.settings.prune_layer, len(family.vit_blocks))
    torch.manual_seed(settings.seed)
    if settings.scorer != "learned":
        family.scorer = None
    elif not had_scorer:
        family.scorer = TokenScorer(**family.scorer_sizes).to(device)
    if family.scorer is not None:
        family.scorer.to(whole if settings.precision == "bf16-master" else torch.float32)
    family.model.requires_grad_(settings.train == "full")
    if settings.train == "lora":
        from stts_cli.training.adapters import add_lora

        add_lora(family, rank=settings.lora_rank, alpha=settings.lora_alpha, vit=settings.lora_vit)
    if family.scorer is not None:
        family.scorer.requires_grad_(True)
    for block in family.idle_vit_blocks:
        block.requires_grad_(False)
    if settings.gradient_checkpointing:
        family.enable_gradient_checkpointing()
    return family, had_scorer


def _data(
    settings: FinetuneSettings, family: Any, rows: tuple[Any, Any], world: int, skip_invalid: bool, log: Report
) -> Data:
    from stts_cli.toy.world_clips import ShapesClips, shapes_held_out
    from stts_cli.training.clips import VideoClips

    def shapes_to_measure() -> Any:
        if not settings.eval_videos:
            return None
        return shapes_held_out(
            settings.eval_videos,
            seed=settings.seed,
            frames=settings.frames,
            frame_size=family.frame_size,
            long=settings.shapes_mix == "long",
        )

    if settings.data == "shapes":
        items = (settings.steps + settings.scorer_warmup) * settings.accumulate * world
        train = ShapesClips(
            items,
            seed=settings.seed,
            num_frames=settings.frames,
            mix=settings.shapes_mix,
            questions=settings.max_questions,
            frame_size=family.frame_size,
            scale=settings.batch_size,
            alike=world,
        )
        return Data(train, shapes_to_measure(), True, "the procedural world, training seeds", "shapes")
    checked = [None if r is None else _check(settings, family, r, skip_invalid, log) for r in rows]
    if settings.resize == DECODER:
        log({"event": "note", "text": NOTE})
    budget = {"num_frames": settings.frames, "max_fps": settings.max_fps, "frame_size": family.frame_size}
    budget["resample"] = choose_filter(settings.resize, family.resample)
    cache = Path(settings.cache) if settings.cache else None
    clips = [None if not r else VideoClips(r, cache_dir=cache, **budget) for r in checked]
    held_out = shapes_to_measure() if settings.eval_data == "shapes" else clips[1]
    return Data(clips[0], held_out, False, settings.data, "")


def _check(settings: FinetuneSettings, family: Any, samples: Any, skip_invalid: bool, log: Report) -> Any:
    """Look at every row and video before the first step."""
    import torch

    from stts_cli.training.samples import leave_out, report_problems, validate

    windows = family.shape().num_windows
    most = family.model.config.get_text_config().max_position_embeddings
    limit = min(settings.seq_len or most, most)

    @functools.cache
    def before(num_frames: int) -> int:
        """Return the tokens up to the end of a video, whose times are not known yet: of no fewer digits than these."""
        if num_frames * windows > most:
            return num_frames * windows
        return len(family.video_prefix([9999.9] * num_frames, torch.ones(num_frames, windows, dtype=torch.bool))[0])

    def measure(num_frames: int, conversation: Any) -> int:
        ids, _ = conversation.tokens(family)
        return before(num_frames) + len(ids) - 1

    problems = validate(
        samples,
        max_frames=settings.frames,
        max_fps=settings.max_fps,
        measure=measure,
        limit=limit,
        progress=lambda done, total: log({"event": "checking", "done": done, "total": total}),
    )
    if not problems:
        return samples
    text = report_problems(problems)
    if not skip_invalid:
        raise InputError(f"{text} -> mend the data, or add --skip-invalid to train without them")
    log({"event": "note", "text": f"left out: {text}"})
    rest = leave_out(samples, problems)
    if not rest:
        raise InputError("no sample is left -> mend the data")
    return rest


def _steps(settings: FinetuneSettings, data: Data, world: int) -> int:
    if settings.data == "shapes" and not settings.steps:
        raise InputError("--data shapes has no end -> give --steps")
    if settings.steps:
        return settings.steps + settings.scorer_warmup
    each = settings.batch_size * settings.accumulate * world
    return max(1, round(settings.epochs * -(-len(data.train) // each))) + settings.scorer_warmup


def _trainer(settings: FinetuneSettings, family: Any, arguments: Any, data: Data, log: Report, out: Path) -> Any:
    from stts_cli.training.model import TrainingModel
    from stts_cli.training.results import load_weights, write_checkpoint
    from stts_cli.training.trainer import SttsTrainer

    model = TrainingModel(
        family,
        scorer=settings.scorer,
        seq_len=settings.seq_len,
        checkpoint_blocks=settings.gradient_checkpointing,
        clamp_scorer_gradient=settings.clamp_scorer_gradient,
        target_gradient=settings.target_gradient,
        answer_weights=settings.answer_weights,
        z_loss=settings.z_loss,
        note=lambda text: log({"event": "note", "text": text}),
    )

    def write(folder: Path, state_dict: Any, dtype: Any = None, training: dict[str, Any] | None = None) -> None:
        write_checkpoint(
            folder,
            family,
            train=settings.train,
            base_model=settings.model,
            settings=family.settings,
            training=training or {"unfinished": True},
            dtype=dtype,
            state_dict=state_dict,
        )

    return SttsTrainer(
        settings,
        model,
        arguments,
        train_dataset=data.train,
        eval_dataset=data.held_out,
        write=write,
        read=lambda folder: load_weights(folder, family, settings.train),
        report=log,
    )


def _before(
    out: Path, trainer: Any, had_scorer: bool, data: Data, resumed: bool, log: Report, first: bool
) -> dict[str, Any]:
    """Measure the model as it came; a resumed run keeps what it measured at its start."""
    if data.held_out is None:
        return {}
    record = out / CHECKPOINTS / "before.json"
    if resumed and record.is_file():
        return read_object(record, "Delete it to measure what the run has now as its start")
    log({"event": "stage", "name": "measuring the model as it is"})
    arms = trainer.arms()
    if "pruned" in arms and trainer.settings.scorer == "learned" and not had_scorer:
        arms["temporal"] = (arms["pruned"][0], "temporal")  # what an untrained model does without training
    before: dict[str, Any] = trainer.measure(arms)
    if first:
        with writing(record):
            record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record, before)
    return before


def _finish(out: Path, trainer: Any, document: dict[str, Any]) -> None:
    """Write the result and its card into the output folder."""
    import torch

    from stts_cli.training.results import model_card

    state_dict = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not trainer.is_world_process_zero():
        return
    half = trainer.settings.train == "full" and _stored_dtype(trainer.settings.model) == "bfloat16"
    with writing(out):
        trainer._write(out, state_dict, torch.bfloat16 if half else None, _without_paths(document))
        (out / "README.md").write_text(model_card(document), encoding="utf-8")


def _without_paths(document: dict[str, Any]) -> dict[str, Any]:
    """Return a run's document with folders and files of this machine by their names only: it may be published."""
    kept = {k: v for k, v in document.items() if k != "notes"}  # they name files
    settings = {k: v for k, v in document["settings"].items() if k not in ("cache", "video_root", "workers")}

    def named(values: dict[str, Any]) -> dict[str, Any]:
        return {k: Path(v).name if isinstance(v, str) and Path(v).exists() else v for k, v in values.items()}

    return {**named(kept), "settings": named(settings)}


def _stored_dtype(model: str) -> str:
    """Return the dtype that the config of a checkpoint, or of the whole model under it, names."""
    from transformers import PretrainedConfig

    from stts_cli.families.checkpoints import base_chain

    root = base_chain(model)[-1]
    config = PretrainedConfig.get_config_dict(root.model, revision=root.revision or "main")[0]
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def describe(model: Any, settings: FinetuneSettings, data: Data, world: int) -> dict[str, Any]:
    """Return what a run sets out to do, for its "start" event."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "trainable": trainable,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train": settings.train,
        "data": data.name,
        "items": len(data.train),
        "held_out": 0 if data.held_out is None else len(data.held_out),
        "processes": world,
        "precision": settings.precision,
    }
