"""Counting without running: it must say what a run would find."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stts_cli.config.architectures import load_architecture
from stts_cli.config.qwen3_vl import Qwen3VLShape, Qwen3VLVisionConfig
from stts_cli.config.shapes import Architecture, TextConfig
from stts_cli.config.smolvlm import SmolVLMShape, SmolVLMVisionConfig
from stts_cli.cost import estimate, savings
from stts_cli.errors import InputError
from stts_cli.settings import Arm, num_dropped

NANO = load_architecture("nano")
TIMES = [0.5 * k for k in range(9)]
BILLION = Path(__file__).parents[2] / ".ci/molmo2-1b.yaml"


def resized(architecture, **changes):
    return dataclasses.replace(architecture, shape=architecture.shape.model_copy(update=changes))


def plan(
    architecture=NANO, frames=(8,), keep_ratios=(0.5,), scorer="learned", prune_layer=None, dtype="float32", **rest
):
    return estimate.plan(
        architecture,
        frames=frames,
        keep_ratios=keep_ratios,
        scorer=scorer,
        prune_layer=prune_layer,
        dtype=dtype,
        **{"on_gpu": False, **rest},
    )


@pytest.mark.parametrize(("frames", "ideal"), [(64, 1.93), (128, 2.07), (256, 2.28), (384, 2.44)])
def test_the_ideal_speedups_of_molmo2_4b(frames, ideal):
    """Counted by hand for the paper's setting, within a percent."""
    (point,) = plan(load_architecture("molmo2-4b"), frames=[frames])
    assert point.to_dict()["ideal_speedup"] == pytest.approx(ideal, rel=0.01)


@pytest.mark.parametrize("prune_from_frame", [0, 1, 3])
def test_the_budget_is_the_methods(prune_from_frame):
    architecture = dataclasses.replace(NANO, prune_from_frame=prune_from_frame)
    windows = architecture.sizes().num_windows
    for num_frames in (1, 2, 7, 64, 129):
        for keep_ratio in (1.0, 0.9, 0.7, 2 / 3, 0.5):
            kept = estimate.kept_windows(architecture, num_frames, keep_ratio)
            dropped = num_dropped(num_frames, windows, keep_ratio, prune_from_frame)
            assert len(kept) == num_frames
            assert sum(kept) == num_frames * windows - dropped
            assert kept[0] == windows
            assert num_frames == 1 or max(kept[1:]) - min(kept[1:]) <= 1


def test_frames_that_run_whole_are_counted_so():
    """At keep ratio 0.7 no two frames share a bin, at 0.4 all but the first do."""
    refilled = dataclasses.replace(NANO, refill_lone_frames=True)
    for keep_ratio, scorer, differs in ((0.7, "learned", True), (0.7, "tome", False), (0.4, "learned", False)):
        for train in (False, True):
            plain, whole = (plan(one, [9], [keep_ratio], scorer=scorer, train=train)[0] for one in (NANO, refilled))
            length = NANO.shape.prompt_length(TIMES[:9], estimate.QUESTION) + (len(estimate.ANSWER) if train else 0)
            assert plain.savings.tokens["LLM prompt"][0] == length
            assert (plain.savings.decode_per_token is None) == train
            packed = whole.savings.flops["ViT packed blocks"]
            assert (packed[0] == packed[1]) == differs
            assert (whole.savings != plain.savings) == (whole.memory != plain.memory) == differs
            assert whole.savings.tokens["visual tokens"] == plain.savings.tokens["visual tokens"]


def test_a_budget_that_cannot_be_met_is_said():
    document = estimate.analytic(architecture=NANO, frames=[2, 64], keep_ratios=[0.2, 0.5], scorer="tome")
    two = "keep ratio 0.2 of 2 frames: the first frame always stays, and a window of every other"
    assert [note.split(", so ")[0] for note in document["notes"][:-1]] == [two, two.replace("0.2", "0.5")]
    assert [point["tokens"]["visual tokens"]["pruned"] for point in document["points"]] == [17, 17, 205, 512]


