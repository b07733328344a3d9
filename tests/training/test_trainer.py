"""The trainer: batches, processes and interruptions change nothing; rates, checkpoints and the log are what they say.

Every run here trains a tiny model on six real clips. A run is killed by SIGKILL in a process of its own.
"""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stts_cli.errors import InputError
from stts_cli.training.finetune import finetune
from stts_cli.training.model import TrainingModel, part_of
from stts_cli.training.optimizers import MixedOptimizer, make_groups, make_optimizer, rate_factor
from stts_cli.training.settings import FinetuneSettings
from stts_cli.training.trainer import SttsTrainer
from tests.training.conftest import base_settings

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # the fast tier has the loss, the rows and whole runs from the tests beside this one


def settings(base, data, **changes):
    return base_settings(base, data, **{"train": "full", **changes})


def weights(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {f"{path.stem}.{name}": value for name, value in load_file(path).items()}
    return found


def log_of(folder, event="log"):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def curve(folder):
    return [(line["step"], line["lm_loss"], line.get("temporal_loss"), line["grad_norm"]) for line in log_of(folder)]


def assert_same_run(one, other):
    """Loss curve, gradient norms and final weights of two runs agree to 1e-5; weights have moved by some 2e-3.

    Biases of keys are left out: a softmax does not see them, their gradient is rounding and nothing else, and AdamW
    makes whole steps of it.
    """
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(
        torch.tensor(curve(one), dtype=torch.float64), torch.tensor(curve(other), dtype=torch.float64), **tolerance
    )
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    seen = [name for name in ours if not name.endswith(("wk.bias", "k_proj.bias"))]
    assert len(seen) > 0.9 * len(ours)
    for name in seen:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance, msg=f"{name}: {{}}".format)


