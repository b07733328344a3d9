"""Oracles for VideoLLaMA3: the stock model, what its processor made, and a slow path that masks instead of dropping."""

import json

import numpy as np
import pytest
import torch

from stts_cli.config.frame_size import PixelShare
from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.families.random_model import read_architecture
from stts_cli.media.resize import Resizer
from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import patch_window
from stts_cli.settings import num_dropped
from tests.families.oracles import encode, logits, masked
from tests.families.tiny import QUESTION
from tests.families.tiny_video_llama_3 import STORED, TIMES, VIDEO_PROCESSOR, given_frames, save_video_llama_3

FRAMES, HEIGHT, WIDTH = 6, 16, 40
SECONDS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_video_llama_3(tmp_path_factory.mktemp("video_llama_3"), scorer=True)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def family(request, folder):
    return load_family(folder, attn_implementation=request.param)


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def frames():
    """Six frames that the rule leaves as large as they are."""
    size = (FRAMES, HEIGHT, WIDTH, 3)
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def worded(family, keep, layout):
    return family.build_prompt(SECONDS, QUESTION, keep, layout=layout)


def test_the_prompt_is_what_the_stock_processor_writes(family, stored):
    layout = family.layout_rule(24, 24, 4)
    assert (4, *layout.grid) == tuple(stored["grid"].tolist())
    keep = torch.ones(4, layout.num_windows, dtype=torch.bool)
    prompt = family.build_prompt(TIMES, QUESTION, keep, layout=layout)
    assert prompt.input_ids[0].tolist() == stored["input_ids"].tolist()
    assert family.tokenizer.decode(prompt.input_ids[0, prompt.num_prefix - 1]) == "<|video_pad|>"
    keep[3] = False
    short = family.build_prompt(TIMES, QUESTION, keep, layout=layout)
    text = family.tokenizer.decode(short.input_ids[0])
    assert text.endswith(f",Time 61.5s:\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"), "a frame that keeps nothing"


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_pixels_are_what_the_stock_processor_makes(family, stored, which):
    frames, expected = given_frames()[which], torch.from_numpy(stored[f"pixels_{which}"])
    layout = family.layout_rule(*frames.shape[1:3], len(frames))
    assert (len(frames), *layout.grid) == tuple(stored[f"grid_{which}"].tolist())
    resize = Resizer(layout.frame_size, family.resample)
    for given in (torch.from_numpy(frames), torch.from_numpy(np.stack([resize(frame) for frame in frames]))):
        patches = family.preprocess(given)
        assert patches.layout == layout, "frames of the size that the rule gave keep it"
        assert torch.equal(patches.pixels.flatten(0, 1), expected)


@pytest.mark.parametrize(
    ("height", "width", "num_frames"), [(720, 1280, 64), (720, 1280, 16), (1080, 1920, 180), (240, 320, 5), (10, 12, 2)]
)
def test_the_size_is_the_stock_rules_and_its_own_fixed_point(height, width, num_frames):
    """By the sizes of the released checkpoints."""
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import smart_resize

    rule = PixelShare(14, 2, 12_544, 12_845_056)
    size = rule(height, width, num_frames).frame_size
    assert size == tuple(smart_resize(height, width, 28, 12_544, 12_845_056 // num_frames))
    assert rule(*size, num_frames).frame_size == size


@pytest.mark.parametrize(("scorer", "keep_ratio"), [("learned", 1.0), ("none", 0.5), ("tome", 1.0)])
@torch.no_grad()
def test_dense_is_the_stock_model_bit_for_bit(family, frames, scorer, keep_ratio):
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer=scorer)
    prompt = worded(family, encoded.keep_mask, encoded.layout)
    pixels = family.preprocess(frames).pixels.flatten(0, 1)
    video = {
        "pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[FRAMES, *encoded.layout.grid]]),
        "video_merge_sizes": torch.tensor([2]),
    }  # fmt: skip
    assert torch.equal(encoded.visual_tokens, torch.cat(family.model.get_video_features(**video).pooler_output))
    stock = family.model(input_ids=prompt.input_ids, **video).logits
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), stock)