def test_counts_without_torch():
    program = (
        "import sys\nfrom stts_cli import cli\n"
        "try:\n    cli.main(['profile', '--shape', 'molmo2-4b', '--frames', '384', '--analytic', '--json'])\n"
        "except SystemExit:\n    pass\n"
        "print('LOADED', [name for name in ('torch', 'transformers') if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "LOADED []", done.stderr


SMOLVLM = SmolVLMShape(
    model_type="smolvlm", description="", prune_layer=1, keep_ratio=0.5, scale_factor=2,
    vision_config=SmolVLMVisionConfig(
        hidden_size=128, intermediate_size=160, num_attention_heads=4, num_hidden_layers=5, image_size=32, patch_size=4
    ),
    text_config=TextConfig(
        hidden_size=96, intermediate_size=200, num_attention_heads=3, head_dim=32, num_hidden_layers=3,
        num_key_value_heads=1, vocab_size=320, max_position_embeddings=2048,
    ),
)  # fmt: skip


QWEN = Qwen3VLShape(
    model_type="qwen3_vl", description="", prune_layer=1, keep_ratio=0.5, tie_word_embeddings=True,
    size=[1024, 16384], frame_size=[45, 80],
    vision_config=Qwen3VLVisionConfig(
        hidden_size=32, intermediate_size=48, num_heads=2, depth=6, patch_size=4, spatial_merge_size=2,
        temporal_patch_size=2, num_position_embeddings=16, deepstack_visual_indexes=[1, 3],
    ),
    text_config=SMOLVLM.text_config,
)  # fmt: skip


def test_the_more_frames_the_smaller_they_are():
    """Counts follow the layout of each frame count, and a user is told the sizes."""
    architecture = Architecture("small", QWEN, prune_layer=1)
    found = [architecture.at(n).layout for n in (4, 16)]
    assert [layout.num_windows for layout in found] == [60, 15]
    document = estimate.analytic(architecture=architecture, frames=[4, 16], keep_ratios=[0.5], scorer="random")
    assert [p["tokens"]["visual tokens"]["dense"] for p in document["points"]] == [2 * 60, 8 * 15]
    assert "16 frames: 40x24 px each, 15 tokens a unit of 2 frames" in document["notes"]


def test_memory_holds_the_features_of_every_block_that_is_read():
    vision = QWEN.vision_config.model_copy(update={"deepstack_visual_indexes": [1]})
    three, two = (
        estimate.plan(
            Architecture("small", shape, prune_layer=1), frames=[8], keep_ratios=[0.5], scorer="random",
            prune_layer=None, dtype="float32", on_gpu=True,
        )[0]
        for shape in (QWEN, QWEN.model_copy(update={"vision_config": vision}))
    )  # fmt: skip
    for arm, number in (("dense", 0), ("pruned", 1)):
        patches = three.savings.tokens["ViT patches"][number]
        assert three.memory[arm]["vit"] - two.memory[arm]["vit"] == 4 * patches * 32


@pytest.mark.parametrize("num_frames", [1, 2, 9])
def test_a_prompt_of_units_is_that_of_the_family(num_frames):
    from stts_cli.families.random_model import random_family

    architecture = Architecture("small", QWEN, prune_layer=1).at(num_frames)
    family = random_family(architecture, device=torch.device("cpu"), dtype=torch.float32)
    layout, times = architecture.layout, [i * 0.5 for i in range(num_frames)]
    keep = torch.ones(layout.num_units(num_frames), layout.num_windows, dtype=torch.bool)
    prompt = family.build_prompt(times, estimate.QUESTION, keep, layout=layout)
    assert prompt.dense_length == architecture.shape.prompt_length(times, estimate.QUESTION)
    encoded = family.encode(family.preprocess(torch.zeros(num_frames, *layout.frame_size, 3, dtype=torch.uint8)),
                            family.settings.override(keep_ratio=0.5, scorer="random"))  # fmt: skip
    counted = sum(estimate.kept_windows(architecture, num_frames, 0.5))
    assert (encoded.layout, int(encoded.keep_mask.sum())) == (layout, counted)


@pytest.mark.parametrize("architecture", [NANO, Architecture("small", SMOLVLM)], ids=["molmo2", "smolvlm"])
def test_prompt_and_placeholders_are_those_of_the_family(architecture):
    from stts_cli.families.random_model import random_family

    family = random_family(architecture, device=torch.device("cpu"), dtype=torch.float32)
    for num_frames in (1, 2, 23):
        keep = torch.zeros(num_frames, 16, dtype=torch.bool)
        keep[0] = True
        times = [i * 0.5 for i in range(num_frames)]
        prompt = family.build_prompt(times, estimate.QUESTION, keep)
        assert prompt.dense_length == architecture.shape.prompt_length(times, estimate.QUESTION)
        assert prompt.input_ids.shape[1] == prompt.dense_length - 16 * (num_frames - 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frames": [0]}, "--frames 0: must be at least 1"),
        ({"frames": [1000]}, "takes 8192"),
        ({"keep_ratios": [0.0]}, "--keep-ratio 0:"),
        ({"keep_ratios": [1.01]}, "--keep-ratio 1.01:"),
        ({"keep_ratios": [float("nan")]}, "--keep-ratio nan:"),
        ({"prune_layer": 10}, "--prune-layer 10: must be 0 to 9; 12 ViT blocks run"),
        ({"prune_layer": -1}, "--prune-layer -1: must be 0 to 9"),
    ],
)
def test_what_cannot_be_run_is_refused(settings, words):
    with pytest.raises(InputError, match=words):
        plan(**settings)


