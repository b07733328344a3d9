"""Oracles for Qwen2-VL and Qwen2.5-VL: the stock model, what its processor made, and a slow path that masks."""

import json

import numpy as np
import pytest
import torch

from stts_cli.config.qwen2_vl import FramePixels, unit_parts
from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.families.units import places
from stts_cli.media.resize import Resizer
from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import patch_window
from stts_cli.settings import num_dropped
from tests.families.oracles import check_answer_is_the_stock_models, encode, grid, logits, masked
from tests.families.tiny_qwen2_vl import CAP, QUESTION, STORED, TIMES, VIDEO_PROCESSOR, given_frames, save_qwen2_vl

SECONDS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
HEIGHT, WIDTH, UNITS = 24, 40, 4


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def folder(request, tmp_path_factory):
    return save_qwen2_vl(tmp_path_factory.mktemp(request.param), scorer=True, model_type=request.param)


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


def has_squares(family):
    return family.model.config.model_type == "qwen2_5_vl"


def worded(family, encoded, seconds=SECONDS):
    return family.build_prompt(seconds, QUESTION, encoded.keep_mask, layout=encoded.layout)


def scale(family, seconds):
    """What stock is told about time, where it asks."""
    return {"second_per_grid_ts": [seconds]} if has_squares(family) else {}


def test_the_prompt_is_what_the_stock_processor_writes(family, stored):
    units, rows, cols = stored["grid"].tolist()
    layout = family.layout_rule(24, 24, 5)
    assert (rows, cols) == layout.grid
    keep = torch.ones(units, layout.num_windows, dtype=torch.bool)
    prompt = family.build_prompt(TIMES, QUESTION, keep, layout=layout)
    assert prompt.input_ids[0].tolist() == stored["input_ids"].tolist()
    text = family.tokenizer.decode(prompt.input_ids[0, : prompt.num_prefix])
    assert text.endswith("<|video_pad|><|vision_end|>")


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_pixels_are_what_the_stock_processor_makes(family, stored, which):
    frames, expected = given_frames()[which], torch.from_numpy(stored[f"pixels_{which}"])
    layout = family.layout_rule(*frames.shape[1:3], len(frames))
    assert [layout.num_units(len(frames)), *layout.grid] == stored[f"grid_{which}"].tolist()
    resize = Resizer(layout.frame_size, family.resample)
    for given in (torch.from_numpy(frames), torch.from_numpy(np.stack([resize(frame) for frame in frames]))):
        patches = family.preprocess(given)
        assert patches.layout == layout, "frames of the size that the rule gave keep it"
        torch.testing.assert_close(patches.pixels.flatten(0, 1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1080, 1920), (240, 320), (9, 7), (2160, 100)])
def test_the_size_is_the_stock_rules_and_its_own_fixed_point(height, width):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rule = FramePixels(14, 2, 2, 128 * 28 * 28, 768 * 28 * 28)
    size = rule(height, width, 64).frame_size
    assert size == smart_resize(height, width, 28, 128 * 28 * 28, 768 * 28 * 28)
    assert rule(*size, 1).frame_size == size
    with pytest.raises(InputError, match=r"frames of 4000x8 px: must be at most 200 times as long as wide\.$"):
        rule(8, 4000, 4)


def test_many_frames_are_smaller_where_the_processor_says_so(family, stored):
    given = {**VIDEO_PROCESSOR, "cap_pixels_per_frame": True, "max_video_tokens": CAP}
    capped = family.processing(family.model.config, None, given)[0]["layout_rule"]
    assert list(capped(45, 80, 64).grid) == stored["capped"][1:].tolist()
    assert capped(45, 80, 4) == family.layout_rule(45, 80, 64) != capped(45, 80, 64)


def test_squares_are_those_of_the_stock_model(family):
    from transformers.vision_utils import get_vision_window_index

    vit = family.vit(family.layout_rule(24, 40, 2))
    assert [bool(vit.parts(number)) for number in range(6)] == [
        has_squares(family) and k not in (1, 4) for k in range(6)
    ]
    if not has_squares(family):
        return
    for size in ((24, 40), (8, 8), (32, 32), (16, 80)):
        layout = family.layout_rule(*size, 2)
        order, ends = get_vision_window_index(torch.tensor([[1, *layout.grid]]), 2, 16, 4)
        assert unit_parts(layout, 16) == tuple(ends.diff().tolist())
        assert family.patch_order(layout)[family.window_index(layout)].tolist() == [
            [4 * window + slot for slot in range(4)] for window in range(layout.num_windows)
        ]
        assert sorted(order.tolist()) == list(range(layout.num_windows))


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
        video_grid_thw=grid(encoded.layout, UNITS), **scale(family, 1.0),
    ).logits  # fmt: skip
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), expected)


