"""Run the net: `python -m tests.net OLD NEW [--losses 1e-5]`, or `python -m tests.net --record [COMMIT]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.net.compare import HASHES, differences

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RECORD = HERE / "recorded.json"
LEFT_OUT = HASHES | {"reads training", "reads answers"}  # of the committed record: they compare two commits


@contextlib.contextmanager
def source_tree(commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out into a folder and remove it again; `.` is the working tree."""
    if commit == ".":
        yield ROOT
        return
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, commit], cwd=ROOT, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


def measure(tree: Path, folder: Path, *flags: str | Path) -> Any:
    """Run the worker on a source tree, in a process of its own.

    Args:
        tree: the sources.
        folder: where its record and what the commands write go.
        flags: of the worker.

    Returns:
        The record.
    """
    work, record = folder / "work", folder / "record.json"
    work.mkdir(parents=True)
    own = {"PYTHONPATH": str(tree), "XDG_CONFIG_HOME": str(folder / "config"), "CUDA_VISIBLE_DEVICES": ""}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STTS_")} | own
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    worker = [sys.executable, HERE / "worker.py", record, work, *flags]
    subprocess.run(worker, cwd=tree, env=environment, check=True)
    return json.loads(record.read_text(encoding="utf-8"))


def short(value: Any) -> Any:
    """Return a record as it is committed: floats to 7 digits, without what only two commits can share."""
    if isinstance(value, dict):
        return {key: short(one) for key, one in value.items() if key not in LEFT_OUT}
    if isinstance(value, list):
        return [short(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) and abs(value) < 100 else value


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.net", description=__doc__)
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="OLD and NEW; '.' is the working tree")
    parser.add_argument("--record", action="store_true", help="write recorded.json, from the working tree or COMMIT")
    parser.add_argument("--losses", type=float, default=0.0, help="how far losses may differ, relative; 0: not a bit")
    given = parser.parse_args()
    if len(given.commits) != 2 and not (given.record and len(given.commits) < 2):
        parser.error("give OLD and NEW, or --record")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as trees:
        folder = Path(name).resolve()
        if given.record:
            tree = trees.enter_context(source_tree((given.commits or ["."])[0], folder / "tree"))
            text = json.dumps(short(measure(tree, folder / "new")), separators=(",", ":"))
            RECORD.write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")
            return 0
        old_tree, new_tree = (
            trees.enter_context(source_tree(commit, folder / side / "tree"))
            for commit, side in zip(given.commits, ("old", "new"), strict=True)
        )
        old = measure(old_tree, folder / "old")
        new = measure(new_tree, folder / "new", "--earlier", folder / "old" / "work")
        found = list(differences(old, new, given.losses))
    print("\n".join([*found, f"{len(found)} differences from {given.commits[0]} to {given.commits[1]}"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
