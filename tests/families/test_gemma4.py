"""Oracles for Gemma 4: the stock model, what its processor made, and a slow path that masks instead of dropping."""

import json

import numpy as np
import pytest
import torch

from stts_cli.config.frame_size import WindowBudget
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
from tests.families.tiny_gemma4 import STORED, TIMES, VIDEO_PROCESSOR, given_frames, save_gemma4

FRAMES, HEIGHT, WIDTH = 6, 36, 48
SECONDS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
ROUNDING = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of twelve windows a frame, which fill it to its most patches."""
    folder = save_gemma4(tmp_path_factory.mktemp("gemma4"), scorer=True)
    settings = {**VIDEO_PROCESSOR, "max_soft_tokens": 12}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def family(request, folder):
    return load_family(folder, attn_implementation=request.param)


@pytest.fixture(scope="module")
def seventy(tmp_path_factory):
    """With the released checkpoints' number of windows."""
    return load_family(save_gemma4(tmp_path_factory.mktemp("seventy")))


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def frames():
    size = (FRAMES, HEIGHT, WIDTH, 3)
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def worded(family, keep, layout):
    return family.build_prompt(SECONDS, QUESTION, keep, layout=layout)


def places(layout, num_frames):
    """Return the column and row of each patch, as the stock processor gives them."""
    rows, cols = layout.grid
    where = [(x, y) for y in range(rows) for x in range(cols)]
    return torch.tensor(where)[None].repeat(num_frames, 1, 1)


def test_the_prompt_is_what_the_stock_processor_writes(seventy, stored):
    layout = seventy.layout_rule(90, 160, 3)
    keep = torch.ones(3, layout.num_windows, dtype=torch.bool)
    prompt = seventy.build_prompt(TIMES, QUESTION, keep, layout=layout)
    assert prompt.input_ids[0].tolist() == stored["input_ids"].tolist()
    assert seventy.tokenizer.decode(prompt.input_ids[0, prompt.num_prefix - 1]) == "<image|>"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_pixels_are_what_the_stock_processor_makes(seventy, stored, which):
    frames, expected = given_frames()[which], torch.from_numpy(stored[f"pixels_{which}"])
    layout = seventy.layout_rule(*frames.shape[1:3], len(frames))
    where, number = torch.from_numpy(stored[f"places_{which}"]), layout.num_patches
    assert torch.equal(where[:, :number], places(layout, 1))
    assert bool((where[:, number:] == -1).all()), "the rest is filling"
    resize = Resizer(layout.frame_size, seventy.resample)
    for given in (torch.from_numpy(frames), torch.from_numpy(np.stack([resize(frame) for frame in frames]))):
        patches = seventy.preprocess(given)
        assert patches.layout == layout, "frames of the size that the rule gave keep it"
        assert torch.equal(patches.pixels, expected[:, :number])


