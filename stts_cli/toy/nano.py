"""Make the embedded model from nothing: `stts finetune --preset nano`, four stages on transformers.Trainer.

    1. language   the language model reads true window labels (nano_language)
    2. vision     ViT and connector find what stands in each window (nano_vision); a closed-form fit joins the two
    3. dense      everything end to end, a plain `finetune` run
    4. stts       the same with the scorer, mostly at keep ratio 0.5

Each stage has a run folder of its own in `stages/` and starts from the checkpoint that the one before left. Under
torchrun its clips are divided among the processes; a step sees as many of them with any number of processes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stts_cli.config import files
from stts_cli.errors import InputError, writing
from stts_cli.training import run_folder
from stts_cli.training.datasets import Data
from stts_cli.training.finetune import describe, finetune, load_base
from stts_cli.training.run_folder import CHECKPOINTS, LOG_FILE, RUN_FILE, Document, Report, RunLog, process
from stts_cli.training.settings import NANO_STAGES as STAGES
from stts_cli.training.settings import FinetuneSettings, check_flags

FLAGS = ("seed", "workers", "report_to", "log_every", "keep_checkpoints")  # the others are the preset's business
FOLDER = "stages"
EXTRA_FILE = "extra.safetensors"  # what a stage trains beside the model: the stand-in, the probe
PRUNE_LAYER = 3


def train_nano(
    stages: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Any],
    output: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    report: Report = lambda event: None,
) -> Document:
    """Run the four stages, and leave the model in a folder; parameters and result are else `finetune.finetune`'s.

    `stages` holds `FinetuneSettings` fields of each of `STAGES`; `flags` some for all stages, of `FLAGS` only, and its
    "seed" is added to theirs.

    Raises:
        InputError: other stages or flags, or a folder that holds another run.
    """
    out, (rank, world) = Path(output), process()
    plan = _plan(stages, flags)
    record = {name: run_folder.record_of(plan[name]) for name in STAGES}
    run_folder.check_folder(out, record, resume=resume, first=rank == 0)
    from accelerate import PartialState

    from stts_cli.training.trainer import trainer_arguments

    trainer_arguments(plan["language"], out, device=device, has_eval=False).device  # noqa: B018 - joins the processes
    folders = {name: out / FOLDER / f"nano-{name}" for name in ("start", *STAGES)}
    if rank == 0:
        run_folder.claim(out, record)
        if not _is_done(folders["start"]):
            _write_start(folders["start"], plan["language"].seed)
    log = RunLog(out / LOG_FILE if rank == 0 else None, report)
    document: Document = {}
    for before, name in zip(folders, STAGES, strict=False):
        PartialState().wait_for_everyone()
        settings = dataclasses.replace(_divide_passes(plan[name], world), model=str(folders[before]))
        log_stage = functools.partial(_log_stage, log, name)
        if name == "stts" or not _is_done(folders[name]):
            log_stage({"event": "stage", "name": f"{name} stage"})
            run = finetune if name in ("dense", "stts") else functools.partial(_pretrain, name)
            document = run(settings, folders[name], resume=resume, device=device, report=log_stage)
    if rank == 0:
        _publish(folders["stts"], out)
    return document


def _plan(stages: Mapping[str, Mapping[str, Any]], flags: Mapping[str, Any]) -> dict[str, FinetuneSettings]:
    if tuple(stages) != STAGES:
        wanted = ", ".join(STAGES)
        raise InputError(f"--preset: has the stages {', '.join(stages)}; must have {wanted}, in this order.")
    check_flags(flags, FLAGS, "stages")
    plan = {}
    for name, values in stages.items():
        settings = files.from_flags(FinetuneSettings, {**values, **flags})
        plan[name] = dataclasses.replace(settings, seed=values.get("seed", 0) + flags.get("seed", 0))
    return plan


def _divide_passes(settings: FinetuneSettings, world: int) -> FinetuneSettings:
    """Divide a step's forward passes among the processes, of which there may be others in the next stage."""
    return dataclasses.replace(settings, accumulate=max(1, settings.accumulate // world))


def _log_stage(log: RunLog, name: str, event: Document) -> None:
    log({**event, "stage": name})


def _is_done(folder: Path) -> bool:
    """Whether a stage is over; its settings are the last file that it writes."""
    from stts_cli.families.settings import SETTINGS_FILE

    return (folder / SETTINGS_FILE).is_file()


def _write_start(folder: Path, seed: int) -> None:
    """Write a model that knows nothing."""
    from stts_cli.toy.nano_model import build_nano, export_nano
    from stts_cli.toy.nano_tokenizer import build_tokenizer
    from stts_cli.toy.nano_vision import whiten_patch_embedding

    tokenizer = build_tokenizer()
    model = build_nano(tokenizer, seed)
    whiten_patch_embedding(model, seed)
    with writing(folder):
        export_nano(model, tokenizer, folder, prune_layer=PRUNE_LAYER)


def _pretrain(
    name: str, settings: FinetuneSettings, folder: Path, *, resume: bool, device: str, report: Report
) -> Document:
    """Run the language or the vision stage; the latter, which starts from the former's folder, joins the two."""
    from safetensors.torch import load_file

    from stts_cli.toy.nano_language import LabelClips, LabelEmbedding, LanguageModel
    from stts_cli.toy.nano_vision import VisionFrames, VisionModel, fit_connector
    from stts_cli.training.trainer import SttsTrainer, trainer_arguments

    rank, world = process()
    record = {key: value for key, value in run_folder.record_of(settings).items() if key != "model"}
    run_folder.check_folder(folder, record, resume=resume, first=rank == 0)
    checkpoint = run_folder.checkpoint_of(folder, world, report) if resume else None
    if rank == 0:
        run_folder.claim(folder, record)
    arguments = trainer_arguments(settings, folder / CHECKPOINTS, device=device, has_eval=False)
    arguments.max_steps, arguments.save_steps = settings.steps, settings.save_every or settings.steps
    family, _ = load_base(settings, arguments.device)
    model: Any = LanguageModel(family) if name == "language" else VisionModel(family)
    items: Any = LabelClips if name == "language" else VisionFrames
    data = Data(items(settings.steps, seed=settings.seed, world=world), None, "window labels of the procedural world")
    weights = _weights(settings, family, model.stand_in if name == "language" else model.probe)
    trainer = SttsTrainer(
        settings, model, arguments, train_dataset=data.train, eval_dataset=None, files=weights, report=report
    )
    report({"event": "start", "steps": settings.steps, **describe(model, settings, data, world)})
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    document = {"steps": settings.steps, "seconds": round(time.perf_counter() - began, 1)}
    if rank == 0:
        if name == "vision":
            stand_in = LabelEmbedding(family)
            stand_in.load_state_dict(load_file(Path(settings.model) / EXTRA_FILE))
            document["variance_explained"] = round(fit_connector(family, stand_in, settings.seed), 4)
        weights.write(folder, None)
    report({"event": "done", **document})
    return document


def _weights(settings: FinetuneSettings, family: Any, extra: Any) -> run_folder.Files:
    """Return what writes a stage's weights into a folder, and what reads them back."""
    from safetensors.torch import load_file, save_file

    from stts_cli.training.results import load_weights, write_checkpoint

    def write(folder: Path, state_dict: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(extra.state_dict(), folder / EXTRA_FILE)
        write_checkpoint(folder, family, train="full", base_model=settings.model, training={})

    def read(folder: Path) -> None:
        load_weights(folder, family, "full")
        extra.load_state_dict(load_file(folder / EXTRA_FILE))

    return run_folder.Files(write, read)


def _publish(stage: Path, out: Path) -> None:
    """Copy the last stage's result into the run's own folder, under its name and without this machine's paths."""
    from stts_cli.families.settings import SETTINGS_FILE

    document = json.loads((stage / SETTINGS_FILE).read_text(encoding="utf-8"))
    training = document["training"]
    training["model"] = training["settings"]["model"] = Path(training["model"]).name
    with writing(out):
        for path in stage.iterdir():
            if path.is_file() and path.name not in (RUN_FILE, LOG_FILE, SETTINGS_FILE):
                shutil.copyfile(path, out / path.name)
        text = json.dumps({"name": "nano", **document}, indent=2)
        (out / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
