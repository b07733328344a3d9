"""Oracles for SmolVLM2: the stock model, what its processor made, and a slow path that masks instead of dropping."""

import json

import numpy as np
import pytest
import torch

from stts_cli.config.smolvlm import number_words
from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.media.reader import read_source
from stts_cli.media.resize import Resizer
from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import patch_window
from stts_cli.settings import default_prune_layer, num_dropped
from tests.families.oracles import encode, logits, masked
from tests.families.tiny_smolvlm import IMAGE_PROCESSOR, QUESTION, STORED, TIMES, given_frames, save_smolvlm

SECONDS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_smolvlm(tmp_path_factory.mktemp("smolvlm"), scorer=True)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def family(request, folder):
    return load_family(folder, attn_implementation=request.param)


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 256, (6, 24, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def pixels_of(family, frames):
    """Return (1, T, 3, H, W) as the stock processor does for frames of the model's size."""
    mean, std = (255 * torch.tensor(getattr(family.frames, name)) for name in ("mean", "std"))
    return ((frames.float() - mean) / std).permute(0, 3, 1, 2)[None]


def test_numbers_are_the_words_of_num2words():
    words = {0: "zero", 5: "five", 13: "thirteen", 40: "forty", 64: "sixty-four", 100: "one hundred"}
    words |= {101: "one hundred and one", 384: "three hundred and eighty-four", 1000: "one thousand"}
    words |= {1001: "one thousand and one", 1024: "one thousand and twenty-four"}
    words |= {1234: "one thousand, two hundred and thirty-four"}
    assert {number: number_words(number) for number in words} == words


def test_the_prompt_is_what_the_stock_processor_writes(family, stored):
    keep = torch.ones(3, 9, dtype=torch.bool)
    prompt = family.build_prompt(TIMES, QUESTION, keep, duration_s=75.2)
    assert prompt.input_ids[0].tolist() == stored["input_ids"].tolist()
    assert family.tokenizer.decode(prompt.input_ids[0, prompt.num_prefix - 1]) == "<fake_token_around_image>"
    assert prompt.dense_length == len(stored["input_ids"])
    whole = family.build_prompt(TIMES, QUESTION, keep)
    assert "0:01:01 [H:MM:SS]" in family.tokenizer.decode(whole.input_ids[0]), "the last frame's time stands in"
    keep[1:] = False
    short = family.build_prompt(TIMES, QUESTION, keep, duration_s=75.2)
    assert short.input_ids.shape[1] == prompt.dense_length - 18


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
    assert torch.equal(encoded.visual_tokens, torch.cat(family.model.get_image_features(pixels).pooler_output))
    stock = family.model(input_ids=prompt.input_ids, pixel_values=pixels).logits
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), stock)


@torch.no_grad()
def masked_logits(family, frames, keep_ratio):
    """The slow path: per-unit stock blocks on kept patches, and every placeholder in the prompt, the dropped masked."""
    model, table = family.model.model, family.window_index(family.layout)
    hidden = model.vision_model.embeddings(
        pixel_values=pixels_of(family, frames)[0], patch_attention_mask=torch.ones(len(frames), 6, 6, dtype=torch.bool)
    )
    for block in family.blocks[:2]:
        hidden = block(hidden, attention_mask=None)
    scores = family.scorer(hidden, table, [len(frames)])
    keep = select_windows(scores, [num_dropped(len(frames), len(table), keep_ratio)], [len(frames)])
    bias = log_score_bias(scores, table, family.layout, [len(frames)])[:, None, None].expand(-1, -1, 36, -1)
    hidden = family.blocks[2](hidden, attention_mask=bias)
    visual = torch.zeros(len(frames), 9, 16)
    for t, kept in enumerate(keep[:, patch_window(table, 36)]):
        if not kept.any():
            continue
        unit = hidden[t : t + 1, kept]
        for block in family.blocks[3:]:
            unit = block(unit, attention_mask=None)
        whole = torch.zeros(1, 36, 16)
        whole[:, kept] = model.vision_model.post_layernorm(unit)
        visual[t] = model.connector(whole)[0]
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
    torch.testing.assert_close(encoded.visual_tokens, visual, atol=1e-5, rtol=1e-5)
    prompt = family.build_prompt(SECONDS, QUESTION, encoded.keep_mask)
    assert prompt.dense_length - prompt.input_ids.shape[1] == int((~keep).sum())
    torch.testing.assert_close(logits(family, prompt, encoded.visual_tokens)[0], expected, atol=1e-4, rtol=1e-4)


