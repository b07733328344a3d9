"""Measured runs on a tiny model: what is timed, what is counted, what is said."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from stts_cli import cli, profiling, settings
from stts_cli.config.architectures import load_architecture
from stts_cli.config.presets import demo_video
from stts_cli.cost import estimate
from stts_cli.engine.model import VideoModel
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.families import load_family
from stts_cli.profiling import figures, memory, passes, run
from stts_cli.profiling.passes import DENSE, NEW_TOKENS, STAGES, Arm, Job, Pass
from stts_cli.settings import SCORERS

NANO = load_architecture("nano")
SMALL = SimpleNamespace(frame_size=(24, 24), resample="bilinear")


def make_job(**changes):
    settings = {
        "architecture": NANO, "model": None, "video": demo_video(), "restamp": True, "prune_layer": 3, "device": "cpu",
        "dtype": "float32", "kernel": "auto",
    }  # fmt: skip
    return Job(**{**settings, **changes})


@pytest.fixture(scope="module")
def family():
    return passes.build(make_job())


@pytest.fixture(scope="module")
def clip(family):
    return passes.read_frames(make_job(), 6, family)[0]


def measured(**changes):
    job = {"architecture": NANO, "model": None, "video": demo_video(), "restamp": True}
    how = {"frames": [4], "keep_ratios": [0.5], "repeats": 2, "memory": False}
    how |= {key: changes.pop(key) for key in list(changes) if key in (*how, "scorer", "progress")}
    return profiling.profile(Job(**{**job, **changes}), **how)


@pytest.fixture(scope="module")
def document():
    return measured(frames=[4, 8], keep_ratios=[0.75, 0.5])


@pytest.mark.slow
def test_a_profile_says_what_it_is(document):
    assert (document["command"], document["mode"]) == ("profile", "measured")
    assert document["model"]["random_weights"] is True
    assert document["machine"]["device"] == "cpu"
    assert document["machine"]["threads"] == torch.get_num_threads()
    assert {"python", "torch", "transformers"} <= set(document["machine"]["versions"])
    assert [(p["num_frames"], p["keep_ratio"]) for p in document["points"]] == [
        (4, 0.75),
        (4, 0.5),
        (8, 0.75),
        (8, 0.5),
    ]
    assert len(document["break_even"]) == 2
    json.dumps(document, allow_nan=False)


@pytest.mark.slow
def test_tokens_and_flops_are_those_of_the_windows_kept(document):
    point = document["points"][3]
    assert sum(point["kept_per_frame"]) == point["tokens"]["visual tokens"]["pruned"] == 64
    assert point["tokens"]["ViT patches"] == {"dense": 512, "pruned": 256}
    assert point["kept_per_frame"][0] == 16
    parts = [row for name, row in point["flops"].items() if name != "total"]
    assert sum(row["pruned"] for row in parts) == point["flops"]["total"]["pruned"]
    assert point["ideal_speedup"] == point["flops"]["total"]["dense"] / point["flops"]["total"]["pruned"]
    assert point["speedup"]["vit_to_prefill"]["ideal"] == point["ideal_speedup"]


@pytest.mark.slow
def test_every_stage_is_timed_in_both_arms(document):
    for point in document["points"]:
        for stage in (*STAGES, "vit_to_prefill", "ttft", "decode_per_token"):
            for arm in ("dense", "pruned"):
                row = point["seconds"][stage][arm]
                assert len(row["samples"]) == 2
                assert row["low"] <= row["median"] <= row["high"]
                assert row["low"] > 0 or (stage == "score_select_pack" and arm == "dense")
        gain = point["speedup"]["vit_to_prefill"]
        assert gain["low"] <= gain["achieved"] <= gain["high"] or gain["high"] - gain["low"] < 0.5
        assert gain["achieved_of_ideal"] == pytest.approx(gain["achieved"] / gain["ideal"])


def test_stages_add_up(family, clip):
    for arm in (DENSE, Arm(0.5, "learned")):
        seconds = passes.run_pass(family, clip, arm, make_job()).seconds
        assert seconds["ttft"] == pytest.approx(sum(seconds[stage] for stage in STAGES))
        assert seconds["vit_to_prefill"] == pytest.approx(seconds["ttft"] - seconds["preprocess"])


def test_the_dense_arms_late_blocks_are_told_apart(family, clip, fake_clock):
    """Make block l + 2 slow: the time must land in the packed part of the dense arm, and block l + 1's must not."""
    for block, stage, other in ((5, "vit_packed", "vit_dense"), (4, "vit_dense", "vit_packed")):
        hook = family.vit_blocks[block].register_forward_hook(lambda *_: fake_clock.spend(60))
        seconds = passes.run_pass(family, clip, DENSE, make_job()).seconds
        hook.remove()
        assert seconds[stage] == pytest.approx(60, abs=0.01)
        assert seconds[other] == pytest.approx(0, abs=0.01)
    assert not family.vit_blocks[5]._forward_hooks
    assert not family.vit_blocks[5]._forward_pre_hooks