def assert_identical(one, other):
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module")
def one_process(base, videos_jsonl, tmp_path_factory):
    """Two videos a step, in one process and one forward pass."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    finetune(settings(base, videos_jsonl, batch_size=2), folder)
    return folder


def test_the_loss_moves(one_process, base):
    losses = [lm for _, lm, _, _ in curve(one_process)]
    assert losses[-1] < losses[0] - 0.1
    start, end = weights(base), weights(one_process)
    for prefix in ("model.model.vision", "model.model.transformer", "scorer."):
        assert any(not torch.equal(start[k], end[k]) for k in start if k.startswith(prefix)), prefix


def test_accumulated_batches_are_one_batch(one_process, base, videos_jsonl, tmp_path):
    finetune(settings(base, videos_jsonl, batch_size=1, accumulate=2), tmp_path / "run")
    assert_same_run(tmp_path / "run", one_process)


def test_packing_changes_nothing(one_process, base, videos_jsonl, tmp_path):
    finetune(settings(base, videos_jsonl, batch_size=2, seq_len=2000), tmp_path / "run")
    assert_same_run(tmp_path / "run", one_process)


def test_gradient_checkpointing_changes_nothing(one_process, base, videos_jsonl, tmp_path):
    finetune(settings(base, videos_jsonl, batch_size=2, gradient_checkpointing=True), tmp_path / "run")
    assert_identical(tmp_path / "run", one_process)


def flags(one):
    words = []
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        if value is True:
            words.append("--" + field.name.replace("_", "-"))
        elif value != field.default:
            words += ["--" + field.name.replace("_", "-"), str(value)]
    return words


def launch(arguments, processes, output):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = ["-m", "stts_cli.cli", "finetune", *arguments, "--output", str(output), "--device", "cpu"]
    return subprocess.run(
        [*torchrun, *command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_two_processes_are_one(one_process, base, videos_jsonl, tmp_path):
    """DDP over gloo: each of two processes takes one of the step's two videos."""
    done = launch(flags(settings(base, videos_jsonl, batch_size=1)), 2, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert_both_trained(tmp_path / "run", one_process, done.stderr)


def test_two_processes_take_the_recipe_as_one(recipe, base, videos_jsonl, tmp_path, forked):
    words = flags(settings(base, videos_jsonl, batch_size=1, **RECIPE, global_batch=2))
    command = ["finetune", *words, "--output", str(tmp_path / "run"), "--device", "cpu"]
    codes, said = forked(tmp_path / "said.txt", processes=2, command=command)
    assert codes == [0, 0], said[-2000:]
    assert_both_trained(tmp_path / "run", recipe, said)


def assert_both_trained(run, one_process, said):
    assert log_of(run, "start")[0]["processes"] == 2
    assert len(log_of(run)) == 4, "one process writes the log"
    assert_same_run(run, one_process)
    (line,) = [line for line in said.splitlines() if line.startswith("stts: training full")]
    assert line.endswith("float32, 2 processes")


# Interruptions. Each case: settings, and where SIGKILL strikes.
MIXED = {"keep_ratio": "0.5:2,1:1", "steps": 7, "save_every": 2, "batch_size": 2}
CASES = {
    "scorer": ({"train": "scorer", "scorer_warmup": 1, **MIXED}, {"step": 5}),
    "full": ({"train": "full", "accumulate": 2, **MIXED, "batch_size": 1}, {"step": 3}),
    "saving": ({"train": "full", "weight_decay": 0.1, **MIXED}, {"save": 3}),
    "muon": (
        {"train": "full", "optimizer": "muon", "precision": "bf16-master", "lr_llm": 0.01, **MIXED},
        {"step": 5},
    ),
    "best": ({"train": "full", **MIXED, "eval_videos": 2, "eval_every": 2}, {"step": 6}),
    "ended": ({"train": "full", **MIXED}, {"result": True}),
    "lora": ({"train": "lora", "lora_rank": 2, "lora_vit": True, **MIXED}, {"step": 4}),
}


@pytest.fixture(scope="module")
def killed(base, videos_jsonl, tmp_path_factory, forked):
    """All cases' runs, struck by SIGKILL where they say."""
    folder = tmp_path_factory.mktemp("killed")
    for name, (changes, strike) in CASES.items():
        own = dataclasses.asdict(settings(base, videos_jsonl, **changes))
        codes, said = forked(folder / f"{name}.txt", settings=own, output=str(folder / name), strike=strike)
        assert codes == [-signal.SIGKILL], said[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_that_is_resumed_ends_bit_for_bit_as_if_it_had_not_been(
    name, killed, base, videos_jsonl, tmp_path, monkeypatch
):
    changes, strike = CASES[name]
    own = settings(base, videos_jsonl, **changes)
    run = killed / name
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert not (run / "stts.json").exists()
    assert (".saving" in left) == ("save" in strike)
    monkeypatch.chdir(killed)  # resumed from another folder, and by a relative path
    document = finetune(own, name, resume=True)
    expected = {"scorer": 4, "full": 2, "saving": 4, "muon": 4, "best": 4, "ended": 7, "lora": 2}[name]
    assert document["resumed_from"] == f"checkpoint-{expected}"
    assert not (run / "checkpoints" / ".saving").exists()
    unbroken = finetune(own, tmp_path / "run")
    assert unbroken["resumed_from"] is None
    assert document["best_step"] == unbroken["best_step"]
    assert document["before"] == unbroken["before"]
    assert document["after"] == unbroken["after"]
    assert_identical(run, tmp_path / "run")
    by_step = {line["step"]: line["lm_loss"] for line in log_of(run) if "lm_loss" in line}
    assert by_step == {line["step"]: line["lm_loss"] for line in log_of(tmp_path / "run") if "lm_loss" in line}


@pytest.fixture(scope="module")
def stopped(base, videos_jsonl, tmp_path_factory):
    """A run that was stopped after two of three steps, and its settings."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    own = settings(base, videos_jsonl, train="scorer", steps=3, save_every=1, keep_checkpoints=3)
    finetune(own, folder, device="cpu")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-3")
    return folder, own


def resume_refused(stopped, tmp_path, change, message):
    run = tmp_path / "run"
    shutil.copytree(stopped[0], run)
    change(run / "checkpoints" / "checkpoint-2")
    with pytest.raises(InputError) as caught:
        finetune(stopped[1], run, resume=True, device="cpu")
    assert str(caught.value).startswith(f"{run}/checkpoints/{message}"), str(caught.value)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_lacks_a_file_is_not_resumed(stopped, tmp_path, name):
    message = f"checkpoint-2/{name}: is missing, and the run would go on otherwise without it. Delete checkpoint-2 to"
    resume_refused(stopped, tmp_path, lambda checkpoint: (checkpoint / name).unlink(), message)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_of_a_checkpoint_is_named(stopped, tmp_path, name, damage):
    def change(checkpoint):
        path = checkpoint / name
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:200])
        else:
            torch.save({}, path)

    message = f"checkpoint-2/{name}: is damaged, or of another run ("
    resume_refused(stopped, tmp_path, change, message)


def test_a_checkpoint_without_its_weights_is_not_resumed(stopped, tmp_path):
    message = "checkpoint-2/scorer.safetensors: cannot be read"
    resume_refused(stopped, tmp_path, lambda checkpoint: (checkpoint / "scorer.safetensors").unlink(), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "is missing. Delete checkpoint-2 to go on from checkpoint-1."),
        (lambda path: path.write_text('{"global_step": 2'), "is damaged (Expecting"),
        (lambda path: path.write_text("[]"), "is damaged (it holds no JSON object). Delete"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is damaged ('utf-8' codec"),
        (lambda path: path.write_text('{"global_step": 1}'), "is of step 1. Delete"),
        (lambda path: path.write_text("{}"), "is of step None. Delete"),
    ],
)
def test_the_state_of_a_checkpoint_is_whole_or_refused(stopped, tmp_path, change, message):
    """It was taken for no checkpoint at all, and the run began anew."""
    resume_refused(
        stopped, tmp_path, lambda one: change(one / "trainer_state.json"), f"checkpoint-2/trainer_state.json: {message}"
    )


def test_other_processes_and_a_lost_best_checkpoint(stopped, tmp_path):
    def other_processes(checkpoint):
        for k in range(2):
            shutil.copy(checkpoint / "rng_state.pth", checkpoint / f"rng_state_{k}.pth")
        (checkpoint / "rng_state.pth").unlink()

    def lost_best(checkpoint):
        state = checkpoint / "trainer_state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "best_global_step": 7}))

    message = "checkpoint-2: was written by 2 processes, these are 1, which would train on other batches. Start as many"
    resume_refused(stopped, tmp_path / "a", other_processes, message)
    resume_refused(stopped, tmp_path / "b", lost_best, "checkpoint-7: is missing")


def test_without_a_checkpoint_a_resumed_run_says_that_it_begins(stopped, tmp_path):
    run, events = tmp_path / "run", []
    shutil.copytree(stopped[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    document = finetune(stopped[1], run, resume=True, device="cpu", report=events.append)
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert f"--resume: {run} holds no checkpoint, so the run starts from its beginning." in notes
    assert document["resumed_from"] is None
    assert_identical(run, stopped[0])


def test_the_best_checkpoint_and_the_last_are_kept_and_the_best_is_the_result(
    base, videos_jsonl, tmp_path, monkeypatch
):
    accuracy = {0: 0.1, 1: 0.2, 2: 0.9, 3: 0.3, 4: 0.9, 5: 0.1, 6: 0.4}
    held = []

    def measure(self, arms):
        step = self.state.global_step
        held.append(sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")))
        figures = {"loss": 1.0, "answers": 4, "flops_ratio": 0.5, "kept": 0.5}
        return {name: {"accuracy": accuracy[step] if name == "pruned" else 0.5, **figures} for name in arms}

    monkeypatch.setattr(SttsTrainer, "measure", measure)
    own = settings(base, videos_jsonl, steps=6, eval_videos=2, eval_every=1, keep_checkpoints=2)
    document = finetune(own, tmp_path / "run")
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert left == ["checkpoint-2", "checkpoint-5", "checkpoint-6"]
    assert held[3] == ["checkpoint-1", "checkpoint-2"]
    assert document["best_step"] == 2
    assert document["after"]["pruned"]["accuracy"] == 0.9
    assert_identical(tmp_path / "run", tmp_path / "run" / "checkpoints" / "checkpoint-2")


@pytest.mark.parametrize(("keep", "left"), [(1, [6]), (2, [5, 6]), (3, [4, 5, 6])])
def test_the_last_checkpoints_are_kept(base, videos_jsonl, tmp_path, keep, left):
    finetune(
        settings(base, videos_jsonl, train="scorer", steps=6, save_every=1, keep_checkpoints=keep), tmp_path / "run"
    )
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert found == [f"checkpoint-{step}" for step in left]


def test_the_log_has_the_losses_parts(one_process):
    lines = log_of(one_process)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert {"loss", "lm_loss", "temporal_loss", "kept", "tokens_per_s", "grad_norm", "learning_rate"} <= line.keys()
        assert line["loss"] == pytest.approx(line["lm_loss"] + 0.5 * line["temporal_loss"], abs=2e-4)
        assert line["kept"] == pytest.approx(0.5, abs=0.02)  # whole windows
        assert line["tokens_per_s"] > 0
    (start,) = log_of(one_process, "start")
    assert (start["steps"], start["items"], start["held_out"], start["processes"]) == (4, 6, 0, 1)
    assert start["trainable"] <= start["parameters"]
    assert len(log_of(one_process, "done")) == 1


def test_the_scorers_warm_up_leaves_everything_else_as_it_was_bit_for_bit(base, videos_jsonl, tmp_path):
    own = settings(
        base, videos_jsonl, scorer_warmup=3, steps=1, save_every=3, weight_decay=0.1, keep_checkpoints=5, warmup=0
    )
    finetune(own, tmp_path / "run")
    start = weights(base)
    warmed, end = weights(tmp_path / "run" / "checkpoints" / "checkpoint-3"), weights(tmp_path / "run")
    assert start.keys() == warmed.keys()
    for name, value in start.items():
        assert torch.equal(value, warmed[name]) == (not name.startswith("scorer.")), name
    assert any(not torch.equal(warmed[name], end[name]) for name in start if not name.startswith("scorer."))
    lines = log_of(tmp_path / "run")
    assert ["lm_loss" in line for line in lines] == [False, False, False, True]
    assert all("temporal_loss" in line for line in lines)


def test_a_group_for_every_part_and_kind(family):
    one = FinetuneSettings(lr_scorer=1.0, lr_vit=2.0, lr_connector=3.0, lr_llm=4.0, weight_decay=0.1)
    model = TrainingModel(family)
    groups = make_groups(model.named_parameters(), one, family.part_names)
    named = {id(p): name for name, p in model.named_parameters()}
    seen = {}
    for group in groups:
        for parameter in group["params"]:
            name = named[id(parameter)]
            assert name not in seen
            seen[name] = group
            part = next(
                p
                for p, mark in (("scorer", "scorer."), ("vit", "vision_tower"), ("connector", "projector"), ("llm", ""))
                if mark in name
            )
            assert group["part"] == part == part_of(name, family.part_names)
            assert group["lr"] == {"scorer": 1.0, "vit": 2.0, "connector": 3.0, "llm": 4.0}[part]
            decays = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name and 1 not in parameter.shape
            assert group["weight_decay"] == (0.1 if decays else 0.0), name
    assert seen.keys() == set(named.values())
    assert isinstance(make_optimizer(groups), torch.optim.AdamW)


def test_muon_takes_hidden_matrices_and_leaves_the_scorer_alone(family):
    one = FinetuneSettings(lr_scorer=1.0, lr_vit=2.0, lr_connector=3.0, lr_llm=4.0, optimizer="muon", muon_adamw=0.1)
    model = TrainingModel(family)
    named = {id(p): name for name, p in model.named_parameters()}
    for group in make_groups(model.named_parameters(), one, family.part_names):
        for parameter in group["params"]:
            name = named[id(parameter)]
            outer = parameter.ndim != 2 or "embed" in name or "lm_head" in name or "positional" in name
            muon = not outer and not name.startswith("scorer.")
            assert group["rule"] == ("muon" if muon else "adamw"), name
            own = {"scorer": 1.0, "vit": 2.0, "connector": 3.0, "llm": 4.0}[group["part"]]
            assert group["lr"] == pytest.approx(own if muon or group["part"] == "scorer" else 0.4), name


def test_frozen_weights_are_in_no_group(family):
    family.model.requires_grad_(False)
    groups = make_groups(TrainingModel(family).named_parameters(), FinetuneSettings(), family.part_names)
    assert {group["part"] for group in groups} == {"scorer"}


def test_float32_copies_step_as_float32_weights_do():
    """bf16 weights under MixedOptimizer are the rounded weights of torch's own AdamW in float32."""
    torch.manual_seed(0)
    start = torch.randn(4, 3).bfloat16()
    exact, rounded = torch.nn.Parameter(start.float()), torch.nn.Parameter(start.clone())
    torchs = torch.optim.AdamW([exact], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    group = {"params": [rounded], "part": "llm", "rule": "adamw", "lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)}
    group["eps"] = 1e-8
    ours = make_optimizer([group])
    assert isinstance(ours, MixedOptimizer)
    for _ in range(20):
        gradient = torch.randn(4, 3).bfloat16()
        exact.grad, rounded.grad = gradient.float(), gradient
        torchs.step()
        ours.step()
        assert torch.equal(rounded, exact.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("betas", [None, "0.5,0.75"])
def test_adamw_steps_by_its_betas_and_eps(dtype, betas):
    """Two steps worked out on paper; bf16 weights take them through float32 copies."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    one = FinetuneSettings(adam_betas=betas, adam_eps=0.25, lr_llm=2.0)
    optimizer = make_optimizer(make_groups([("stock.lm_head.bias", weight)], one, {}))
    first, second = (0.9, 0.95) if betas is None else (0.5, 0.75)
    expected, mean, square = 0.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, -2.0), start=1):
        weight.grad = torch.tensor([gradient], dtype=dtype)
        optimizer.step()
        mean, square = first * mean + (1 - first) * gradient, second * square + (1 - second) * gradient**2
        expected -= 2 * (mean / (1 - first**step)) / (math.sqrt(square / (1 - second**step)) + 0.25)
        assert weight.item() == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 1e-2)


def test_betas_beside_muon_are_its_own_unless_given():
    weight = torch.nn.Parameter(torch.zeros(1))
    for betas, expected in ((None, (0.9, 0.98)), ("0.9,0.95", (0.9, 0.95))):
        (group,) = make_groups([("stock.x", weight)], FinetuneSettings(optimizer="muon", adam_betas=betas), {})
        assert group["betas"] == expected


def test_each_parts_gradient_is_clipped_by_itself(base, videos_jsonl, tmp_path, monkeypatch):
    seen = {}
    original = SttsTrainer._clip_grad_norm

    def by_part(model):
        found = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found.setdefault(part_of(name, model.family.part_names), []).append(
                    parameter.grad.detach().clone().flatten()
                )
        return {part: torch.cat(gradients) for part, gradients in found.items()}

    def clip(self, model):
        seen["model"] = self.training_model
        seen["before"] = by_part(self.training_model)
        seen["norm"] = original(self, model)
        seen["after"] = by_part(self.training_model)
        return seen["norm"]

    monkeypatch.setattr(SttsTrainer, "_clip_grad_norm", clip)
    finetune(settings(base, videos_jsonl, steps=1, clamp_scorer_gradient=True, **RECIPE), tmp_path / "run")
    model = seen["model"]
    one = model.settings
    assert (one.clamp_scorer_gradient, one.target_gradient, one.z_loss) == (True, True, 0.05)
    assert seen["before"].keys() == {"scorer", "vit", "connector", "llm"}
    norms = {part: float(gradient.norm()) for part, gradient in seen["before"].items()}
    assert min(norms.values()) < 0.2 < max(norms.values()), "some are to be left alone"
    for part, gradient in seen["before"].items():
        expected = gradient * min(1.0, 0.2 / (norms[part] + 1e-6))
        torch.testing.assert_close(seen["after"][part], expected, rtol=1e-5, atol=1e-9)
    assert seen["norm"] == pytest.approx(math.sqrt(sum(norm**2 for norm in norms.values())), rel=1e-5)


def test_the_loss_is_that_of_weighted_answers(base, videos_jsonl, tmp_path, monkeypatch):
    seen, original = {}, TrainingModel.forward

    def forward(self, clips, *arguments, **options):
        seen["step"], seen["lengths"] = (
            original(self, clips, *arguments, **options),
            [len(answer) + 1 for clip in clips for talk in clip.conversations for _, answer in talk.turns],
        )
        return seen["step"]

    monkeypatch.setattr(TrainingModel, "forward", forward)
    finetune(settings(base, videos_jsonl, steps=1, **RECIPE), tmp_path / "run")
    step, weights = seen["step"], sum(math.sqrt(n) for n in seen["lengths"])
    expected = step.answer_sum.item() / weights + 0.5 * step.temporal_sum.item() / step.num_windows
    assert log_of(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=1e-5)


# the reference's recipe, its weights large enough to be seen in a few steps
RECIPE = {
    "answer_weights": "root-length",
    "z_loss": 0.05,
    "clip_by": "part",
    "clip": 0.2,
    "target_gradient": True,
    "adam_eps": 1e-6,
    "adam_betas": "0.8,0.9",
    "schedule": "cosine-after-warmup",
}


@pytest.fixture(scope="module")
def recipe(base, videos_jsonl, tmp_path_factory):
    """The recipe, two videos a step in one process and one forward pass."""
    folder = tmp_path_factory.mktemp("recipe") / "one"
    finetune(settings(base, videos_jsonl, batch_size=2, **RECIPE), folder)
    return folder


def test_the_recipe_takes_accumulated_batches_as_one(recipe, one_process, base, videos_jsonl, tmp_path):
    finetune(settings(base, videos_jsonl, global_batch=2, **RECIPE), tmp_path / "run")
    assert_same_run(tmp_path / "run", recipe)
    assert curve(recipe)[0][1] == pytest.approx(curve(one_process)[0][1], abs=1e-6), "the log's loss has no weights"


COSINE = FinetuneSettings(warmup=4, schedule="cosine")
WSD = FinetuneSettings(warmup=4, schedule="wsd")


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (COSINE, {0: 0.25, 1: 0.5 * 0.9994, 10: 0.978, 50: 0.55, 100: 0.1, 120: 0.1}),
        (WSD, {0: 0.25, 1: 0.5, 3: 1.0, 50: 1.0, 60: 1.0, 80: 0.5, 90: 0.25, 99: 0.025, 100: 0.02}),
    ],
)
@pytest.mark.parametrize("part", ["scorer", "vit", "connector", "llm"])
def test_schedules(one, expected, part):
    """A hundred steps, four of them to rise."""
    for step, factor in expected.items():
        assert rate_factor(step, part, one, 100) == pytest.approx(factor, abs=2e-3), step
        later = dataclasses.replace(one, scorer_warmup=30)
        assert rate_factor(step + 30, part, later, 130) == pytest.approx(factor, abs=2e-3), step


@pytest.mark.parametrize("floor", [None, 0.0, 0.25])
def test_cosine_ends_at_its_floor_along_a_half_wave(floor):
    one = FinetuneSettings(warmup=0).override(lr_floor=floor)
    floor = 0.1 if floor is None else floor
    for step in range(0, 101, 10):
        expected = floor + (1 - floor) * (1 + math.cos(math.pi * step / 100)) / 2
        assert rate_factor(step, "llm", one, 100) == pytest.approx(expected)


def test_the_references_cosine_starts_where_the_warm_up_ends():
    """6,250 steps, 200 of them to rise: full at the last of these, halfway down in the middle of the rest."""
    one = FinetuneSettings(warmup=200, schedule="cosine-after-warmup")
    expected = {0: 1 / 200, 99: 0.5, 199: 1.0, 3224: 0.55, 6249: 0.1}
    assert {step: rate_factor(step, "llm", one, 6250) for step in expected} == pytest.approx(expected)
    later = dataclasses.replace(one, scorer_warmup=30)
    assert {s: rate_factor(s + 30, "llm", later, 6280) for s in expected} == pytest.approx(expected)


def test_in_the_scorers_warm_up_only_its_own_rate_is_not_zero():
    one = FinetuneSettings(scorer_warmup=30)
    assert [rate_factor(step, "llm", one, 100) for step in range(30)] == [0.0] * 30
    rates = [rate_factor(step, "scorer", one, 100) for step in range(30)]
    assert min(rates) > 0
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) < 0.6


@pytest.mark.parametrize("train", ["scorer", "lora", "full"])
def test_mixed_precision_is_the_same_before_training_as_in_it(train, base, videos_jsonl, tmp_path):
    """Frozen weights in bfloat16 beside a float32 scorer: without autocast the first evaluation could not even run."""
    own = settings(
        base,
        videos_jsonl,
        train=train,
        precision="bf16",
        steps=1,
        eval_videos=1,
        **{"lr_" + part: 0.0 for part in ("scorer", "vit", "connector", "llm", "lora")},
    )
    document = finetune(own, tmp_path / "run")
    for arm in ("dense", "pruned"):
        assert document["before"][arm]["loss"] == pytest.approx(document["after"][arm]["loss"], abs=1e-6)