def test_positions_count_the_time_between_frames(family, frames):
    with torch.no_grad():
        encoded = encode(family, frames, keep_ratio=1.0)
    times = {}
    for step in (0.5, 0.4999, 2.0):
        prompt = worded(family, encoded, [k * step for k in range(7)])
        units = prompt.position_ids[0, 0, prompt.mm_token_type_ids[0].bool()].view(UNITS, -1)
        assert (units == units[:, :1]).all()
        times[step] = (units[:, 0] - units[0, 0]).tolist()
    per_unit = 2 if has_squares(family) else 1  # of 2 tokens a second, units of 2 frames 0.5 s apart
    assert times[0.5] == times[0.4999] == [per_unit * k for k in range(4)]
    assert times[2.0] == [(8 if has_squares(family) else 1) * k for k in range(4)]


@torch.no_grad()
def masked_logits(family, frames, keep_ratio):
    """The slow path: per-unit stock blocks under a mask, and every placeholder in the prompt, the dropped masked."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    patches = family.preprocess(frames)
    layout, tower = patches.layout, family.model.model.visual
    length, order = layout.num_patches, family.patch_order(layout)
    table = family.window_index(layout)
    parts = unit_parts(layout, 16) if has_squares(family) else [length]
    square = torch.arange(len(parts)).repeat_interleave(torch.tensor(parts))
    where = places(layout, "cpu")[order]
    cos, sin = tower.rotary_pos_emb(where, where)

    def run(number, unit, rows, bias=None):
        """One stock block on some rows of a unit, attention by hand."""
        block = tower.blocks[number]
        q, k, v = block.attn.qkv(block.norm1(unit)).reshape(len(rows), 3, 2, 8).permute(1, 0, 2, 3).unbind(0)
        q, k = apply_rotary_pos_emb_vision(q, k, cos[rows], sin[rows])
        scores = torch.einsum("mhk,nhk->hmn", q, k) * 8**-0.5
        if bias is not None:
            scores = scores + bias
        if has_squares(family) and number not in (1, 4):
            scores = scores.masked_fill(square[rows][:, None] != square[rows], float("-inf"))
        seen = torch.einsum("hmn,nhk->mhk", scores.softmax(-1), v).reshape(len(rows), 16)
        unit = unit + block.attn.proj(seen)
        return unit + block.mlp(block.norm2(unit))

    hidden = tower.patch_embed(patches.pixels.flatten(0, 1)).view(UNITS, length, 16)[:, order]
    for number in range(2):
        hidden = torch.stack([run(number, unit, torch.arange(length)) for unit in hidden])
    scores = family.scorer(hidden, table, [UNITS])
    keep = select_windows(scores, [num_dropped(UNITS, len(table), keep_ratio)], [UNITS])
    bias = log_score_bias(scores, table, layout, [UNITS])
    kept = keep[:, patch_window(table, length)]
    visual = torch.zeros(UNITS, len(table), 24)
    for u in range(UNITS):
        rows = kept[u].nonzero()[:, 0]
        unit = run(2, hidden[u], torch.arange(length), bias[u])[rows]
        for number in range(3, 6):
            unit = run(number, unit, rows)
        whole = torch.zeros(length, 16)
        whole[rows] = unit
        visual[u] = tower.merger(whole[table.flatten()])
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
    def seconds(family, video):
        return scale(family, 2 * round((video.timestamps_s[-1] - video.timestamps_s[0]) / 6, 2))

    check_answer_is_the_stock_models(folder, clip_file, seconds)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": 8}, r"patch_size 8; the model's is 4\.$"),
        ({"resample": 0}, r"resample 0; must be 3 \(bicubic\)\.$"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(tmp_path, changes, words):
    folder = save_qwen2_vl(tmp_path)
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**VIDEO_PROCESSOR, **changes}))
    with pytest.raises(InputError, match=words):
        load_family(folder)


def test_a_checkpoint_that_says_nothing_of_videos_gets_the_classes_sizes(tmp_path):
    folder = save_qwen2_vl(tmp_path)
    (folder / "video_preprocessor_config.json").unlink()
    image = {"min_pixels": 3136, "max_pixels": 12845056, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    family = load_family(folder)
    assert family.layout_rule == FramePixels(4, 2, 2, 128 * 28 * 28, 768 * 28 * 28)
    assert family.frames.mean == (0.1, 0.2, 0.3)
