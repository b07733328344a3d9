"""Oracles for Qwen3.5: the stock model, what its processor wrote, and a slow path that drops unit by unit."""

import numpy as np
import pytest
import torch

from stts_cli.families import load_family
from tests.families import tiny_qwen3_vl
from tests.families.oracles import check_answer_is_the_stock_models, encode, grid, logits
from tests.families.slow_qwen3_vl import slow_visual_tokens
from tests.families.tiny_qwen3_5 import STORED, save_qwen3_5
from tests.families.tiny_qwen3_vl import QUESTION, TIMES, given_frames

SECONDS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


@pytest.fixture(scope="module", params=["qwen3_5", "qwen3_5_moe"])
def folder(request, tmp_path_factory):
    return save_qwen3_5(tmp_path_factory.mktemp(request.param), scorer=True, model_type=request.param)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def family(request, folder):
    return load_family(folder, attn_implementation=request.param)


@pytest.fixture(scope="module")
def frames():
    """Seven frames that the rule leaves as large as they are: the last unit is filled up."""
    size = (7, 16, 40, 3)
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def worded(family, encoded):
    return family.build_prompt(SECONDS, QUESTION, encoded.keep_mask, layout=encoded.layout)


def test_the_prompt_is_what_the_stock_processor_writes(family):
    layout = family.layout_rule(24, 24, 5)
    keep = torch.ones(3, layout.num_windows, dtype=torch.bool)
    prompt = family.build_prompt(TIMES, QUESTION, keep, layout=layout)
    with np.load(STORED) as stored:
        assert prompt.input_ids[0].tolist() == stored["plain"].tolist()
    assert family.tokenizer.decode(prompt.input_ids[0]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_pixels_are_what_the_stock_processor_makes(family, which):
    """transformers gives Qwen3.5 the video processor of Qwen3-VL."""
    frames = given_frames()[which]
    with np.load(tiny_qwen3_vl.STORED) as stored:
        expected = torch.from_numpy(stored[f"pixels_{which}"])
    patches = family.preprocess(torch.from_numpy(frames))
    torch.testing.assert_close(patches.pixels.flatten(0, 1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("scorer", "keep_ratio"), [("learned", 1.0), ("none", 0.5), ("tome", 1.0)])
@torch.no_grad()
def test_dense_is_the_stock_model_bit_for_bit(family, frames, scorer, keep_ratio):
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer=scorer)
    prompt = worded(family, encoded)
    pixels = family.preprocess(frames).pixels.flatten(0, 1)
    stock = family.model.get_video_features(pixels, grid(encoded.layout, 4))
    assert torch.equal(encoded.visual_tokens, torch.cat(tuple(stock.pooler_output)))
    expected = family.model(
        input_ids=prompt.input_ids, mm_token_type_ids=2 * prompt.mm_token_type_ids, pixel_values_videos=pixels,
        video_grid_thw=grid(encoded.layout, 4),
    ).logits  # fmt: skip
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), expected)


@pytest.mark.parametrize("keep_ratio", [0.75, 0.5, 0.3])
@torch.no_grad()
def test_pruned_equals_the_slow_path(family, frames, keep_ratio):
    """Of the ViT; the language model, whose state no mask keeps from a token, reads the shortened prompt."""
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer="learned")
    visual, keep, layout = slow_visual_tokens(family, frames, keep_ratio)
    assert torch.equal(encoded.keep_mask, keep)
    torch.testing.assert_close(encoded.visual_tokens, visual[keep], atol=1e-4, rtol=1e-4)
    prompt, dense = (
        worded(family, encoded),
        family.build_prompt(SECONDS, QUESTION, torch.ones_like(keep), layout=layout),
    )
    ids, left = dense.input_ids[0], torch.ones_like(dense.input_ids[0], dtype=torch.bool)
    left[ids == family.model.config.video_token_id] = keep.flatten()
    assert torch.equal(prompt.input_ids[0], ids[left])
    assert torch.equal(prompt.position_ids, dense.position_ids[..., left]), "what is left keeps its position"
    stock = family.model.model
    words = stock.get_input_embeddings()(ids[left])
    words[ids[left] == family.model.config.video_token_id] = visual[keep]
    hidden = stock.language_model(inputs_embeds=words[None], position_ids=dense.position_ids[..., left])
    expected = family.model.lm_head(hidden.last_hidden_state)
    torch.testing.assert_close(logits(family, prompt, encoded.visual_tokens), expected, atol=1e-4, rtol=1e-4)


def test_an_answer_is_the_stock_models(folder, clip_file):
    check_answer_is_the_stock_models(folder, clip_file)


def test_a_conversation_keeps_the_empty_thinking_of_each_answer(family):
    ids, is_answer = family.conversation_ids([("Which?", "red"), ("Why?", "so")])
    turn = "{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{}<|im_end|>"
    text = turn.format("<|vision_end|>Which?", "red") + turn.format("\n<|im_start|>user\nWhy?", "so")
    assert family.tokenizer.decode(ids) == text
    said = family.tokenizer.decode([token for token, answer in zip(ids, is_answer, strict=True) if answer])
    assert said == "red<|im_end|>so<|im_end|>"