def test_the_dense_arm_is_the_stock_model(family, clip):
    """Timing must not change what is computed."""
    with torch.inference_mode():
        patches = family.preprocess(torch.from_numpy(clip.frames))
        with passes.late_blocks(family, 3, True):
            timed = family.encode(patches, family.settings.override(keep_ratio=1.0, scorer="none")).visual_tokens
        assert torch.equal(
            timed, family.encode(patches, family.settings.override(keep_ratio=1.0, scorer="none")).visual_tokens
        )


@pytest.mark.parametrize("scorer", SCORERS)
def test_every_scorer_can_be_profiled(family, clip, scorer):
    arm = DENSE if scorer == "none" else Arm(0.5, scorer)
    one = passes.run_pass(family, clip, arm, make_job())
    assert one.scorer == scorer
    assert sum(one.kept_per_frame) == (96 if scorer == "none" else 48)
    assert one.prompt_tokens[0] - one.prompt_tokens[1] == 96 - sum(one.kept_per_frame)
    assert (one.kernel == "dense") == (scorer == "none")


def test_the_kernel_asked_for_runs(family, clip):
    one = passes.run_pass(family, clip, Arm(0.5, "learned"), make_job(kernel="eager"))
    assert (one.kernel, one.kernel_reason) == ("eager", "")


def test_decoding_is_of_a_fixed_length(family, clip, monkeypatch):
    """The end token does not end it, or arms would be compared on answers of different lengths."""
    from stts_cli.engine import generate

    decoded = []
    real = generate.answer

    def spy(*arguments, **settings):
        said = real(*arguments, **settings)
        decoded.append(said.num_decoded)
        return said

    monkeypatch.setattr(generate, "answer", spy)
    passes.run_pass(family, clip, DENSE, make_job())
    assert decoded == [NEW_TOKENS]


def test_arms_take_turns_in_changing_order():
    order = []
    clip = type("Clip", (), {"timestamps_s": [0.0]})()
    a, b, c = DENSE, Arm(0.7, "random"), Arm(0.5, "random")
    said: list[tuple] = []
    found = passes.take_turns(
        lambda clip, arm: order.append(arm) or len(order), clip, [a, b, c], 3, lambda *what: said.append(what)
    )
    assert [what[1:] for what in said] == [(), (), (), *((done, 9) for done in range(9))]
    assert order == [a, b, c, a, b, c, b, c, a, c, a, b]
    assert [len(one) for one in found] == [3, 3, 3]
    assert min(found[0]) > 3, "warm-up passes are not among those timed"
    assert found[0] == [4, 9, 11]


def test_frames_are_repeated_and_said_to_be(clip_file):
    clip, about = passes.read_frames(make_job(video=str(clip_file), restamp=False), 60, SMALL)
    assert len(clip.frames) == len(clip.timestamps_s) == 60
    assert (clip.frames[50] == clip.frames[0]).all()
    assert clip.timestamps_s == pytest.approx([i / 10 for i in range(60)])
    assert (about["num_distinct"], about["num_source_frames"]) == (50, 50)
    assert "repeated to make 60" in about["text"]
    clip, about = passes.read_frames(make_job(video=str(clip_file)), 20, SMALL)
    assert clip.timestamps_s == [i * 0.5 for i in range(20)]
    assert "repeated" not in about["text"]
    assert "stamped 0.5 s apart" in about["text"]


@pytest.mark.slow
def test_nothing_pruned_is_not_a_gain():
    (point,) = measured(scorer="none", keep_ratios=[0.5, 0.3])["points"]
    assert point["changes_nothing"] is True
    assert point["keep_ratio"] == 1
    assert point["ideal_speedup"] == 1


def make_pass(seconds):
    times = dict.fromkeys((*STAGES, "ttft", "decode_per_token"), 0.1)
    return Pass({**times, "vit_to_prefill": seconds}, [16, 0], [64, 0], (60, 44), "random", "sdpa", "", None)


