"""Oracles for InternVL: the stock model, what its processor made, and a slow path that masks instead of dropping."""

import json
import shutil

import numpy as np
import pytest
import torch

from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.families.random_model import read_architecture
from stts_cli.media.resize import Resizer
from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import patch_window
from stts_cli.settings import Execution, num_dropped
from tests.families.oracles import encode, logits, masked
from tests.families.tiny import QUESTION
from tests.families.tiny_internvl import IMAGE_PROCESSOR, STORED, TEXTS, given_frames, save_internvl

SECONDS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
LARGE = {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False, "use_mean_pooling": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_internvl(tmp_path_factory.mktemp("internvl"), scorer=True)


@pytest.fixture(scope="module", params=["sdpa", "eager", "large"])
def family(request, folder, tmp_path_factory):
    """By the language model's attention; with parts as the largest ViT has them, and a LayerNorm at its end."""
    if request.param == "large":
        return load_family(save_internvl(tmp_path_factory.mktemp("large"), scorer=True, vision=LARGE))
    return load_family(folder, attn_implementation=request.param)


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 256, (6, 24, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def pixels_of(family, frames):
    """Return (T, 3, H, W) as the stock processor does for frames of the model's size."""
    mean, std = (255 * torch.tensor(getattr(family.frames, name)) for name in ("mean", "std"))
    return ((frames.float() - mean) / std).permute(0, 3, 1, 2)


def test_the_prompt_is_what_the_stock_processor_writes(family, stored):
    keep = torch.ones(11, 9, dtype=torch.bool)
    prompt = family.build_prompt([k / 2 for k in range(11)], QUESTION, keep)
    assert prompt.input_ids[0].tolist() == stored["input_ids"].tolist()
    assert family.tokenizer.decode(prompt.input_ids[0, prompt.num_prefix - 1]) == "</img>"
    assert "</img>\nFrame11: <img>" in family.tokenizer.decode(prompt.input_ids[0])


@pytest.mark.parametrize("which", [0, 1, 2])
def test_pixels_are_what_the_stock_processor_makes(family, stored, which):
    frames, (expected,) = given_frames()[which], stored[f"pixels_{which}"]
    resize = Resizer(family.frame_size, family.resample)
    expected = torch.from_numpy(expected).view(2, 3, 6, 4, 6, 4).permute(0, 2, 4, 3, 5, 1).reshape(2, 36, 48)
    for given in (torch.from_numpy(frames), torch.from_numpy(np.stack([resize(frame) for frame in frames]))):
        assert torch.equal(family.preprocess(given).pixels, expected)


@pytest.mark.parametrize(("scorer", "keep_ratio"), [("learned", 1.0), ("none", 0.5), ("tome", 1.0)])
@torch.no_grad()
def test_dense_is_the_stock_model_bit_for_bit(family, frames, scorer, keep_ratio):
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer=scorer)
    prompt = family.build_prompt(SECONDS, QUESTION, encoded.keep_mask)
    pixels = pixels_of(family, frames)
    assert torch.equal(encoded.visual_tokens, family.model.get_image_features(pixels).pooler_output.flatten(0, 1))
    stock = family.model(input_ids=prompt.input_ids, pixel_values=pixels).logits
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), stock)


def with_bias(block, hidden, bias):
    """Run a stock block by hand, with a bias (T, N) on the keys of the patches; the class token has none."""
    attention = block.attention
    x = block.layernorm_before(hidden)
    q, k = attention.q_norm(attention.q_proj(x)), attention.k_norm(attention.k_proj(x))
    q, k, v = (y.view(*y.shape[:2], 2, 8).transpose(1, 2) for y in (q, k, attention.v_proj(x)))
    weights = q @ k.transpose(2, 3) * 8**-0.5
    weights[..., 1:] += bias[:, None, None]
    made = (weights.softmax(-1) @ v).transpose(1, 2).reshape(hidden.shape)
    hidden = hidden + block.lambda_1 * attention.projection_layer(made)
    return hidden + block.lambda_2 * block.mlp(block.layernorm_after(hidden))


@torch.no_grad()
def masked_logits(family, frames, keep_ratio):
    """The slow path: per-frame stock blocks on kept patches, every placeholder in the prompt, the dropped masked."""
    model, table = family.model.model, family.window_index(family.layout)
    hidden = model.vision_tower.embeddings(pixels_of(family, frames))
    for block in family.blocks[:2]:
        hidden = block(hidden)
    scores = family.scorer(hidden[:, 1:], table, [len(frames)])
    keep = select_windows(scores, [num_dropped(len(frames), len(table), keep_ratio)], [len(frames)])
    hidden = with_bias(family.blocks[2], hidden, log_score_bias(scores, table, family.layout, [len(frames)]))
    visual = torch.zeros(len(frames), 9, 16)
    for t, kept in enumerate(keep[:, patch_window(table, 36)]):
        if not kept.any():
            continue
        present = torch.cat([torch.tensor([True]), kept])
        unit = hidden[t : t + 1, present]
        for block in family.blocks[3:]:
            unit = block(unit)
        whole = torch.zeros(1, 36, 16)
        whole[:, kept] = model.vision_tower.layernorm(unit)[:, 1:]
        shuffled = model.pixel_shuffle(whole.view(1, 6, 6, 16)).reshape(1, 9, 64)
        visual[t] = model.multi_modal_projector(shuffled)[0]
    prompt = family.build_prompt(SECONDS, QUESTION, torch.ones_like(keep))
    present, mask = masked(prompt.input_ids, keep, family.model.config.image_token_id)
    where = (present.long().cumsum(1) - 1).clamp_min(0)
    out = logits(family, prompt, visual.flatten(0, 1), attention_mask=mask, position_ids=where)
    return visual[keep], out[present], keep


