"""Several finetuning runs from one preset, each from the base model or from another one's result: `stts finetune`.

The same command in a second terminal takes runs that nobody is at; a run that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import graphlib
import time
from collections.abc import Mapping
from pathlib import Path

from stts_cli.config import files
from stts_cli.errors import InputError, suggest
from stts_cli.training.finetune import finetune
from stts_cli.training.run_folder import (
    RUN_FILE,
    Document,
    Report,
    check_folder,
    claim,
    process,
    read_object,
    record_of,
    write_whole,
)
from stts_cli.training.settings import FinetuneSettings, check_flags

FLAGS = (
    "model",
    "revision",
    "workers",
    "report_to",
    "log_every",
    "keep_checkpoints",
)  # the others are the preset's business
RESULT_FILE = "finetune.json"  # the last file of a run that is done
WAIT_S = 5.0


def plan_runs(stages: Mapping[str, Mapping[str, object]], flags: Mapping[str, object]) -> dict[str, FinetuneSettings]:
    """Put a preset's runs and flags together, or refuse flags that are not in `FLAGS` and runs without a base model.

    A run's "model" may be another run's name. Return the runs, those that another starts from before it.
    """
    check_flags(flags, FLAGS, "several runs")
    base = {name: flags[name] for name in ("model", "revision") if name in flags}
    common = {name: value for name, value in flags.items() if name not in base}
    runs = {
        name: files.from_flags(FinetuneSettings, {**({} if "model" in values else base), **values, **common})
        for name, values in stages.items()
    }
    for name, settings in runs.items():
        model = settings.model
        if not model:
            raise InputError(f"--model: is missing; run {name} of the preset starts from it.")
        if "/" not in model and model not in runs and not Path(model).is_dir():
            raise InputError(f"model {model} of run {name}: is no run, folder or hub id{suggest(model, runs)}")
    starts = {name: {settings.model} & runs.keys() for name, settings in runs.items()}
    try:
        return {name: runs[name] for name in graphlib.TopologicalSorter(starts).static_order()}
    except graphlib.CycleError as error:
        circle = ", ".join(sorted(set(error.args[1])))
        raise InputError(f"runs {circle}: start from each other; one must start from a model.") from None


def train_runs(
    runs: dict[str, FinetuneSettings],
    output: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    report: Report = lambda event: None,
) -> dict[str, Document]:
    """Do all runs of `plan_runs` that are not done, beside other processes that do the same; not under torchrun.

    `output` gets a folder a run and may hold other runs; runs of the same names but other settings are refused. Return
    the document of every run (`finetune.finetune`).
    """
    from filelock import FileLock, Timeout

    if process()[1] > 1:
        raise InputError("torchrun: cannot go with a preset of several runs; start the same command once a process.")
    out = Path(output)
    known = read_object(out / RUN_FILE, "Choose another --output") if (out / RUN_FILE).is_file() else {}
    # in one level, so that a message names what differs
    asked = {f"{name}.{key}": value for name, each in runs.items() for key, value in record_of(each).items()}
    record = known | asked
    check_folder(out, {k: v for k, v in record.items() if k in known or not known}, resume=resume, first=True)
    claim(out, record)
    documents: dict[str, Document] = {}
    while len(documents) < len(runs):
        taken = False
        for name, settings in runs.items():
            folder = out / name
            if name in documents or (settings.model in runs and not (out / settings.model / RESULT_FILE).is_file()):
                continue
            try:
                with FileLock(out / f".{name}.lock", timeout=0):
                    if not (folder / RESULT_FILE).is_file():
                        report({"event": "stage", "name": name})
                        model = str(out / settings.model) if settings.model in runs else settings.model
                        _run(dataclasses.replace(settings, model=model), folder, device, name, report)
                    documents[name] = read_object(folder / RESULT_FILE, "Delete it to finish this run again")
                    taken = True
            except Timeout:
                continue
        if not taken and len(documents) < len(runs):
            report({"event": "stage", "name": "waiting for the other processes"})
            time.sleep(WAIT_S)
    return documents


def _run(settings: FinetuneSettings, folder: Path, device: str, name: str, report: Report) -> None:
    resume = (folder / RUN_FILE).is_file()
    document = finetune(settings, folder, resume=resume, device=device, report=lambda e: report({**e, "run": name}))
    write_whole(folder / RESULT_FILE, document)
