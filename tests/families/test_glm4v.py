"""Oracles for GLM-4.1V and GLM-4.6V: the stock models, what their processors made, and a slow path that masks."""

import numpy as np
import pytest
import torch

from stts_cli.config.glm4v import RoundedBudget
from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import patch_window
from stts_cli.settings import num_dropped
from tests.families.oracles import check_answer_is_the_stock_models, encode, grid, logits, masked
from tests.families.tiny_glm4v import CASES, QUESTION, STORED, TIMES, given_frames, save_glm4v

SECONDS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
UNITS = 4


@pytest.fixture(scope="module", params=["glm4v", "glm46v"])
def folder(request, tmp_path_factory):
    return save_glm4v(tmp_path_factory.mktemp(request.param), scorer=True, model_type=request.param)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def family(request, folder):
    return load_family(folder, attn_implementation=request.param)


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def frames():
    """Seven frames that the rule leaves as large as they are: the last unit is filled up."""
    size = (7, 16, 40, 3)
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def worded(family, encoded):
    return family.build_prompt(SECONDS, QUESTION, encoded.keep_mask, layout=encoded.layout)


def test_the_prompt_is_what_the_stock_processor_writes(family, stored):
    units, rows, cols = stored["grid"].tolist()
    layout = family.layout_rule(24, 24, 5)
    assert (rows, cols) == layout.grid
    prompt = family.build_prompt(
        TIMES, QUESTION, torch.ones(units, layout.num_windows, dtype=torch.bool), layout=layout
    )
    model_type = family.model.config.model_type
    assert prompt.input_ids[0].tolist() == stored[f"{model_type}_ids"].tolist()
    text = family.tokenizer.decode(prompt.input_ids[0])
    if model_type == "glm46v":
        assert text.endswith(
            f"<|end_of_image|>61.5 seconds<|end_of_video|>{QUESTION}/nothink<|assistant|>\n<think></think>"
        )
    else:
        assert text.endswith(f"<|end_of_image|>61<|end_of_video|>{QUESTION}<|assistant|>\n")


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_pixels_are_what_the_stock_processor_makes(family, stored, which):
    frames, expected = given_frames()[which], torch.from_numpy(stored[f"pixels_{which}"])
    patches = family.preprocess(torch.from_numpy(frames))
    assert [patches.num_units[0], *patches.layout.grid] == stored[f"grid_{which}"].tolist()
    torch.testing.assert_close(patches.pixels.flatten(0, 1), expected, atol=1e-6, rtol=0)


def test_sizes_are_the_stock_rules(stored):
    rule = RoundedBudget(14, 2, 2, 12544, 47040000)
    assert [rule(*case).frame_size for case in CASES] == [tuple(size) for size in stored["sizes"].tolist()]


@pytest.mark.parametrize(("scorer", "keep_ratio"), [("learned", 1.0), ("none", 0.5), ("tome", 1.0)])
@torch.no_grad()
def test_dense_is_the_stock_model_bit_for_bit(family, frames, scorer, keep_ratio):
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer=scorer)
    prompt = worded(family, encoded)
    pixels = family.preprocess(frames).pixels.flatten(0, 1)
    stock = family.model.get_video_features(pixels, grid(encoded.layout, UNITS))
    assert torch.equal(encoded.visual_tokens, torch.cat(tuple(stock.pooler_output)))
    expected = family.model(
        input_ids=prompt.input_ids, mm_token_type_ids=2 * prompt.mm_token_type_ids, pixel_values_videos=pixels,
        video_grid_thw=grid(encoded.layout, UNITS),
    ).logits  # fmt: skip
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), expected)