def test_medians_speedups_and_peaks():
    (plan,) = estimate.plan(
        NANO, frames=[2], keep_ratios=[0.5], scorer="random", prune_layer=3, dtype="float32", on_gpu=False
    )
    dense, pruned = ([make_pass(s) for s in samples] for samples in ([4.0, 2.0, 30.0], [2.0, 2.0, 2.5]))
    held = [{"baseline": 7, "peak": 100}, {"baseline": 8, "peak": 60}]
    row = figures.point(NANO.sizes(), plan, dense, pruned, prune_layer=3, held=held)
    assert row["seconds"]["vit_to_prefill"]["dense"] == {"median": 4, "low": 2, "high": 30, "samples": [4, 2, 30]}
    gain = row["speedup"]["vit_to_prefill"]
    assert (gain["achieved"], gain["low"], gain["high"]) == (2, 1, 12)
    assert row["peak_bytes"] == {"dense": 100, "pruned": 60}
    assert row["baseline_bytes"] == 7
    assert figures.point(NANO.sizes(), plan, dense, pruned, prune_layer=3, held=[None, None])["peak_bytes"] == {
        "dense": None, "pruned": None,
    }  # fmt: skip


def make_points(*gains, keep_ratio=0.5, scorer="learned"):
    return [
        {
            "num_frames": 16 * 2**i,
            "keep_ratio": keep_ratio,
            "scorer": scorer,
            "headline": "vit_to_prefill",
            "seconds": {"vit_to_prefill": {"dense": {"median": 10.0}, "pruned": {"median": 10.0 - gain}}},
        }
        for i, gain in enumerate(gains)
    ]


@pytest.mark.parametrize(
    ("gains", "frames", "is_bound"),
    [
        ((-1, 1, 5), 24, False),
        ((-1, -3, 1), 56, False),
        ((1, -1, 1), 48, False),
        ((1, 2), 16, True),
        ((0, 1), 16, False),
        ((-1, -1), None, False),
        ((1, 1, -1), None, False),
    ],
)
def test_break_even(gains, frames, is_bound):
    (row,) = figures.break_even(make_points(*gains)[::-1])
    assert row == {"keep_ratio": 0.5, "scorer": "learned", "frames": frames, "is_bound": is_bound}


def test_break_even_needs_two_frame_counts():
    assert figures.break_even(make_points(1)) == []
    assert len(figures.break_even(make_points(1, 2) + make_points(1, 2, keep_ratio=0.3))) == 2
    assert len(figures.break_even(make_points(1, 2) + make_points(1, 2, scorer="random"))) == 2


@pytest.mark.slow
@pytest.mark.thorough
def test_memory_is_that_of_a_process_of_its_own():
    """The dense arm of a language model that sees all tokens holds more than an arm that keeps an eighth."""
    notes: list[str] = []
    plans = estimate.plan(
        NANO, frames=[128], keep_ratios=[0.125], scorer="random", prune_layer=3, dtype="float32", on_gpu=False
    )
    peaks = memory.peaks_of_processes(make_job(), plans, notes, lambda stage: None)
    assert notes == []
    dense, pruned = peaks[128, DENSE], peaks[128, Arm(0.125, "random")]
    assert dense is not None
    assert pruned is not None
    assert dense["baseline"] > 50 * 2**20, "torch alone is larger"
    assert 0 < pruned["peak"] < 0.8 * dense["peak"]
    assert 0.5 < plans[0].memory["dense"]["llm"] / dense["peak"] < 2, "the estimate is of the right size"


def test_the_environment_is_as_it_was(monkeypatch):
    monkeypatch.setenv("STTS_A", "1")
    monkeypatch.delenv("STTS_B", raising=False)
    with memory._environment({"STTS_A": "2", "STTS_B": "3"}):
        assert (os.environ["STTS_A"], os.environ["STTS_B"]) == ("2", "3")
    assert os.environ["STTS_A"] == "1"
    assert "STTS_B" not in os.environ


def test_a_process_that_dies_leaves_a_note(monkeypatch):
    class Pool:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, *_):
            raise memory.BrokenProcessPool("gone")

    monkeypatch.setattr(memory, "ProcessPoolExecutor", Pool)
    notes: list[str] = []
    plans = estimate.plan(
        NANO, frames=[2], keep_ratios=[0.5], scorer="random", prune_layer=3, dtype="float32", on_gpu=False
    )
    peaks = memory.peaks_of_processes(make_job(), plans, notes, lambda stage: None)
    assert set(peaks.values()) == {None}
    assert "peak memory of 2 frames, dense: not known" in notes[0]


def test_a_run_that_does_not_fit_is_refused_before_it_starts(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**20)
    monkeypatch.setattr(run, "build", lambda job: pytest.fail("the model was built"))
    with pytest.raises(EnvironmentFailure, match=r"4 frames need about .* GiB dense .* are free on cpu"):
        measured()


