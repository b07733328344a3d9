"""The embedded model on a CUDA GPU: what it says, and training it, against the CPU."""

import json
import math

import pytest
import torch

from stts_cli import cli
from stts_cli.config.presets import demo_video, presets_folder
from stts_cli.training.finetune import finetune
from tests.training.conftest import base_settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


def ask(capsys, device, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["ask", demo_video(), "What color is the circle?", "--json", "--device", device, *arguments])
    out, err = capsys.readouterr()
    assert end.value.code == 0, err
    return json.loads(out)["arms"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scorer", ["learned", "temporal", "reference", "random", "tome"])
def test_answers_are_those_of_the_cpu(scorer, dtype, capsys):
    arguments = ("--scorer", scorer, "--compare", "--dtype", dtype)
    expected, arms = (ask(capsys, device, *arguments) for device in ("cpu", "cuda"))
    assert len(arms) == len(expected) == 2
    for one, other in zip(arms, expected, strict=True):
        assert one["num_windows_kept"] == other["num_windows_kept"]
        assert one["answers"][0]["num_prompt_tokens"] == other["answers"][0]["num_prompt_tokens"]
        if dtype == "float32":
            moved = zip(one["kept_per_frame"], other["kept_per_frame"], strict=True)
            assert sum(abs(a - b) for a, b in moved) <= 2, "windows within rounding of the cut"
            assert one["answers"][0]["text"] == other["answers"][0]["text"]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("train", ["scorer", "lora", "full"])
def test_training_losses_are_those_of_the_cpu(train, precision, checkpointing, videos_jsonl, tmp_path):
    if train == "lora":
        pytest.importorskip("peft")
    losses = {}
    for device in ("cpu", "cuda"):
        settings = base_settings(
            presets_folder() / "nano", videos_jsonl, train=train, precision=precision, steps=2, batch_size=2,
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        finetune(settings, tmp_path / device, device=device)
        events = [json.loads(line) for line in (tmp_path / device / "log.jsonl").read_text().splitlines()]
        losses[device] = [event["loss"] for event in events if event["event"] == "log"]
    assert len(losses["cuda"]) == 2
    assert all(map(math.isfinite, losses["cuda"]))
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05 if precision == "bf16" else 2e-3)