def test_the_longest_prompt_is_allowed():
    longest = NANO.shape.prompt_length(TIMES[:8], estimate.QUESTION)
    exact, short = (
        resized(NANO, text_config=NANO.shape.text_config.model_copy(update={"max_position_embeddings": n}))
        for n in (longest, longest - 1)
    )
    assert len(plan(exact)) == 1
    with pytest.raises(InputError, match=rf"a dense prompt of {longest} tokens; nano takes {longest - 1}\.$"):
        plan(short)


def test_a_training_step_learns_the_answer_and_its_end():
    saved = plan(train=True)[0].savings
    windows, lengths = estimate.kept_windows(NANO, 8, 0.5), saved.tokens["LLM prompt"]
    answer_tokens = len(estimate.ANSWER) + 1
    counted = savings.count_training(NANO.sizes(), windows, lengths, NANO.prune_layer, answer_tokens=answer_tokens)
    assert saved == counted


def test_the_last_prune_layer_and_the_lowest_ratio_are_allowed():
    (point,) = plan(prune_layer=9, keep_ratios=[0.125])
    assert point.savings.tokens["visual tokens"] == (128, 16)
    assert point.savings == estimate.count(NANO, estimate.kept_windows(NANO, 8, 0.125), 9, "learned")


def test_scorers():
    stock = dataclasses.replace(NANO, scorer="temporal")
    assert estimate.resolve_scorer(NANO, "auto") == ("learned", [])
    scorer, notes = estimate.resolve_scorer(stock, "auto")
    assert scorer == "temporal"
    assert len(notes) == 1
    with pytest.raises(InputError, match="has no learned scorer"):
        estimate.resolve_scorer(stock, "learned")
    assert estimate.resolve_scorer(dataclasses.replace(NANO, scorer="tome"), "auto") == ("tome", [])
    none, notes = estimate.resolve_scorer(NANO, "none", [0.3, 1.0])
    assert (none, notes) == ("none", ["scorer none keeps every window: keep ratio 0.3 has no effect"])
    with pytest.raises(
        InputError, match=r"--scorer lerned: must be auto, learned, .* or module:function; did you mean 'learned'\?"
    ):
        estimate.resolve_scorer(NANO, "lerned")


@pytest.mark.parametrize(("settings"), [{"scorer": "none"}, {"keep_ratios": [1.0]}, {"frames": [1]}])
def test_nothing_pruned_is_no_saving(settings):
    (point,) = plan(**settings)
    document = point.to_dict()
    assert document["changes_nothing"] is True
    assert document["ideal_speedup"] == 1
    assert point.scorer == "none"


