"""A full disk ends a training in one line, and leaves no checkpoint that is not whole."""

from __future__ import annotations

import pytest

from stts_cli.errors import EnvironmentFailure
from stts_cli.training.finetune import finetune
from tests.test_writing import no_file_larger_than
from tests.training.conftest import base_settings


@pytest.mark.slow
@pytest.mark.parametrize("size", [600, 2_000, 12_000])
def test_a_training_whose_disk_is_full_ends_in_one_line(tmp_path, base, videos_jsonl, size):
    settings = base_settings(base, videos_jsonl, save_every=1)
    with no_file_larger_than(size), pytest.raises(EnvironmentFailure, match=r"out.*: cannot be written \("):
        finetune(settings, tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out/checkpoints").glob("checkpoint-*")), "none that is not whole"