def test_the_size_is_the_stock_rules_and_its_own_fixed_point():
    from transformers.models.gemma4.processing_gemma4 import get_aspect_ratio_preserving_size as stock

    rule, rng = WindowBudget(16, 3, 70), np.random.default_rng(0)
    sizes = [(720, 1280), (540, 1080), (48, 4800), (4800, 40), *rng.integers(100, 2000, (500, 2)).tolist()]
    for height, width in sizes:
        size = rule(height, width, 8).frame_size
        assert size == stock(height, width, 16, 630, 3), (height, width)
        assert rule(*size, 8).frame_size == size
    assert rule(720, 1280, 8).num_windows == 66


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (36, 36)])
@torch.no_grad()
def test_dense_is_the_stock_model_to_rounding(tmp_path, size, standardize):
    """Stock fills frames up and masks the filling; the rest is the order that the patches of a window are added in."""
    folder = save_gemma4(tmp_path, vision={"standardize": standardize, "use_clipped_linears": True})
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**VIDEO_PROCESSOR, "max_soft_tokens": 12}))
    family = load_family(folder)
    for name, buffer in family.model.named_buffers():
        if "std_" in name:
            buffer.normal_(generator=torch.Generator().manual_seed(1))
    frames = torch.randint(0, 256, (FRAMES, *size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    encoded = encode(family, frames, keep_ratio=1.0)
    patches, filling = family.preprocess(frames).pixels, 108 - encoded.layout.num_patches
    video = {
        "pixel_values_videos": torch.nn.functional.pad(patches, (0, 0, 0, filling)),
        "video_position_ids": torch.nn.functional.pad(places(encoded.layout, FRAMES), (0, 0, 0, filling), value=-1),
        "num_frames_per_video": torch.tensor([FRAMES]),
    }
    stock = torch.cat(family.model.model.get_video_features(**video).pooler_output)
    torch.testing.assert_close(encoded.visual_tokens, stock, **ROUNDING)
    prompt = worded(family, encoded.keep_mask, encoded.layout)
    whole = family.model(input_ids=prompt.input_ids, **video).logits
    assert torch.equal(logits(family, prompt, stock), whole), "what the language model is given is all that differs"
    torch.testing.assert_close(logits(family, prompt, encoded.visual_tokens), whole, atol=1e-4, rtol=1e-4)


def with_bias(family, hidden, vit, bias):
    """Run block 2 by hand, with a bias (T, N) on the keys."""
    from transformers.models.gemma4.modeling_gemma4 import apply_multidimensional_rope

    block = family.blocks[2]
    attention, (cos, sin) = block.self_attn, vit.rotation
    x = block.input_layernorm(hidden)
    q, k, v = (p(x).view(*x.shape[:2], 2, 8) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = (
        apply_multidimensional_rope(n(y), cos, sin, vit.places)
        for n, y in ((attention.q_norm, q), (attention.k_norm, k))
    )
    weights = torch.einsum("tqhd,tkhd->thqk", q, k) + bias[:, None, None]
    made = torch.einsum("thqk,tkhd->tqhd", weights.softmax(-1), attention.v_norm(v)).reshape(hidden.shape)
    hidden = hidden + block.post_attention_layernorm(attention.o_proj(made))
    return hidden + block.post_feedforward_layernorm(block.mlp(block.pre_feedforward_layernorm(hidden)))


@torch.no_grad()
def masked_logits(family, frames, keep_ratio):
    """The slow path: per-frame stock blocks on kept patches, every placeholder in the prompt, the dropped masked."""
    patches = family.preprocess(frames)
    layout, model, vit = patches.layout, family.model.model, family.vit(patches.layout)
    table = family.window_index(layout)

    def run(number, hidden, kept):
        cos, sin, where = (part[:, kept] for part in (*vit.rotation, vit.places))
        return family.blocks[number](hidden, position_embeddings=(cos, sin), position_ids=where)

    hidden = vit.embed(patches.pixels)
    every = torch.ones(layout.num_patches, dtype=torch.bool)
    for number in range(2):
        hidden = torch.cat([run(number, frame[None], every) for frame in hidden])
    scores = family.scorer(hidden, table, [FRAMES])
    keep = select_windows(scores, [num_dropped(FRAMES, len(table), keep_ratio)], [FRAMES])
    hidden = with_bias(family, hidden, vit, log_score_bias(scores, table, layout, [FRAMES]))
    owner = patch_window(table, layout.num_patches)
    visual = torch.zeros(FRAMES, len(table), 16)
    for t, kept in enumerate(keep[:, owner]):
        if not kept.any():
            continue
        frame = hidden[t : t + 1, kept]
        for number in range(3, 6):
            frame = run(number, frame, kept)
        for window in keep[t].nonzero()[:, 0]:
            mean = frame[0, owner[kept] == window].mean(0) * 4.0
            visual[t, window] = model.embed_vision(inputs_embeds=mean[None])[0]
    prompt = worded(family, torch.ones_like(keep), layout)
    present, mask = masked(prompt.input_ids, keep, family.model.config.video_token_id)
    where = (present.long().cumsum(1) - 1).clamp_min(0)
    masks = {"full_attention": mask, "sliding_attention": mask}  # the window is wider than the prompt
    out = logits(family, prompt, visual.flatten(0, 1), attention_mask=masks, position_ids=where)
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


def test_questions_behind_a_prefix_longer_than_the_sliding_window_are_fresh_runs(tmp_path, clip_file):
    from stts_cli.engine.model import VideoModel
    from stts_cli.settings import Arm

    family = load_family(save_gemma4(tmp_path, text={"sliding_window": 16}))
    model = VideoModel(family, Arm("", str(tmp_path), frames=4), max_new_tokens=6)
    video, questions = model.encode(clip_file), [QUESTION, "How many?", QUESTION]
    answers = [model.ask(video, question).text for question in questions]
    assert answers[0] == answers[2]
    assert answers == [model.ask(model.encode(clip_file), question).text for question in questions]
    prompt = video.prompt(QUESTION, "")
    ids = family.language_inputs(prompt.input_ids, prompt.mm_token_type_ids, [video.tokens.visual_tokens])
    assert prompt.num_prefix > 3 * 16
    made = family.model.generate(
        **ids, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(prompt.input_ids)
    )
    text = family.tokenizer.decode(made[0, prompt.input_ids.shape[1] :], skip_special_tokens=True)
    assert answers[0] == text.strip()


def test_layers_that_share_keys_read_one_token_of_the_prefix(folder, clip_file):
    from stts_cli.engine.model import VideoModel
    from stts_cli.settings import Arm

    model, seen = VideoModel(load_family(folder), Arm("", str(folder), frames=4), max_new_tokens=1), []
    video = model.encode(clip_file)
    layer = model.family.model.model.language_model.layers[4]
    layer.register_forward_hook(lambda module, given, made: seen.append(given[0].shape[1]))
    model.ask(video, QUESTION)
    assert seen == [1, 1], "of the prefix and of the question its last"


def test_weights_of_an_audio_encoder_are_counted(tmp_path):
    from transformers import AutoConfig, Gemma4ForConditionalGeneration

    folder = save_gemma4(tmp_path)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "output_proj_dims": 24,
             "subsampling_conv_channels": [4, 4]}  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "audio_config": {"model_type": "gemma4_audio", **small}}))
    with torch.device("meta"):
        model = Gemma4ForConditionalGeneration(AutoConfig.from_pretrained(folder))
    assert model.model.audio_tower is not None
    assert read_architecture(str(folder)).num_parameters() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("video_preprocessor_config.json", {"patch_size": 8}, r"patch_size 8; the model's is 4\.$"),
        ("video_preprocessor_config.json", {"pooling_kernel_size": 2}, r"pooling_kernel_size 2; the model's is 3\.$"),
        ("video_preprocessor_config.json", {"resample": 2}, r"resample 2; must be 3 \(bicubic\)\.$"),
        ("config.json", {"text_config": {"use_bidirectional_attention": "vision"}}, r"bidirectional_attention vision"),
        ("config.json", {"text_config": {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
                                         "moe_intermediate_size": 8}}, r"enable_moe_block True; must be False: "),
        ("config.json", {"vision_config": {"num_key_value_heads": 1}}, r"num_key_value_heads 1; must be 2: of Gemma"),
        ("config.json", {"vision_config": None}, r"vision_config is missing"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(tmp_path, file, changes, words):
    path = save_gemma4(tmp_path) / file
    config = json.loads(path.read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=words):
        read_architecture(str(tmp_path))


def test_a_tokenizer_that_numbers_the_placeholder_otherwise_is_refused(tmp_path):
    path = save_gemma4(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "video_token_id": 5}))
    with pytest.raises(InputError, match=r"<\|video\|> is token \d+; the model's is 5\.$"):
        load_family(tmp_path)
