"""A profiled training step: its FLOPs against torch's own counter, what it times, what it says."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stts_cli import profiling
from stts_cli.config.architectures import load_architecture
from stts_cli.config.presets import demo_video
from stts_cli.cost import estimate, savings
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.profiling import memory, passes
from stts_cli.profiling.passes import DENSE, TRAINING_STAGES, Arm, Job
from stts_cli.profiling.training_steps import Trainee, runner
from stts_cli.report import profile as report_profile

NANO = load_architecture("nano")
# small enough to run
SMALL = NANO.shape.model_copy(update={
    "vision_config": NANO.shape.vision_config.model_copy(update={
        "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 7, "head_dim": 32,
        "num_attention_heads": 4, "image_size": [24, 24], "patch_size": 4}),
    "adapter_config": NANO.shape.adapter_config.model_copy(update={
        "hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 144,
        "vision_feature_layer": [6, 4]}),
    "text_config": NANO.shape.text_config.model_copy(update={
        "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 320}),
    "pooling": [2, 2],
})  # fmt: skip
TINY = dataclasses.replace(NANO, shape=SMALL)
PRUNED = Arm(0.4, "learned")


def make_job(**changes):
    job = Job(NANO, None, demo_video(), True, 3, "cpu", "float32", "auto", train=True)
    return dataclasses.replace(job, **changes)


def trainee(**changes):
    job = make_job(**changes)
    family = passes.build(job)
    clip, _ = passes.read_frames(job, 5, family)
    return Trainee(family, job), clip


@pytest.fixture(scope="module")
def nano():
    return trainee()


@pytest.mark.parametrize("arm", [DENSE, PRUNED, Arm(0.4, "temporal")], ids=lambda arm: arm.name)
def test_the_flops_of_a_step_agree_with_torch(arm, monkeypatch):
    monkeypatch.setattr("stts_cli.pruning.attention._GROUP_OVERHEAD", 0)  # frames of one length a group: no padding
    model, clip = trainee(architecture=TINY, kernel="eager")
    family = model.watched.family
    family.model.set_attn_implementation({"text_config": "eager", "adapter_config": "eager"})
    with FlopCounterMode(display=False) as counter:
        forward = model.forward(clip, arm)
        before = counter.get_total_flops()
        (forward.lm_sum + forward.temporal_sum).backward()
        after = counter.get_total_flops()
    one = model.run(clip, arm)
    assert one.prompt_tokens[1] == forward.num_inputs
    saved = savings.count_training(
        family.shape(), one.kept_per_frame, one.prompt_tokens, 3, answer_tokens=one.answer_tokens, scorer=one.scorer,
        packed_patches=one.packed_patches,
    )  # fmt: skip
    column = 0 if arm == DENSE else 1
    backward = saved.flops["backward"][column]
    assert saved.total[column] - backward == before
    assert backward == after - before
    assert saved.changes_nothing == (arm == DENSE)
    assert saved.total[0] > 1.2 * saved.total[1] or arm == DENSE


@pytest.mark.parametrize("arm", [DENSE, PRUNED], ids=lambda arm: arm.name)
def test_stages_add_up_to_the_step(nano, arm, fake_clock):
    """Each module takes a second of made-up time: none of it is lost, none counted twice."""
    modules = [module for module in nano[0].model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(lambda *_: fake_clock.spend(1)) for module in modules]
    one = nano[0].run(nano[1], arm)
    for hook in hooks:
        hook.remove()
    assert set(TRAINING_STAGES) < set(one.seconds)
    assert one.seconds["step"] == pytest.approx(sum(one.seconds[stage] for stage in TRAINING_STAGES), abs=0.01)
    spent = {stage: round(one.seconds[stage]) for stage in TRAINING_STAGES}
    assert {stage for stage, seconds in spent.items() if seconds > 0} >= {"vit_dense", "vit_packed", "connector", "llm"}
    without = one.seconds["step"] - one.seconds["preprocess"] - one.seconds["optimizer"]
    assert one.seconds["forward_backward"] == pytest.approx(without)
    assert one.seconds["step_cpu"] > 0
    assert min(one.seconds[stage] for stage in TRAINING_STAGES if stage != "score_select_pack") > 0
    assert one.answer_tokens == len(estimate.ANSWER) + 1


def test_a_step_trains_everything():
    model, clip = trainee()
    before = {name: p.detach().clone() for name, p in model.model.named_parameters()}
    model.run(clip, PRUNED)
    idle = {id(p) for block in model.watched.family.idle_vit_blocks for p in block.parameters()}
    still = {name for name, p in model.model.named_parameters() if id(p) not in idle and torch.equal(p, before[name])}
    assert not {name for name in still if "embed" not in name and "bias" not in name}, "these did not move"
    assert any(name.startswith("scorer.") for name in before)


def test_the_step_is_the_trainers(nano):
    """Frozen parts, another loss or another row would make it cheaper: gradients and kept windows tell."""
    model, clip = nano
    step = model.forward(clip, PRUNED)
    assert int(step.keep_mask.sum()) == sum(model.run(clip, PRUNED).kept_per_frame) == 32
    assert step.num_windows == 4 * 16
    assert step.lm_sum.requires_grad
    assert step.temporal_sum.requires_grad
    kinds = {group["part"] for group in model.optimizer.param_groups}
    assert kinds == {"scorer", "vit", "connector", "llm"}


def measured(**changes):
    job = {"architecture": NANO, "model": None, "video": demo_video(), "restamp": True} | {"train": True}
    how = {"frames": [4], "keep_ratios": [0.5], "repeats": 2, "memory": False}
    how |= {key: changes.pop(key) for key in list(changes) if key in (*how, "scorer", "progress")}
    return profiling.profile(Job(**{**job, **changes}), **how)


@pytest.mark.slow
def test_the_document(capsys):
    document = measured(frames=[4, 8])
    json.dumps(document, allow_nan=False)
    assert document["settings"]["train"] is True
    assert document["settings"]["answer"] == estimate.ANSWER
    assert document["convention"] == savings.TRAINING_CONVENTION
    assert len(document["break_even"]) == 1
    for point in document["points"]:
        assert point["headline"] == "step"
        assert point["decode_flops_per_token"] is None
        assert sum(r["dense"] for n, r in point["flops"].items() if n != "total") == point["flops"]["total"]["dense"]
        assert set(point["speedup"]) == {"forward_backward", "step", "step_cpu"}
        for gain in point["speedup"].values():
            assert gain["ideal"] == point["ideal_speedup"]
            assert gain["achieved_of_ideal"] == pytest.approx(gain["achieved"] / gain["ideal"])
    report_profile.show(document)
    assert "of a training step" in capsys.readouterr().out
    report_profile.show({**document, "points": document["points"][:1]})
    out = capsys.readouterr().out
    assert "speed-up, training step: " in out
    assert "time, backward" in out
    assert "FLOPs, training step" in out
    assert "decod" not in out


@pytest.mark.slow
def test_autocast_is_finetunes(capsys):
    document = measured(dtype="bfloat16", repeats=1)
    assert document["points"][0]["kernel"] == "eager", "the kernel that finetuning takes under autocast on a CPU"
    report_profile.show(document)
    assert "autocast over float32 weights" in capsys.readouterr().out
    with pytest.raises(InputError, match="float16"):
        measured(dtype="float16")


@pytest.mark.slow
def test_a_step_is_counted_without_running(capsys):
    document = estimate.analytic(architecture=NANO, frames=[4], keep_ratios=[0.5], train=True)
    (counted,) = document["points"]
    (ran,) = measured(repeats=1)["points"]
    assert counted["tokens"] == ran["tokens"]
    assert counted["ideal_speedup"] == pytest.approx(ran["ideal_speedup"], rel=0.02)
    assert counted["flops"]["total"]["dense"] == ran["flops"]["total"]["dense"]
    report_profile.show(document)
    assert "FLOP-ideal speed-up, training step" in capsys.readouterr().out


def test_too_little_memory_is_told(nano, monkeypatch):
    """Before the model is built by the estimate, else where it ran out, with flags that this command has."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**20)
    with pytest.raises(EnvironmentFailure, match=r"GiB dense \(.* of weights, gradients and moments, .* free on cpu"):
        measured()
    model, clip = nano
    monkeypatch.setattr(model.watched.family, "encode", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(EnvironmentFailure, match="the vision encoder: out of memory; lower --frames or --keep"):
        model.run(clip, DENSE)


@pytest.mark.slow
@pytest.mark.thorough
def test_memory_of_a_step_is_measured_and_estimated():
    (plan,) = estimate.plan(
        NANO, frames=[64], keep_ratios=[0.25], scorer="learned", prune_layer=3, dtype="float32", on_gpu=False,
        train=True,
    )  # fmt: skip
    notes: list[str] = []
    peaks = memory.peaks_of_processes(make_job(), [plan], notes, lambda stage: None)
    assert notes == []
    dense, pruned = peaks[64, DENSE], peaks[64, Arm(0.25, "learned")]
    assert dense is not None
    assert pruned is not None
    assert pruned["peak"] < 0.8 * dense["peak"]
    activations = plan.memory["dense"]["vit"] + plan.memory["dense"]["llm"]
    assert 0.5 < activations / dense["peak"] < 2, "the estimate is of the right size"


def test_a_job_that_does_not_train_answers():
    job = make_job(train=False)
    family = passes.build(job)
    clip, _ = passes.read_frames(job, 2, family)
    assert "decode_per_token" in runner(family, job)(clip, DENSE).seconds
    assert "backward" in runner(family, make_job())(clip, DENSE).seconds