@pytest.mark.parametrize("keep_ratio", [0.75, 0.5, 0.3])
@torch.no_grad()
def test_pruned_equals_the_masked_path(family, frames, keep_ratio):
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer="learned")
    visual, expected, keep = masked_logits(family, frames, keep_ratio)
    assert torch.equal(encoded.keep_mask, keep)
    assert [n // 4 for n in encoded.packed_patches] == keep.sum(1).tolist(), "the class token is no patch"
    torch.testing.assert_close(encoded.visual_tokens, visual, atol=1e-4, rtol=1e-4)
    prompt = family.build_prompt(SECONDS, QUESTION, encoded.keep_mask)
    assert prompt.dense_length - prompt.input_ids.shape[1] == int((~keep).sum())
    torch.testing.assert_close(logits(family, prompt, encoded.visual_tokens)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scorer", ["learned", "temporal", "tome"])
@torch.no_grad()
def test_behind_the_whole_encoder_what_is_kept_is_the_dense_token(family, frames, scorer):
    """The scored features are the patches', without the class token."""
    dense = encode(family, frames, keep_ratio=1.0).visual_tokens.view(6, 9, -1)
    settings = family.settings.override(keep_ratio=0.5, scorer=scorer, prune_layer="last")
    found = family.encode(family.preprocess(frames), settings, execution=Execution(keep_scored=True))
    assert found.scored_hidden.shape == (6, 36, 16)
    if scorer != "tome":
        torch.testing.assert_close(found.visual_tokens, dense[found.keep_mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_every_language_model_of_the_line_is_counted_and_read(tmp_path, text, frames):
    family = load_family(save_internvl(tmp_path, text=text))
    shape = family.read_shape(family.model.config, family.layout_rule)
    assert shape.num_parameters() == sum(p.numel() for p in family.model.parameters())
    prompt = family.build_prompt(SECONDS, QUESTION, torch.ones(6, 9, dtype=torch.bool))
    with torch.no_grad():
        tokens = encode(family, frames, keep_ratio=1.0).visual_tokens
        stock = family.model(input_ids=prompt.input_ids, pixel_values=pixels_of(family, frames)).logits
        assert torch.equal(logits(family, prompt, tokens), stock)


def test_the_largest_vit_is_counted(tmp_path):
    family = load_family(save_internvl(tmp_path, vision=LARGE))
    shape = family.read_shape(family.model.config, family.layout_rule)
    assert shape.num_parameters() == sum(p.numel() for p in family.model.parameters())


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("preprocessor_config.json", {"size": {"height": 20, "width": 20}}, r"size .*20.*; the model's is 24x24\.$"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 24}}, r"; the model's is 24x24\.$"),
        ("preprocessor_config.json", {"resample": 0}, r"resample 0; must be 3 \(bicubic\)\.$"),
        ("processor_config.json", {"image_seq_length": 16}, r"image_seq_length 16; the model's is 9\.$"),
        ("config.json", {"vision_feature_layer": -2}, r"vision_feature_layer -2; must be -1, the last block\.$"),
        ("config.json", {"vision_feature_select_strategy": "full"}, r"strategy full; must be default\.$"),
        ("config.json", {"downsample_ratio": 0.25}, r"must be a square of a multiple of 4 patches of 4 px\.$"),
        ("config.json", {"vision_config": {"image_size": [24, 32]}}, r"image_size .*24, 32.*; must be a square"),
        (
            "config.json",
            {"text_config": {"model_type": "gpt_oss"}},
            r"model_type gpt_oss; must be qwen2, qwen3 or llama",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, tmp_path, file, changes, words):
    shutil.copytree(folder, tmp_path / "changed")
    path = tmp_path / "changed" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=words):
        read_architecture(str(tmp_path / "changed"))  # as loading does, but before the weights, which do not fit either


def test_a_video_processors_own_file_counts_more(tmp_path):
    folder = save_internvl(tmp_path)
    own = {**IMAGE_PROCESSOR, "image_mean": [0.1, 0.2, 0.3]}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(own))
    assert load_family(folder).frames.mean == (0.1, 0.2, 0.3)


def test_a_checkpoint_with_code_of_its_own_is_refused_with_where_the_other_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat", "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(InputError, match=r"of type internvl_chat: runs code .*InternVL3_5-4B-HF\.$"):
        load_family(tmp_path)
