"""FSDP2: weights sharded over processes give what one process gives, saving, evaluation and resuming included.

accelerate shards on GPUs only; `forked` replaces its word for two CPU processes ("MULTI_CPU") by the one for sharding,
and torch's own FSDP2 runs over gloo.
"""

import dataclasses

import pytest

from stts_cli.training.finetune import finetune
from tests.training.test_trainer import assert_same_run, log_of, settings


@pytest.mark.slow
@pytest.mark.thorough
def test_sharded_weights_are_one_processs_killed_and_resumed(base, videos_jsonl, tmp_path, forked):
    held_out = tmp_path / "held_out.jsonl"  # one video: the other process has none, and must run forward all the same
    held_out.write_text(videos_jsonl.read_text().splitlines()[0] + "\n")
    changes = {"train": "full", "clip_by": "part", "clip": 0.2, "steps": 4, "save_every": 2, "eval_data": str(held_out)}
    output = tmp_path / "sharded"
    case = {"settings": dataclasses.asdict(settings(base, videos_jsonl, **changes)), "output": str(output)}
    codes, said = forked(tmp_path / "killed.txt", processes=2, sharded=True, strike={"step": 3}, **case)
    assert codes[0] != 0
    assert "DistributedType.FSDP FSDPTrainingModel" in said
    assert [path.name for path in (output / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"], said
    codes, said = forked(tmp_path / "resumed.txt", processes=2, sharded=True, resume=True, **case)
    assert codes == [0, 0], said[-3000:]
    document = finetune(settings(base, videos_jsonl, **changes, batch_size=2), tmp_path / "one", device="cpu")
    (end,) = log_of(output, "done")
    assert end["resumed_from"] == "checkpoint-2"
    for arm, figures in document["after"].items():
        assert end["after"][arm] == pytest.approx(figures, rel=1e-4), arm
    assert_same_run(output, tmp_path / "one")