def test_memory_grows_with_what_is_kept():
    half, all_ = plan(frames=[8], keep_ratios=[0.5, 1.0])
    assert half.memory["pruned"]["total"] < half.memory["dense"]["total"]
    assert half.memory["dense"] == all_.memory["dense"]
    (short, long) = plan(frames=[64, 128])
    assert long.memory["dense"]["llm"] > 2 * short.memory["dense"]["llm"], "the mask is the prompt's square"
    (narrow,) = plan(frames=[8], dtype="bfloat16")
    assert narrow.memory["dense"]["weights"] * 2 == half.memory["dense"]["weights"]


def test_memory_by_hand():
    """Eight frames in float32: weights; pixels, what was scored and two layers of features, and a chunk's block."""
    (point,), (step,) = plan(frames=[8]), plan(frames=[8], train=True)
    s = NANO.sizes()
    weights, patches = 4 * NANO.num_parameters(), 8 * s.num_patches
    assert point.memory["dense"]["weights"] == weights
    assert step.memory["dense"]["weights"] == 4 * weights  # gradients and two moments
    chunk = patches * (4 * s.vit_width + 2 * s.vit_mlp)
    for arm, layers in (("dense", 2), ("pruned", 1 + 2 * 0.5)):
        assert point.memory[arm]["vit"] == 4 * (patches * (s.patch_dim + layers * s.vit_width) + chunk)
        parts = point.memory[arm]
        assert parts["frames"] == 8 * NANO.layout.frame_size[0] * NANO.layout.frame_size[1] * 3
        assert parts["total"] == weights + parts["frames"] + max(parts["vit"], parts["llm"])


def test_training_memory_counts_the_blocks_behind_the_given_prune_layer():
    """Two blocks more that see all patches; of a block's activations each patch holds so many numbers."""
    early, late = (plan(prune_layer=layer, train=True, on_gpu=True)[0].memory for layer in (3, 5))
    width, heads, mlp = (
        getattr(NANO.shape.vision_config, key) for key in ("hidden_size", "num_attention_heads", "intermediate_size")
    )
    held = 4 * width + 4 * heads * NANO.shape.vision_config.head_dim + 2 * mlp
    dropped_patches = 8 * NANO.shape.layout.num_patches // 2
    assert late["pruned"]["vit"] - early["pruned"]["vit"] == 2 * dropped_patches * held * 4
    assert late["dense"] == early["dense"]


@pytest.mark.parametrize(("frames", "dense", "pruned"), [(32, 34, 22), (64, 67, 41)], ids=["32 frames", "64 frames"])
def test_training_memory_is_what_a_gpu_needed(frames, dense, pruned):
    """Peaks in GiB above weights and moments, measured on an H200; a dense step of 128 frames did not fit its 139."""
    architecture = load_architecture(BILLION)
    gib, before = 2**30, 12 * architecture.num_parameters()
    both = {"dtype": "bfloat16", "on_gpu": True, "train": True}
    (point,) = plan(architecture, [frames], **both)
    assert (point.memory["dense"]["total"] - before) / gib == pytest.approx(dense, rel=0.08)
    assert (point.memory["pruned"]["total"] - before) / gib == pytest.approx(pruned, rel=0.08)
    (long,) = plan(architecture, [128], **both)
    assert long.memory["dense"]["total"] > 139 * gib


