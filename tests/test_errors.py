from __future__ import annotations

import errno
import warnings

import pytest

from stts_cli import cli
from stts_cli.errors import EnvironmentFailure, InputError, SttsError, suggest, writing


def test_suggest_names_the_nearest_word_or_all():
    assert suggest("framse", ["frames", "model"]) == "; did you mean 'frames'?"
    assert suggest("zzz", ["model", "frames"]) == "; known: frames, model."


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("no such file"), 2, "no such file"),
        (SttsError("plain"), 2, "plain"),
        (EnvironmentFailure("no GPU"), 3, "no GPU"),
        (MemoryError(), 3, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), 3, "--frames"),
        (
            ModuleNotFoundError("No module named 'accelerate'", name="accelerate"),
            3,
            "the package accelerate: is missing; in a clone of stts: pip install .",
        ),
        (OSError(errno.EIO, "Input/output error", "a/b"), 3, "a/b: Input/output error."),
        (ConnectionError("no route"), 3, "no route"),
        (KeyError("windows"), 1, "a bug in stts: KeyError"),
        (ValueError("several\nlines"), 1, "several lines"),
    ],
)
def test_every_exception_has_one_line_and_a_code(error, code, words):
    sentence, given = cli.describe_failure(error)
    assert given == code
    assert words in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("category", [FutureWarning, DeprecationWarning])
def test_a_deprecation_below_a_call_of_ours_is_recorded(category, deprecations):
    """conftest.py fails a test for it, although the warning is attributed to the code that was called."""

    def names():
        warnings.warn("the old name", category, stacklevel=1)
        yield "frames"

    suggest("framse", names())
    assert len(deprecations) == 1
    assert "errors.py" in deprecations[0]
    assert "the old name" in deprecations[0]
    deprecations.clear()


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_what_cannot_be_written_is_named_and_exit_3(failure):
    with pytest.raises(EnvironmentFailure, match=r"^out/x: cannot be written \(.*\w.*\)\.$"), writing("out/x"):
        raise failure
    for other in (InputError("mine"), KeyError("a bug")):
        with pytest.raises(type(other)), writing("out/x"):
            raise other


def test_a_failure_that_names_its_file_keeps_it(tmp_path):
    with pytest.raises(EnvironmentFailure, match=r"gone/x: cannot be written \(No such file or directory\)\."):
        with writing(tmp_path):
            (tmp_path / "gone/x").write_text("")
