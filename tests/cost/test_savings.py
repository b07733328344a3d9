"""The FLOP count against torch's own counter, part by part, under eager attention."""

import dataclasses
import re

import pytest

from stts_cli.cost.savings import CONVENTION, LayerGroup, ModelShape, count, count_training

MOLMO2_4B = ModelShape(
    patch_dim=588, num_patches=729, num_windows=81, window_size=9, vit_blocks=25, vit_width=1152, vit_heads=16,
    vit_head_dim=72, vit_mlp=4304, connector_flops=198_189_568, llm_layers=36, llm_width=2560, llm_heads=32,
    llm_kv_heads=8, llm_head_dim=128, llm_mlp=9728, vocab_size=151936,
)  # fmt: skip
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}


def small_molmo2():
    from transformers import Molmo2Config

    return Molmo2Config(
        vision_config={**HEADS, "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 7,
                       "image_size": [24, 24], "patch_size": 4},
        adapter_config={**HEADS, "vision_feature_layer": [6, 4], "hidden_size": 128, "intermediate_size": 144,
                        "text_hidden_size": 96},
        text_config={"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 96,
                     "intermediate_size": 200, "num_hidden_layers": 3, "vocab_size": 80, "additional_vocab_size": 8,
                     "max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        image_patch_id=84, frame_start_token_id=82, frame_end_token_id=83,
    )  # fmt: skip


def small_smolvlm():
    from transformers import SmolVLMConfig

    return SmolVLMConfig(
        vision_config={"num_attention_heads": 4, "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 7,
                       "image_size": 24, "patch_size": 4},
        text_config={"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
                     "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3, "vocab_size": 88,
                     "max_position_embeddings": 512, "pad_token_id": None},
        scale_factor=2, image_token_id=84,
    )  # fmt: skip


@pytest.fixture(scope="module", params=[small_molmo2, small_smolvlm], ids=["molmo2", "smolvlm"])
def family(request):
    """A model small enough to run and wide enough that what the convention leaves out is below 1%."""
    import torch
    import transformers

    from stts_cli.families import class_of
    from stts_cli.pruning import TokenScorer
    from stts_cli.settings import Pruning

    torch.manual_seed(0)
    config = request.param()
    config._attn_implementation = "eager"
    cls = class_of(config.model_type, "tiny")
    own, _ = cls.processing(config, None, {"pooling_size": (2, 2)})
    model = getattr(transformers, cls.model_class)(config).eval()
    return cls(model, None, scorer=TokenScorer(128, 4, 160, 32), settings=Pruning(), model_name="tiny", **own)


def counted(work):
    """FLOPs that torch counts while `work` runs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops(), result


def measured_parts(family, keep_ratio, scorer, refill, layer=3):
    """Run each part on its own under the counter; returns (FLOPs by part, kept windows, prompt length)."""
    import torch

    from stts_cli.pruning import prune_and_encode
    from stts_cli.settings import Execution, num_dense_blocks
    from tests.pruning.conftest import TinyVit

    blocks, table = family.blocks, family.window_index(family.layout)
    frames = torch.randn(5, 36, 48, generator=torch.Generator().manual_seed(0))
    parts = {}
    parts["patch embedding"], hidden = counted(lambda: family.embed(frames))

    name = scorer if isinstance(scorer, str) else "learned"
    pruning = family.settings.override(scorer=name, keep_ratio=keep_ratio, refill_lone_frames=refill, prune_layer=layer)

    def vit():
        return prune_and_encode(
            TinyVit(blocks, [len(blocks) - 1]), hidden, [5], pruning, family.layout, table,
            learned=family.scorer, execution=Execution(kernel="eager"),
        )  # fmt: skip

    # from the whole ViT, the scorer and the dense blocks are taken off
    dense, _ = counted(lambda: prune_blocks(blocks[: num_dense_blocks(layer, 7)], hidden))
    scoring = counted(lambda: family.scorer(hidden, table, [5]))[0] if keep_ratio < 1 else 0
    whole, out = counted(vit)
    parts["ViT dense blocks"], parts["ViT packed blocks"], parts["scorer"] = dense, whole - dense - scoring, scoring
    features = torch.cat([out.features] * len(family.taps), -1)
    parts["connector"], visual = counted(lambda: family.connect(features, out.pool_index))
    length = 20 + len(visual)
    ids = torch.ones(1, length, dtype=torch.long)
    ids[0, 5 : 5 + len(visual)] = 84
    inputs = family.language_inputs(ids, (ids == 84).long(), [visual])
    parts["LLM prefill"], prefill = counted(lambda: family.model(**inputs, logits_to_keep=1, use_cache=True))

    def decode():
        cache = prefill.cache
        for _ in range(3):
            family.model(input_ids=torch.ones(1, 1, dtype=torch.long), cache=cache, use_cache=True)

    parts["decode"] = counted(decode)[0]
    return parts, out, length


def prune_blocks(blocks, hidden):
    from stts_cli.pruning.attention import Attention, attention_over

    with attention_over(Attention("eager")):
        for block in blocks:
            hidden = block(hidden, attention_mask=None)


@pytest.mark.parametrize("arm", ["pruned", "refilled", "dense", "last"])
def test_every_part_agrees_with_torch(family, arm, monkeypatch):
    monkeypatch.setattr("stts_cli.pruning.attention._GROUP_OVERHEAD", 0)  # frames of one length a group: no padding
    keep_ratio, scorer = {"refilled": (0.7, family.scorer), "dense": (1.0, "none")}.get(arm, (0.4, family.scorer))
    layer = "last" if arm == "last" else 3
    parts, out, length = measured_parts(family, keep_ratio, scorer, arm == "refilled", layer)
    assert (sum(out.packed_patches) > 4 * int(out.plan.keep_mask.sum())) == (arm == "refilled")
    dense_length = length + int((~out.plan.keep_mask).sum())
    savings = count(
        family.shape(), out.plan.keep_mask.sum(1).tolist(), (dense_length, length), layer, new_tokens=4,
        packed_patches=out.packed_patches,
    )  # fmt: skip
    assert set(parts) == set(savings.flops)
    for name, flops in parts.items():
        analytic = savings.flops[name][1]
        if (arm, name) in (("dense", "scorer"), ("last", "ViT packed blocks")):
            assert flops == analytic == 0
            continue
        assert flops > 10_000, name  # nothing is compared with nothing
        assert analytic == flops, name
    assert savings.changes_nothing == (arm == "dense")
    if arm == "dense":
        for dense, pruned in (*savings.flops.values(), *savings.tokens.values(), savings.total):
            assert dense == pruned


def test_dense_column_does_not_depend_on_pruning():
    rows = [count(MOLMO2_4B, [81] + [n] * 7, (900, 900), 3).to_dict()["flops"] for n in (81, 40, 0)]
    assert [{k: v["dense"] for k, v in row.items()} for row in rows] == [
        {k: v["dense"] for k, v in rows[0].items()}
    ] * 3
    totals = [row["total"]["pruned"] for row in rows]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(("frames", "speedup"), [(64, 1.93), (128, 2.07), (256, 2.28), (384, 2.44)])
def test_ideal_speedups_near_those_worked_out_by_hand(frames, speedup):
    each, rest = divmod(81 * frames // 2 - 81, frames - 1)
    kept = [81] + [each + (i < rest) for i in range(frames - 1)]
    dense = frames * (81 + 8)
    savings = count(MOLMO2_4B, kept, (dense, dense - frames * 81 + sum(kept)), 3)
    assert savings.to_dict()["ideal_speedup"] == pytest.approx(speedup, abs=0.03)


def test_attention_is_quadratic_in_each_frames_own_count():
    even = count(MOLMO2_4B, [40, 40, 40, 40], (400, 240), 3).flops["ViT packed blocks"][1]
    uneven = count(MOLMO2_4B, [80, 80, 0, 0], (400, 240), 3).flops["ViT packed blocks"][1]
    assert uneven - even == 20 * 4 * 16 * 72 * (2 * 720**2 - 4 * 360**2)


def test_a_training_step_by_hand():
    answered = count(MOLMO2_4B, [81, 41], (180, 140), 3)
    step = count_training(MOLMO2_4B, [81, 41], (180, 140), 3, answer_tokens=11)
    head = 2 * 2560 * 151936
    assert step.flops["LLM"] == tuple(flops + 10 * head for flops in answered.flops["LLM prefill"])
    forward = {name: row for name, row in step.flops.items() if name != "backward"}
    for arm in (0, 1):  # pixels need no gradient
        total = sum(row[arm] for row in forward.values())
        assert step.flops["backward"][arm] == 2 * total - step.flops["patch embedding"][arm]
    assert (step.tokens, step.decode_per_token) == (answered.tokens, None)


def test_document():
    document = count(MOLMO2_4B, [81, 41], (180, 140), 3, new_tokens=5).to_dict()
    assert document["convention"] == CONVENTION
    assert document["tokens"]["visual tokens"] == {"dense": 162, "pruned": 122}
    assert document["tokens"]["ViT patches"] == {"dense": 1458, "pruned": 1098}
    assert document["tokens"]["LLM prompt"] == {"dense": 180, "pruned": 140}
    flops = dict(document["flops"])
    total = flops.pop("total")
    assert list(document["flops"])[-1] == "total"
    assert total == {k: sum(row[k] for row in flops.values()) for k in ("dense", "pruned")}
    assert document["decode_flops_per_token"]["dense"] * 4 == pytest.approx(flops["decode"]["dense"], rel=1e-3)


@pytest.mark.parametrize(("new_tokens", "steps"), [(0, 0), (1, 0), (2, 1)])
def test_the_first_token_comes_with_the_prefill(new_tokens, steps):
    saved = count(MOLMO2_4B, [81, 41], (180, 140), 3, new_tokens=new_tokens)
    assert saved.flops["decode"] == tuple(steps * flops for flops in saved.decode_per_token)


def test_options_are_scored_each_behind_the_prompt():
    saved = count(MOLMO2_4B, [81] * 4, (1000, 1000), 3, new_tokens=5, option_tokens=[1, 1, 1])
    assert saved.flops["decode"] == tuple(3 * flops for flops in saved.decode_per_token)
    one = count(MOLMO2_4B, [81] * 4, (1000, 1000), 3, option_tokens=[2]).flops["decode"]
    assert one == count(MOLMO2_4B, [81] * 4, (1000, 1000), 3, new_tokens=3).flops["decode"]


def test_training_free_scorers_cost_no_products():
    kept = [81, 41]
    assert count(MOLMO2_4B, kept, (180, 140), 3, scorer="temporal").flops["scorer"] == (0, 0)
    assert count(MOLMO2_4B, kept, (180, 140), 3).flops["scorer"][1] > 0


@pytest.mark.parametrize("kept", [[], [81, 82], [81, -1]])
def test_kept_windows_must_fit(kept):
    with pytest.raises(ValueError, match=re.escape(f"kept windows {kept}: must be 0 to 81 of each frame.")):
        count(MOLMO2_4B, kept, (180, 140), 3)


def test_shape_is_plain_numbers(family):
    assert all(isinstance(value, (int, tuple)) for value in dataclasses.asdict(family.shape()).values())


def test_layers_that_are_alike_count_as_one_group():
    width, queries, keys = 2560, 32 * 128, 8 * 128
    alike = LayerGroup(36, width * (2 * queries + 2 * keys + 3 * 9728), queries)
    grouped = dataclasses.replace(MOLMO2_4B, llm_groups=(alike,))
    run = ([81] * 8, (900, 500), 3)
    assert count(grouped, *run, new_tokens=4) == count(MOLMO2_4B, *run, new_tokens=4)


def test_layers_of_a_window_and_layers_that_read_the_last_token_alone():
    """A prompt of 100 tokens, then 3 more decoding steps, against a loop over layers and tokens."""
    groups = (LayerGroup(3, 50, 8, window=102), LayerGroup(2, 70, 16, last_only=True), LayerGroup(1, 30))
    shape = dataclasses.replace(MOLMO2_4B, llm_groups=groups)
    head = 2 * 2560 * 151936
    found = count(shape, [81] * 2, (100, 100), 3, new_tokens=4).flops
    prefill = 100 * 3 * (2 * 50 + 4 * 8 * 100) + 2 * (2 * 70 + 4 * 16 * 100) + 100 * 2 * 30 + head
    decode = sum(
        3 * (2 * 50 + 4 * 8 * min(102, context)) + 2 * (2 * 70 + 4 * 16 * context) + 2 * 30 + head
        for context in (101, 102, 103)
    )
    assert found["LLM prefill"] == (prefill, prefill)
    assert found["decode"] == (decode, decode)
    trained = count_training(shape, [81] * 2, (100, 100), 3, answer_tokens=1).flops["LLM"][0]
    assert trained == prefill + 99 * 2 * (2 * 70 + 4 * 16 * 100), (
        "every token goes through, as losses are taken on many"
    )