def test_a_part_of_a_video_is_worded_by_its_own_length(folder, clip_file):
    from stts_cli.engine.model import VideoModel
    from stts_cli.media.source import Source
    from stts_cli.settings import Arm

    model = VideoModel(load_family(folder), Arm("", str(folder), frames=4))
    clip = read_source(model.request(Source(clip_file, 1.0, 4.5)))
    text = model.family.tokenizer.decode(model.encode(clip).prompt("?").input_ids[0])
    assert "from a 0:00:03 [H:MM:SS] video" in text


@torch.no_grad()
def test_an_option_is_scored_with_the_blank_that_stands_before_an_answer(folder, family, clip_file):
    """Its log-likelihood is the stock model's for the whole conversation, with the end of the answer."""
    from stts_cli.engine.model import VideoModel
    from stts_cli.settings import Arm

    video = (model := VideoModel(family, Arm("", str(folder), frames=4))).encode(clip_file)
    found = {option.text: option.log_likelihood for option in model.ask(video, QUESTION, options=["red", "no"]).options}
    prefix, *_ = family.video_prefix(video.timestamps_s, video.keep_mask, duration_s=video.clip.duration_s)
    for answer in ("red", "no"):
        ids, is_answer = family.conversation_ids([(QUESTION, answer)])
        assert family.tokenizer.decode(ids).startswith(f"\n\n{QUESTION}<end_of_utterance>\nAssistant: {answer}<end_of_")
        whole = torch.cat([prefix, torch.tensor(ids)])[None]
        inputs = family.language_inputs(whole, torch.zeros_like(whole), [video.tokens.visual_tokens])
        said = family.model(**inputs).logits[0].log_softmax(-1)[-len(ids) - 1 : -1]
        said = said[range(len(ids)), ids][torch.tensor(is_answer)]
        assert float(said.sum()) == pytest.approx(found[answer], abs=1e-4)


def test_a_checkpoint_that_names_no_layer_is_pruned_as_deep_as_in_the_paper(tmp_path):
    plain = load_family(save_smolvlm(tmp_path))
    assert plain.settings.prune_layer == 1
    assert [default_prune_layer(n) for n in (6, 12, 24, 25, 27, 32)] == [1, 1, 3, 3, 3, 4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_image_size": {"longest_edge": 20}}, "max_image_size 20; must make a multiple of 2 patches of 4 px"),
        ({"resample": 0}, r"resample 0; must be 1 \(lanczos\)"),
        ({"size": "big"}, r"preprocessor_config\.json cannot be loaded"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(tmp_path, changes, words):
    folder = save_smolvlm(tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps({**IMAGE_PROCESSOR, **changes}))
    with pytest.raises(InputError, match=words):
        load_family(folder)


def test_where_torch_has_no_lanczos_filter_it_is_bicubic_as_in_torchvision(monkeypatch):
    frame = given_frames()[0][0]
    bicubic = Resizer((24, 24), "antialias-bicubic-96")(frame)
    interpolate = torch.nn.functional.interpolate

    def older(planes, size, mode, **options):
        if mode == "lanczos":
            raise NotImplementedError("no such mode")
        return interpolate(planes, size, mode=mode, **options)

    assert not np.array_equal(Resizer((24, 24), "antialias-lanczos-96")(frame), bicubic)
    monkeypatch.setattr("torch.nn.functional.interpolate", older)
    assert np.array_equal(Resizer((24, 24), "antialias-lanczos-96")(frame), bicubic)