@pytest.mark.slow
def test_what_was_measured_outlives_a_frame_count_that_memory_does_not_suffice_for(monkeypatch, capsys):
    real = run.take_turns

    def take_turns(run, clip, *rest):
        if len(clip.timestamps_s) != 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(run, clip, *rest)

    monkeypatch.setattr(run, "take_turns", take_turns)
    arguments = ["profile", "--shape", "nano", "--repeats", "1", "--no-memory", "--json", "--sweep-frames"]
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "4,8,6"])
    out, err = capsys.readouterr()
    assert end.value.code == 3
    assert [point["num_frames"] for point in json.loads(out)["points"]] == [4]
    assert "stts: 8 frames, 6 frames: out of memory; the rest was measured. Lower --frames or --keep-ratio." in err
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "8,4"])
    assert (end.value.code, capsys.readouterr().out) == (3, ""), "nothing was measured before"


@pytest.mark.parametrize(
    ("changes", "failure", "words"),
    [
        ({"repeats": 0}, InputError, "--repeats 0: must be at least 1"),
        ({"kernel": "sdpaa"}, InputError, r"--kernel sdpaa: is unknown; did you mean 'sdpa'"),
        ({"kernel": "torch_varlen"}, InputError, "needs CUDA"),
        ({"scorer": "magic"}, InputError, "--scorer magic: must be auto, learned"),
        ({"device": "tpu"}, InputError, "--device tpu: must be"),
    ],
)
def test_bad_settings_are_told_before_the_model_is_built(changes, failure, words, monkeypatch):
    monkeypatch.setattr(run, "build", lambda job: pytest.fail("the model was built"))
    with pytest.raises(failure, match=words):
        measured(**changes)


def test_flash_attn_by_name_without_the_package(monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match=r"pip install '\.\[flash\]'") as error:
        measured(kernel="flash_attn")
    assert error.value.exit_code == 3


@pytest.mark.slow
def test_a_checkpoint_is_profiled_with_its_own_settings(tiny_checkpoint, clip_file):
    architecture = profiling.architecture_of(str(tiny_checkpoint))
    loaded = passes.build(make_job(model=str(tiny_checkpoint)))
    assert architecture.sizes() == loaded.shape()
    assert architecture.num_parameters() == sum(p.numel() for p in loaded.model.parameters())
    assert (architecture.scorer, architecture.prune_layer, architecture.keep_ratio) == ("learned", 3, 0.5)
    document = measured(
        architecture=architecture, model=str(tiny_checkpoint), video=str(clip_file), restamp=False, keep_ratios=[]
    )
    assert document["model"]["random_weights"] is False
    assert document["model"]["is_demonstration"] is True
    assert document["points"][0]["keep_ratio"] == 0.5
    assert document["points"][0]["scorer"] == "learned"
    assert document["clips"][0]["num_frames"] == 4


def test_a_checkpoint_is_profiled_with_the_scorer_that_ask_takes(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    document = json.loads((folder / "stts.json").read_text())
    for given in ({"scorer": "tome"}, {"scorer": "random"}, {"scorer_file": None}, {}):
        kept = {k: v for k, v in (document | given).items() if v is not None}
        (folder / "stts.json").write_text(json.dumps(kept))
        profiled, notes = estimate.resolve_scorer(run.architecture_of(str(folder)), "auto", [0.5])
        asked = VideoModel(load_family(folder), settings.Arm("a", "", keep_ratio=0.5))
        assert (profiled, notes) == (asked.pruning.scorer, asked.notes)
        assert profiled == given.get("scorer", "temporal" if given else "learned")


def test_a_stock_checkpoint_has_no_learned_scorer(tiny_checkpoint, tmp_path):
    stock = shutil.copytree(tiny_checkpoint, tmp_path / "stock", ignore=shutil.ignore_patterns("stts.json", "scorer*"))
    architecture = profiling.architecture_of(str(stock))
    assert (architecture.scorer, architecture.shape.layout.window) == ("temporal", (2, 2))
    with pytest.raises(InputError, match="holds no config"):
        profiling.architecture_of(str(tmp_path))


@pytest.mark.slow
def test_the_command_prints_one_document_and_nothing_else(capfd):
    more = ["--compare", "random@0.3,tome", "--no-memory", "--json"]
    with pytest.raises(SystemExit) as end:
        cli.main(["profile", "--shape", "nano", "--frames", "4", "--repeats", "1", *more])
    out, err = capfd.readouterr()
    assert end.value.code == 0, err
    points = json.loads(out)["points"]
    assert {point["num_frames"] for point in points} == {4}
    assert [(p["scorer"], p["keep_ratio"]) for p in points] == [("learned", 0.5), ("random", 0.3), ("tome", 0.5)]
    assert "random weights: timings only" in err