@torch.no_grad()
def masked_logits(family, frames, keep_ratio):
    """The slow path: per-frame stock blocks on kept patches, every placeholder in the prompt, the dropped masked."""
    from transformers.models.video_llama_3.modeling_video_llama_3 import apply_rotary_pos_emb_vision

    patches = family.preprocess(frames)
    layout, model, vit = patches.layout, family.model.model, family.vit(patches.layout)
    table, length = family.window_index(layout), layout.num_patches

    def run(number, frame, rotation):
        ends = torch.tensor([0, len(frame)], dtype=torch.int32)
        return family.blocks[number](frame, cu_seqlens=ends, position_embeddings=rotation)

    hidden = vit.embed(patches.pixels)
    for number in range(2):
        hidden = torch.stack([run(number, frame, vit.rotation) for frame in hidden])
    scores = family.scorer(hidden, table, [FRAMES])
    keep = select_windows(scores, [num_dropped(FRAMES, len(table), keep_ratio)], [FRAMES])
    bias = log_score_bias(scores, table, layout, [FRAMES])
    kept = keep[:, patch_window(table, length)]
    visual = torch.zeros(FRAMES, len(table), 16)
    for t in range(FRAMES):
        if not kept[t].any():
            continue
        block, attention = family.blocks[2], family.blocks[2].self_attn
        x = block.layer_norm1(hidden[t])
        q, k, v = (part(x).view(length, 2, 8) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
        q, k = apply_rotary_pos_emb_vision(q, k, *vit.rotation)
        weights = torch.einsum("qhk,nhk->hqn", q, k) * 8**-0.5 + bias[t]
        made = torch.einsum("hqn,nhk->qhk", weights.softmax(-1), v).reshape(length, 16)
        frame = hidden[t] + attention.out_proj(made)
        frame = frame + block.mlp(block.layer_norm2(frame))
        frame, rotation = frame[kept[t]], tuple(part[kept[t]] for part in vit.rotation)
        for number in range(3, 6):
            frame = run(number, frame, rotation)
        means = model.vision_model.post_layernorm(frame).view(-1, 4, 16).mean(1)
        visual[t, keep[t]] = model.projector(means)
    prompt = worded(family, torch.ones_like(keep), layout)
    present, mask = masked(prompt.input_ids, keep, family.model.config.video_token_id)
    where = (present.long().cumsum(1) - 1).clamp_min(0)
    out = logits(family, prompt, visual.flatten(0, 1), attention_mask=mask, position_ids=where)
    return visual[keep], out[present], keep


@pytest.mark.parametrize("keep_ratio", [0.75, 0.5, 0.3])
@torch.no_grad()
def test_pruned_equals_the_masked_path(family, frames, keep_ratio):
    encoded = encode(family, frames, keep_ratio=keep_ratio, scorer="learned")
    visual, expected, keep = masked_logits(family, frames, keep_ratio)
    assert torch.equal(encoded.keep_mask, keep)
    torch.testing.assert_close(encoded.visual_tokens, visual, atol=1e-4, rtol=1e-4)
    prompt = worded(family, encoded.keep_mask, encoded.layout)
    torch.testing.assert_close(logits(family, prompt, encoded.visual_tokens)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("own", [{"use_token_compression": True}, {}])
def test_the_stock_processors_own_dropping_is_off_and_said(folder, tmp_path, own):
    assert load_family(folder).notes == []
    settings = {key: value for key, value in VIDEO_PROCESSOR.items() if key != "use_token_compression"}
    plain = save_video_llama_3(tmp_path)
    (plain / "video_preprocessor_config.json").write_text(json.dumps({**settings, **own}))
    (note,) = load_family(plain).notes
    assert note.startswith("use_token_compression of the stock processor is off")


def test_the_prefix_is_read_without_the_output_head(folder, clip_file, monkeypatch):
    """The stock class would compute the logits of every token of the video."""
    from stts_cli.engine.model import VideoModel
    from stts_cli.settings import Arm

    model = VideoModel(load_family(folder), Arm("", str(folder), frames=4))
    video, seen = model.encode(clip_file), []
    model.family.model.lm_head.register_forward_hook(lambda module, given, made: seen.append(given[0].shape[1]))
    prompt = video.prompt(QUESTION, "")
    model.ask(video, QUESTION)
    assert max(seen) == prompt.input_ids.shape[1] - prompt.num_prefix


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("video_preprocessor_config.json", {"patch_size": 8}, r"patch_size 8; the model's is 4\.$"),
        ("video_preprocessor_config.json", {"temporal_patch_size": 2}, r"temporal_patch_size 2; must be 1\.$"),
        ("video_preprocessor_config.json", {"resample": 0}, r"resample 0; must be 3 \(bicubic\)\.$"),
        ("config.json", {"text_config": {"model_type": "gpt_oss"}}, r"gpt_oss; must be qwen2, qwen3 or llama\.$"),
        (
            "config.json",
            {"text_config": {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1}},
            r"layer_types sliding_attention; must be full_attention\.$",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, file, changes, words):
    path = save_video_llama_3(tmp_path) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=words):
        read_architecture(str(tmp_path))


def test_frames_too_long_are_refused(family):
    with pytest.raises(InputError, match=r"frames of 4000x8 px: must be at most 200 times as long as wide\.$"):
        family.layout_rule(8, 4000, 4)
