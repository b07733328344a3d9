"""Oracles for Qwen3-VL: the stock model, what its processor made, and a slow path that masks instead of dropping."""

import json

import numpy as np
import pytest
import torch

from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.families.random_model import read_architecture
from stts_cli.media.resize import Resizer
from tests.families.oracles import check_answer_is_the_stock_models, encode, grid, logits, masked
from tests.families.slow_qwen3_vl import slow_visual_tokens
from tests.families.tiny_qwen3_vl import QUESTION, STORED, TIMES, VIDEO_PROCESSOR, given_frames, save_qwen3_vl

SECONDS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
HEIGHT, WIDTH, UNITS = 16, 40, 4


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen3_vl_moe"])
def folder(request, tmp_path_factory):
    return save_qwen3_vl(tmp_path_factory.mktemp(request.param), scorer=True, model_type=request.param)


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
    size = (7, HEIGHT, WIDTH, 3)
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def worded(family, encoded, keep=None, seconds=SECONDS):
    keep = encoded.keep_mask if keep is None else keep
    return family.build_prompt(seconds, QUESTION, keep, layout=encoded.layout)


def test_the_prompt_is_what_the_stock_processor_writes(family, stored):
    units, rows, cols = stored["grid"].tolist()
    layout = family.layout_rule(24, 24, 5)
    assert (rows, cols) == layout.grid
    keep = torch.ones(units, layout.num_windows, dtype=torch.bool)
    prompt = family.build_prompt(TIMES, QUESTION, keep, layout=layout)
    assert prompt.input_ids[0].tolist() == stored["input_ids"].tolist()
    text = family.tokenizer.decode(prompt.input_ids[0, : prompt.num_prefix])
    assert text.endswith("<|vision_end|>")
    assert "<0.2 seconds>" in text
    assert "<61.5 seconds>" in text, "the last frame is alone in its unit"


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_pixels_are_what_the_stock_processor_makes(family, stored, which):
    frames, expected = given_frames()[which], torch.from_numpy(stored[f"pixels_{which}"])
    layout = family.layout_rule(*frames.shape[1:3], len(frames))
    units, *shape = stored[f"grid_{which}"].tolist()
    assert (layout.num_units(len(frames)), *layout.grid) == (units, *shape)
    resize = Resizer(layout.frame_size, family.resample)
    for given in (torch.from_numpy(frames), torch.from_numpy(np.stack([resize(frame) for frame in frames]))):
        patches = family.preprocess(given)
        assert patches.layout == layout, "frames of the size that the rule gave keep it"
        torch.testing.assert_close(patches.pixels.flatten(0, 1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width", "num_frames"), [(720, 1280, 64), (1080, 1920, 384), (240, 320, 5)])
def test_the_size_is_the_stock_rules_and_its_own_fixed_point(height, width, num_frames):
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    from stts_cli.config.qwen3_vl import PixelBudget

    rule = PixelBudget(16, 2, 2, 4096, 25165824)
    frames = num_frames + num_frames % 2
    stock = smart_resize(frames, height, width, 2, 32, 4096, 25165824)
    size = rule(height, width, num_frames).frame_size
    assert size == stock or num_frames % 2
    assert rule(*size, num_frames).frame_size == size


@pytest.mark.parametrize(("scorer", "keep_ratio"), [("learned", 1.0), ("none", 0.5), ("tome", 1.0)])
@torch.no_grad()
def test_dense_is_the_stock_model_bit_for_bit(family, frames, scorer, keep_ratio):
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer=scorer)
    prompt = worded(family, encoded)
    pixels = family.preprocess(frames).pixels.flatten(0, 1)
    stock = family.model.get_video_features(pixels, grid(encoded.layout, UNITS))
    tokens, *deep = encoded.visual_tokens.chunk(3, -1)
    assert torch.equal(tokens, torch.cat(tuple(stock.pooler_output)))
    assert all(torch.equal(one, torch.cat(other)) for one, other in zip(deep, stock.deepstack_features, strict=True))
    expected = family.model(
        input_ids=prompt.input_ids, mm_token_type_ids=2 * prompt.mm_token_type_ids, pixel_values_videos=pixels,
        video_grid_thw=grid(encoded.layout, UNITS),
    ).logits  # fmt: skip
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), expected)


@torch.no_grad()
def masked_logits(family, frames, keep_ratio):
    """The slow path: per-unit stock blocks on kept patches, and every placeholder in the prompt, the dropped masked."""
    visual, keep, layout = slow_visual_tokens(family, frames, keep_ratio)
    prompt = family.build_prompt(SECONDS, QUESTION, torch.ones_like(keep), layout=layout)
    present, mask = masked(prompt.input_ids, keep, family.model.config.video_token_id)
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": 8}, r"patch_size 8; the model's is 4\.$"),
        ({"resample": 0}, r"resample 0; must be 3 \(bicubic\)\.$"),
        ({"temporal_patch_size": 1}, r"temporal_patch_size 1; the model's is 2\.$"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(tmp_path, changes, words):
    folder = save_qwen3_vl(tmp_path)
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**VIDEO_PROCESSOR, **changes}))
    with pytest.raises(InputError, match=words):
        load_family(folder)


def test_layers_without_experts_are_refused(tmp_path):
    folder = save_qwen3_vl(tmp_path, model_type="qwen3_vl_moe")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["mlp_only_layers"] = [1]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"mlp_only_layers \[1\], decoder_sparse_step 1; must be \[\] and 1"):
        read_architecture(str(folder))


def test_frames_too_long_are_refused(family):
    with pytest.raises(InputError, match=r"frames of 4000x8 px: must be at most 200 times as long as wide\.$"):
        family.layout_rule(8, 4000, 4)