@torch.no_grad()
def masked_logits(family, frames, keep_ratio):
    """The slow path: per-unit stock blocks on kept patches, and every placeholder in the prompt, the dropped masked."""
    from transformers.models.glm4v.modeling_glm4v import apply_rotary_pos_emb_vision

    patches = family.preprocess(frames)
    layout, tower = patches.layout, family.model.model.visual
    table, vit, length = family.window_index(layout), family.vit(layout), layout.num_patches

    def run(number, unit, rotation):
        ends = torch.tensor([0, len(unit)], dtype=torch.int32)
        return tower.blocks[number](unit, cu_seqlens=ends, position_embeddings=rotation)

    hidden = vit.embed(patches.pixels)
    for number in range(2):
        hidden = torch.stack([run(number, unit, vit.rotation) for unit in hidden])
    scores = family.scorer(hidden, table, [UNITS])
    keep = select_windows(scores, [num_dropped(UNITS, len(table), keep_ratio)], [UNITS])
    bias = log_score_bias(scores, table, layout, [UNITS])
    kept = keep[:, patch_window(table, length)]
    visual = torch.zeros(UNITS, len(table), 32)
    for u in range(UNITS):
        if not kept[u].any():
            continue
        block, rotation = tower.blocks[2], vit.rotation
        q, k, v = block.attn.qkv(block.norm1(hidden[u])).reshape(length, 3, 2, 8).permute(1, 2, 0, 3).unbind(0)
        q, k = (x.transpose(0, 1) for x in apply_rotary_pos_emb_vision(q.transpose(0, 1), k.transpose(0, 1), *rotation))
        weights = (q @ k.transpose(1, 2) * 8**-0.5 + bias[u]).softmax(-1)
        unit = hidden[u] + block.attn.proj((weights @ v).transpose(0, 1).reshape(length, 16))
        unit = unit + block.mlp(block.norm2(unit))
        unit, rotation = unit[kept[u]], tuple(part[kept[u]] for part in rotation)
        for number in range(3, 6):
            unit = run(number, unit, rotation)
        for window, four in zip(keep[u].nonzero()[:, 0], tower.post_layernorm(unit).view(-1, 4, 16), strict=True):
            square = four.view(2, 2, 16).permute(2, 0, 1)[None]
            visual[u, window] = tower.merger(tower.downsample(square).flatten(1))[0]
    prompt = family.build_prompt(SECONDS, QUESTION, torch.ones_like(keep), layout=layout)
    present, mask = masked(prompt.input_ids, keep, family.model.config.image_token_id)
    out = logits(family, prompt, visual.flatten(0, 1), attention_mask=mask)
    return visual[keep], out[present], keep, prompt.position_ids[:, present]


@pytest.mark.parametrize("keep_ratio", [0.75, 0.5, 0.3])
@torch.no_grad()
def test_pruned_equals_the_masked_path(family, frames, keep_ratio):
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer="learned")
    visual, expected, keep, positions = masked_logits(family, frames, keep_ratio)
    assert torch.equal(encoded.keep_mask, keep)
    torch.testing.assert_close(encoded.visual_tokens, visual, atol=1e-4, rtol=1e-4)
    prompt = worded(family, encoded)
    assert torch.equal(prompt.position_ids[:, 0], positions), "what is left keeps its position"
    torch.testing.assert_close(logits(family, prompt, encoded.visual_tokens)[0], expected, atol=1e-4, rtol=1e-4)


def test_an_answer_is_the_stock_models(folder, clip_file):
    check_answer_is_the_stock_models(folder, clip_file)


@pytest.mark.parametrize("model_type", ["glm4v", "glm46v"])
def test_a_conversation_has_the_line_before_each_answer(tmp_path, model_type):
    family = load_family(save_glm4v(tmp_path, model_type=model_type))
    ids, is_answer = family.conversation_ids([("Which?", "red"), ("Why?", "so")])
    said = family.tokenizer.decode([token for token, answer in zip(ids, is_answer, strict=True) if answer])
    line = "\n" if model_type == "glm46v" else ""
    assert said == f"{line}red<|endoftext|>{line}so<|endoftext|>"


def test_thinking_is_a_choice_of_glm_4_6v_alone(tmp_path):
    for model_type in ("glm4v", "glm46v"):
        family = load_family(save_glm4v(tmp_path / model_type, model_type=model_type))
        layout = family.layout_rule(24, 24, 5)
        keep = torch.ones(3, layout.num_windows, dtype=torch.bool)
        if model_type == "glm4v":
            with pytest.raises(InputError, match=r"--think: the chat template of glm4v leaves no choice"):
                family.build_prompt(TIMES, QUESTION, keep, layout=layout, think=True)
        else:
            prompt = family.build_prompt(TIMES, QUESTION, keep, layout=layout, think=True)
            assert family.tokenizer.decode(prompt.input_ids[0]).endswith(f"{QUESTION}<|assistant|>")
