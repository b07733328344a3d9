"""Trainings in processes of their own that share one import: on several ranks, with sharded weights, killed midway.

`Forker` starts a process that imports the program and computes nothing, so that it may fork: a child for every rank of
every case it is given.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Molmo2DecoderLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


class Forker:
    """The process that forks; `close` ends it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.forked"],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, log: Path, processes: int = 1, **case: Any) -> tuple[list[int], str]:
        """Run one case.

        Args:
            log: where the ranks' stdout and stderr go.
            processes: how many ranks.
            **case: `command`, arguments of `stts`; or `settings` and `output` of a training, with `resume`, `sharded`
                and `strike`: SIGKILL after a {"step": N}, in the {"save": N}th saving, or where the {"result": true}
                is to be written.

        Returns:
            The ranks' exit codes in the order they ended, minus a signal's number; and what they wrote. The first that
            fails ends the others.
        """
        self.process.stdin.write(json.dumps({"log": str(log), "processes": processes, **case}) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return codes, log.read_text()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def _serve() -> None:
    """Fork the ranks of every case on stdin."""
    import stts_cli.cli
    import stts_cli.families.molmo2
    import stts_cli.training.clips
    import stts_cli.training.samples
    import stts_cli.training.trainer  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        case, codes = json.loads(line), []
        children = {_fork(case, rank, port) for port in (_free_port(),) for rank in range(case["processes"])}
        while children:
            child, status = os.wait()
            children.discard(child)
            codes.append(os.waitstatus_to_exitcode(status))
            if codes[-1]:
                for other in children:
                    os.kill(other, signal.SIGKILL)
        answers.write(json.dumps(codes) + "\n")
        answers.flush()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _fork(case: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    with open(case["log"], "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if case["processes"] > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": case["processes"], "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
    code = 1
    try:
        _train(case)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(case: dict[str, Any]) -> None:
    from stts_cli import cli
    from stts_cli.training import finetune, trainer
    from stts_cli.training.settings import FinetuneSettings

    if "command" in case:
        cli.main(case["command"])
        return
    if case.get("sharded"):
        _shard()
    strike = case.get("strike", {})
    if "save" in strike:
        original, saved = trainer.SttsTrainer._save_optimizer_and_scheduler, []

        def save(self: Any, folder: str) -> None:
            saved.append(folder)
            if len(saved) == strike["save"]:
                _die()
            original(self, folder)

        trainer.SttsTrainer._save_optimizer_and_scheduler = save
    if "result" in strike:
        finetune._finish = lambda *arguments: _die()

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == strike.get("step"):
            _die()

    settings = FinetuneSettings(**case["settings"])
    finetune.finetune(settings, Path(case["output"]), resume=case.get("resume", False), device="cpu", report=report)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _shard() -> None:
    """Let accelerate shard on CPUs: its word for several CPU processes is replaced by the one for sharding."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    from stts_cli.training.trainer import SttsTrainer

    os.environ |= FSDP
    start, log = AcceleratorState.__init__, SttsTrainer.log

    def init(self: Any, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        start(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    def log_kinds(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        print(self.accelerator.distributed_type, type(self.model_wrapped).__name__, flush=True)
        log(self, logs, start_time)

    AcceleratorState.__init__ = init
    SttsTrainer.log = log_kinds


if __name__ == "__main__":
    _serve()
