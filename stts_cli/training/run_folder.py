"""The folder of a run: whose it is, what was logged, and where its checkpoints stand."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stts_cli.errors import EnvironmentFailure, InputError, writing
from stts_cli.training.settings import FinetuneSettings

RUN_FILE, LOG_FILE, CHECKPOINTS = "run.json", "log.jsonl", "checkpoints"
SAVING = ".saving"  # a checkpoint stands here until it is whole
Document = dict[str, Any]  # what is written as JSON: a line of the log, a run's record or result
Report = Callable[[Document], None]
# settings that change nothing about the result: a run may go on with others
FREE = ("workers", "cache", "report_to", "log_every", "keep_checkpoints", "video_root")


class Files(NamedTuple):
    """How a model's weights travel: `write` takes (folder, state dict or None for the model's own), `read` a folder."""

    write: Callable[..., None]
    read: Callable[[Path], None]


def process() -> tuple[int, int]:
    """Return this process's number and how many there are, as torchrun and `accelerate launch` give them."""
    # accelerate's PartialState would load torch and join the processes before the input is checked
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def record_of(settings: FinetuneSettings) -> Document:
    """Return the settings that a run has to be resumed with."""
    return {key: value for key, value in dataclasses.asdict(settings).items() if key not in FREE}


def check_folder(folder: Path, settings: Document, *, resume: bool, first: bool) -> None:
    """Refuse a folder that holds another run, this one where `resume` is not given, or something else.

    `settings` say which run this is. A process that is not the `first` may find what that one has written already.

    Raises:
        InputError: it does.
        EnvironmentFailure: it is a file.
    """
    record = folder / RUN_FILE
    if record.is_file():
        there = read_object(record, "Choose another --output")
        for key, value in settings.items():
            if there.get(key) != value:
                raise InputError(
                    f"--output {folder}: holds another run ({key} {there.get(key)!r} there, {value!r} here); choose "
                    "another, or give the same settings."
                )
        if not resume and first:
            raise InputError(f"--output {folder}: holds this run already; add --resume, or choose another.")
    elif folder.exists() and not folder.is_dir():
        raise EnvironmentFailure(f"--output {folder}: cannot be written, it is a file.")
    elif folder.is_dir() and any(folder.iterdir()) and first:
        raise InputError(f"--output {folder}: is not empty and holds no run; choose another, or empty it.")


def claim(folder: Path, settings: Document) -> None:
    """Make a folder this run's, and clear away a checkpoint that was never finished."""
    write_whole(folder / RUN_FILE, settings)
    shutil.rmtree(folder / CHECKPOINTS / SAVING, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's folder name ends in."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest last."""
    return sorted((p for p in folder.glob("checkpoint-*") if p.name[11:].isdecimal()), key=step_of)


def checkpoint_of(folder: Path, processes: int, log: Report) -> Path | None:
    """Return a run's newest checkpoint, to go on from as if it had never stopped; None, and a note, without one.

    Raises:
        InputError: a file is missing, the state is damaged, or another number of processes wrote it.
    """
    *earlier, checkpoint = [None, *checkpoints_of(folder / CHECKPOINTS)]
    if checkpoint is None:
        log({"event": "note", "text": f"--resume: {folder} holds no checkpoint, so the run starts from its beginning."})
        return None
    before = earlier[-1]
    do = f"Delete {checkpoint.name} to go on from {before.name}" if before else "Train into another --output"
    state = read_object(checkpoint / "trainer_state.json", do)
    if state.get("global_step") != step_of(checkpoint):
        raise InputError(f"{checkpoint}/trainer_state.json: is of step {state.get('global_step')!r}. {do}.")
    wanted = {f"rng_state_{k}.pth" for k in range(processes)} if processes > 1 else {"rng_state.pth"}
    found = {path.name for path in checkpoint.glob("rng_state*.pth")}
    if found and (not found & wanted or found - wanted):
        raise InputError(
            f"{checkpoint}: was written by {len(found)} processes, these are {processes}, which would train on other "
            "batches. Start as many."
        )
    names = ["scheduler.pt", *sorted(wanted)]
    if not any(checkpoint.glob("optimizer*")):  # sharded runs write another file, or a folder
        names.append("optimizer.pt")
    if best := state.get("best_global_step"):
        names.append(f"../checkpoint-{best}")
    for name in names:
        if not (checkpoint / name).exists():
            path = os.path.normpath(checkpoint / name)
            raise InputError(f"{path}: is missing, and the run would go on otherwise without it. {do}.")
    return checkpoint


def read_object(path: Path, do: str) -> Document:
    """Read a JSON object that a run wrote, or refuse a file that holds none; `do` says what to do then."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({' '.join(str(error).split())})"
        raise InputError(f"{path}: {why}. {do}.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: is damaged (it holds no JSON object). {do}.")
    return document


def write_whole(path: Path, document: Document) -> None:
    """Write a JSON file that is there as a whole or not at all: other processes may be reading it."""
    part = path.with_name(f".{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)


class RunLog:
    """Append what is measured to a file, a JSON object a line, and pass everything on; a note is passed on once.

    A process that is not the first has no path, and stays silent.
    """

    def __init__(self, path: Path | None, report: Report) -> None:
        self.path, self.report = path, report
        self.notes: list[str] = []

    def __call__(self, event: Document) -> None:
        """Take one event."""
        if event["event"] == "note":
            if event["text"] in self.notes:
                return
            self.notes.append(event["text"])
        if self.path is None:
            return
        if event["event"] in ("start", "log", "evaluation", "done"):
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        self.report(event)

    def note(self, text: str) -> None:
        """Take something that a user should know."""
        self({"event": "note", "text": text})
