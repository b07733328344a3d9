"""The folder of a run: whose it is, what was logged, and where its checkpoints stand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stts_cli.errors import EnvironmentFailure, InputError, writing

RUN_FILE, LOG_FILE, CHECKPOINTS = "run.json", "log.jsonl", "checkpoints"
SAVING = ".saving"  # a checkpoint stands here until it is whole
Report = Callable[[dict[str, Any]], None]
# settings that change nothing about the result: a run may go on with others
FREE = ("workers", "cache", "report_to", "log_every", "keep_checkpoints", "video_root")


def check_folder(folder: Path, settings: dict[str, Any], *, resume: bool, first: bool) -> None:
    """Refuse a folder that holds another run, or something else.

    Args:
        folder: may not be there yet.
        settings: plain data that says which run this is.
        resume: the folder may hold this very run.
        first: this is the first process; the others may find what it has written already.

    Raises:
        InputError: it does, or it holds this run and `resume` is not given.
        EnvironmentFailure: it is a file.
    """
    record = folder / RUN_FILE
    if record.is_file():
        theirs = read_object(record, "Choose another --output")
        differing = [k for k in settings if theirs.get(k) != settings[k]]
        if differing:
            key = differing[0]
            raise InputError(
                f"{folder} holds another run ({key} {theirs.get(key)!r} there, {settings[key]!r} here) -> choose "
                "another --output, or give the same settings"
            )
        if not resume and first:
            raise InputError(
                f"{folder} holds this run already -> add --resume to go on with it, or choose another --output"
            )
    elif folder.exists() and not folder.is_dir():
        raise EnvironmentFailure(f"--output {folder}: cannot be written, it is a file.")
    elif folder.is_dir() and any(folder.iterdir()) and first:
        raise InputError(f"{folder} is not empty and holds no run -> choose another --output, or empty it")


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder this run's, and clear away a checkpoint that was never finished.

    Args:
        folder: made if needed.
        settings: plain data that says which run this is.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RUN_FILE, settings)
    shutil.rmtree(folder / CHECKPOINTS / SAVING, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's folder name ends in."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest last."""
    return sorted((p for p in folder.glob("checkpoint-*") if p.name[11:].isdecimal()), key=step_of)


def check_checkpoint(checkpoint: Path, processes: int) -> None:
    """Refuse a checkpoint that a run cannot go on from just as if it had never stopped.

    Args:
        checkpoint: its folder; weights are checked when they are loaded.
        processes: how many train.

    Raises:
        InputError: a file is missing, the state is damaged, or another number of processes wrote it.
    """
    earlier = [one.name for one in checkpoints_of(checkpoint.parent) if step_of(one) < step_of(checkpoint)]
    do = f"Delete {checkpoint.name} to go on from {earlier[-1]}" if earlier else "Train into another --output"
    state = read_object(checkpoint / "trainer_state.json", do)
    if state.get("global_step") != step_of(checkpoint):
        raise InputError(f"{checkpoint}/trainer_state.json: is of step {state.get('global_step')!r}. {do}.")
    best = state.get("best_global_step")
    needed = [checkpoint / "scheduler.pt"]
    if not any(checkpoint.glob("optimizer*")):  # sharded runs write another file, or a folder
        needed.append(checkpoint / "optimizer.pt")
    if best:
        needed.append(checkpoint.with_name(f"checkpoint-{best}"))
    wanted = {f"rng_state_{k}.pth" for k in range(processes)} if processes > 1 else {"rng_state.pth"}
    found = {path.name for path in checkpoint.glob("rng_state*.pth")}
    if found and (not found & wanted or found - wanted):
        raise InputError(
            f"{checkpoint}: was written by {len(found)} processes, these are {processes}, which would train on other "
            "batches. Start as many."
        )
    needed += [checkpoint / name for name in sorted(wanted)]
    for path in needed:
        if not path.exists():
            raise InputError(f"{path}: is missing, and the run would go on otherwise without it. {do}.")


def read_object(path: Path, do: str) -> dict[str, Any]:
    """Read a JSON object that a run wrote.

    Args:
        path: the file.
        do: what to do where it cannot be read, for the message.

    Raises:
        InputError: no file, or no JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({' '.join(str(error).split())})"
        raise InputError(f"{path}: {why}. {do}.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: is damaged (it holds no JSON object). {do}.")
    return document


def write_whole(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file that is there as a whole or not at all: other processes may be reading it.

    Args:
        path: replaced when it is there.
        document: plain data.
    """
    part = path.with_name(f".{path.name}")
    with writing(path):
        part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)


class RunLog:
    """Append what is measured to a file, and pass everything on.

    Args:
        path: the file, a JSON object a line.
        report: told of every event.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self.path, self.report = path, report

    def __call__(self, event: dict[str, Any]) -> None:
        """Take one event."""
        if event["event"] in ("start", "log", "evaluation", "done"):
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        self.report(event)
