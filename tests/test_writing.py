"""What cannot be written ends in one sentence with its path and exit code 3, whoever writes and however it fails."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from stts_cli.errors import EnvironmentFailure
from stts_cli.evaluation.journal import Journal
from stts_cli.evaluation.output import write_results
from stts_cli.report import pictures, plots
from stts_cli.training.run_folder import RunLog, claim
from tests.evaluation.test_journal import CONFIG, rows
from tests.report.evaluations import document

resource = pytest.importorskip("resource")


@contextlib.contextmanager
def no_file_larger_than(size):
    """Let every write beyond so many bytes fail, as a full disk does (which a test has no right to make)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def journal(folder):
    one = Journal(folder, CONFIG)
    one.open()
    one.append(rows(1)[0])


def merged(folder):
    Journal(folder, CONFIG).merge(rows(*range(99)))


def picture(folder):
    figure = plots.new_figure(2, 2)
    figure.suptitle("a title")
    plots.save(figure, folder / "x.png")


def kept(folder):
    frames = pictures.Kept(np.zeros((2, 4, 4, 3), np.uint8), [0.0, 0.5], np.ones((2, 4), bool), None, np.zeros((2, 2)))
    pictures.save_kept(str(folder / "x.png"), b"\x89PNG" * 99, frames)


WRITERS = {
    "samples.rank0.jsonl": journal,
    "samples.jsonl": merged,
    "results.json": lambda folder: write_results(document(), folder),
    "x.png": picture,
    " x.png": kept,
    "run.json": lambda folder: claim(folder, {"a": "b" * 99}),
    "log.jsonl": lambda folder: RunLog(folder / "log.jsonl", print)({"event": "log", "loss": "1" * 99}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_is_named_with_the_file(tmp_path, name):
    with no_file_larger_than(64), pytest.raises(EnvironmentFailure) as caught:
        WRITERS[name](tmp_path)
    assert str(caught.value) == f"{tmp_path / name.strip()}: cannot be written (File too large)."


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_a_file_is_named(tmp_path, name):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(EnvironmentFailure, match=r"/out\b.*: cannot be written \(\w"):
        WRITERS[name](tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
