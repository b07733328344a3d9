"""FSDP2: weights sharded over processes give what one process gives, saving, evaluation and resuming included.

accelerate shards on GPUs only; here its word for two CPU processes ("MULTI_CPU") is replaced by the one for sharding,
and torch's own FSDP2 runs over gloo.
"""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from stts_cli.training.finetune import finetune
from tests.training.test_trainer import REPOSITORY, assert_same_run, log_of, settings

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Molmo2DecoderLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
PROGRAM = """
import json, os, signal, sys
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

start = AcceleratorState.__init__

def init(self, *arguments, fsdp_plugin=None, **options):
    start(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin

AcceleratorState.__init__ = init
from stts_cli.training.finetune import finetune
from stts_cli.training.settings import FinetuneSettings
from stts_cli.training.trainer import SttsTrainer

given = json.loads(sys.argv[1])
log = SttsTrainer.log

def tell(self, logs, start_time=None):
    print(self.accelerator.distributed_type, type(self.model_wrapped).__name__, flush=True)
    log(self, logs, start_time)

SttsTrainer.log = tell

def report(event):
    if event["event"] == "step" and event["step"] == given["strike"]:
        os.kill(os.getpid(), signal.SIGKILL)

one = FinetuneSettings(**given["settings"])
finetune(one, given["output"], resume=given["resume"], device="cpu", report=report)
"""


def sharded(one, output, tmp_path, resume=False, strike=None):
    program = tmp_path / "sharded.py"
    program.write_text(PROGRAM)
    given = {"settings": dataclasses.asdict(one), "output": str(output), "resume": resume, "strike": strike}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*torchrun, str(program), json.dumps(given)],
        cwd=REPOSITORY,
        env={**os.environ, **FSDP, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.parametrize("train", ["full"])
def test_sharded_weights_are_one_processs_killed_and_resumed(base, videos_jsonl, tmp_path, train):
    held_out = tmp_path / "held_out.jsonl"  # one video: the other process has none, and must run forward all the same
    held_out.write_text(videos_jsonl.read_text().splitlines()[0] + "\n")
    changes = {"train": train, "clip_by": "part", "clip": 0.2, "steps": 4, "save_every": 2, "eval_data": str(held_out)}
    output = tmp_path / "sharded"
    killed = sharded(settings(base, videos_jsonl, **changes), output, tmp_path, strike=3)
    assert killed.returncode != 0
    assert "DistributedType.FSDP FSDPTrainingModel" in killed.stdout
    assert [path.name for path in (output / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"], killed.stderr
    done = sharded(settings(base, videos_jsonl, **changes), output, tmp_path, resume=True)
    assert done.returncode == 0, done.stderr[-3000:]
    document = finetune(settings(base, videos_jsonl, **changes, batch_size=2), tmp_path / "one", device="cpu")
    (end,) = log_of(output, "done")
    assert end["resumed_from"] == "checkpoint-2"
    for arm, figures in document["after"].items():
        assert end["after"][arm] == pytest.approx(figures, rel=1e-4), arm
    assert_same_run(output, tmp_path / "one")