@pytest.mark.parametrize(
    ("dtype", "on_gpu", "square", "numbers"),
    [
        ("bfloat16", True, 4 + 2 * 28, 2 * (5 * 1024 + 5 * 2048 + 1024 + 4 * 3072)),
        ("bfloat16", False, 4 + 2 * 28, 2 * (5 * 1024 + 5 * 2048 + 1024 + 4 * 3072)),
        ("float32", True, 4 + 4 * 28, 4 * (2 * 1024 + 5 * 2048 + 1024 + 4 * 3072)),
        ("float32", False, 4, 4 * (2 * 1024 + 5 * 2048 + 1024 + 4 * 3072)),
    ],
)
def test_training_memory_by_hand(dtype, on_gpu, square, numbers):
    """The mask's square, as given and for each of 28 layers; what a token holds of a layer, in its type and float32.

    A pruned ViT on a CPU holds its attention's square, which is as many numbers for each head and frame.
    """
    architecture = load_architecture(BILLION)
    (point,) = plan(architecture, [64], dtype=dtype, on_gpu=on_gpu, train=True)
    dense, pruned = point.memory["dense"], point.memory["pruned"]
    for held, row in zip((dense, pruned), point.savings.tokens["LLM prompt"], strict=True):
        assert held["llm"] == square * row**2 + row * 28 * (numbers + 4 * (4 * 1024 + 2048 + 1024))
        assert held["total"] == held["weights"] + held["frames"] + held["vit"] + held["llm"]
    assert dense["weights"] == architecture.num_parameters() * (16 if dtype == "float32" else 18)
    s, bytes_ = architecture.sizes(), getattr(torch, dtype).itemsize
    block = bytes_ * (2 * s.vit_width + 4 * s.vit_heads * s.vit_head_dim + 2 * s.vit_mlp) + 8 * s.vit_width
    blocks = 64 * s.num_patches * (s.vit_blocks - architecture.prune_layer - 2)
    packed = point.savings.tokens["ViT patches"][1] * (s.vit_blocks - architecture.prune_layer - 2)
    bias = 0 if on_gpu else bytes_ * 3 * 64 * s.vit_heads * s.num_patches**2
    assert dense["vit"] - pruned["vit"] == (blocks - packed) * block - bias


@pytest.mark.parametrize(
    ("frames", "dtype", "on_gpu", "square", "numbers"),
    [
        (8, "bfloat16", True, 1, 3 * 3072),  # the MLP's part is the larger
        (128, "bfloat16", True, 2 + 2, 2 * 2048),  # the attention's is
        (128, "float16", False, 2 + 4, 2 * 2048),
        (128, "float32", False, 2 + 4, 2 * 2048),
    ],
)
def test_memory_of_a_prefill_by_hand(frames, dtype, on_gpu, square, numbers):
    """A token's keys and values in 28 layers, its hidden states and the larger part; the ViT runs a chunk at a time."""
    architecture, bytes_ = load_architecture(BILLION), getattr(torch, dtype).itemsize
    (point,) = plan(architecture, [frames], dtype=dtype, on_gpu=on_gpu)
    for held, row in zip(point.memory.values(), point.savings.tokens["LLM prompt"], strict=True):
        assert held["llm"] == square * row**2 + bytes_ * row * (2 * 28 * 1024 + 4 * 1024 + numbers)
    s, patches = architecture.sizes(), frames * architecture.sizes().num_patches
    chunk = min(patches, 16_384) * (4 * s.vit_width + 2 * s.vit_mlp)
    assert (patches > 16_384) == (frames == 128)
    assert point.memory["dense"]["vit"] == bytes_ * (patches * (s.patch_dim + 2 * s.vit_width) + chunk)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_causal_prefill_holds_no_mask(on_gpu):
    """Keys and values in 3 layers, hidden states, and the larger of two parts: nothing is the square of the row."""
    (point,) = plan(
        Architecture("small", SMOLVLM, prune_layer=1, scorer="temporal"), [32], dtype="float32", on_gpu=on_gpu
    )
    for arm, row in zip(("dense", "pruned"), point.savings.tokens["LLM prompt"], strict=True):
        assert point.memory[arm]["llm"] == 4 * row * (2 * 3 * 32 + 4 * 96 + max(2 * 96, 3 * 200))


def kept_for_the_backward_pass(architecture, dtype):
    """Bytes of all tensors that autograd holds when a dense step's forward pass is over, weights left out; the row."""
    from stts_cli.data.conversations import Conversation
    from stts_cli.families.random_model import random_family
    from stts_cli.training.clips import TrainingClip
    from stts_cli.training.model import TrainingModel

    family = random_family(architecture, device=torch.device("cpu"), dtype=torch.float32)
    model = TrainingModel(family).train().requires_grad_(True)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {tuple(sorted(p.shape)) for p in model.parameters()}
    frames = torch.zeros(4, *architecture.layout.frame_size, 3, dtype=torch.uint8)
    talk = Conversation(((estimate.QUESTION, estimate.ANSWER),))
    clip = TrainingClip(frames, tuple(0.5 * i for i in range(4)), (talk,), "x")
    held, alive = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(sorted(tensor.shape)) not in shapes:  # nor autocast's copies
            held[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
    ):
        step = model([clip], 1.0, scorer="none")
    return sum(held.values()), step.num_inputs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_layer_and_a_block_keep_is_counted_tensor_by_tensor(dtype):
    """One layer, one block more; on a CPU, whose attention of bfloat16 blocks keeps what a GPU's does not."""
    text = NANO.shape.text_config.model_copy(update={
        "hidden_size": 112, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 40,
        "intermediate_size": 328, "num_hidden_layers": 2})  # fmt: skip
    vision = NANO.shape.vision_config.model_copy(update={"head_dim": 20, "num_hidden_layers": 6})
    adapter = NANO.shape.adapter_config.model_copy(update={"vision_feature_layer": [0, -1]})
    few = resized(NANO, text_config=text, vision_config=vision, adapter_config=adapter)
    parts = {"llm": {"text_config": text.model_copy(update={"num_hidden_layers": 3})}}
    if dtype == "float32":
        parts["vit"] = {"vision_config": vision.model_copy(update={"num_hidden_layers": 7})}
    found, row = kept_for_the_backward_pass(few, dtype)
    for part, change in parts.items():
        more = resized(few, **change)
        counted = [
            estimate.estimate_training_memory(one, 4, None, row, dtype=dtype, on_gpu=False)[part] for one in (few, more)
        ]
        kept = kept_for_the_backward_pass(more, dtype)[0] - found
        assert counted[1] - counted[0] == pytest.approx(kept, rel=0.01), part


def test_more_arms_are_planned_beside_the_first_each_once():
    arms = [Arm("a", "m", keep_ratio=0.3), Arm("b", "m", scorer="random"), Arm("c", "m", keep_ratio=0.5)]
    document = estimate.analytic(architecture=NANO, frames=[32, 8], keep_ratios=[0.5], scorer="learned", compare=arms)
    rows = [(point["num_frames"], point["scorer"], point["keep_ratio"]) for point in document["points"]]
    each = [("learned", 0.5), ("learned", 0.3), ("random", 0.5)]
    assert rows == [(frames, *arm) for frames in (32, 8) for arm in each]
    alone = estimate.analytic(architecture=NANO, frames=[32], keep_ratios=[0.3], scorer="learned")
    assert alone["points"][0] == document["points"][1]


def test_the_document_of_a_profile_that_is_counted():
    """Of a GPU, in bfloat16 where nothing else is asked; what two arms have to say is said once."""
    noted = dataclasses.replace(NANO, notes=["read from afar"])
    arms = [Arm("a", "m", scorer="none", keep_ratio=0.3)]
    document = estimate.analytic(architecture=noted, frames=[8], keep_ratios=[], compare=arms)
    assert document["notes"] == [
        "read from afar",
        "scorer none keeps every window: keep ratio 0.3 has no effect",
        "counted, nothing was run: windows spread evenly over the frames, text a token a byte",
    ]
    planned = plan(noted, keep_ratios=[NANO.keep_ratio], dtype="bfloat16", on_gpu=True)
    assert document["points"][0] == planned[0].to_dict()
    assert [document["model"][key] for key in ("name", "random_weights", "is_demonstration")] == ["nano", False, False]
    assert document["settings"] == {
        "prune_layer": NANO.prune_layer, "dtype": "bfloat16", "question": estimate.QUESTION, "train": False
    }  # fmt: skip
    other = estimate.analytic(architecture=NANO, frames=[8], keep_ratios=[], prune_layer=5, dtype="float32", train=True)
    assert [other["settings"][key] for key in ("prune_layer", "dtype", "train")] == [5, "float32", True]
    planned = plan(keep_ratios=[NANO.keep_ratio], prune_layer=5, on_gpu=True, train=True)
    assert other["points"] == [point.to_dict() for point in planned]
    assert (document["convention"], other["convention"]) == (savings.CONVENTION, savings.TRAINING_CONVENTION)
