"""Oracles for SmolVLM2: the stock model, what its processor made, and a slow path that masks instead of dropping."""

import json
import shutil

import numpy as np
import pytest
import torch

from stts_cli.config.smolvlm import number_words
from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.families.random_model import read_architecture
from stts_cli.media.reader import read_source
from stts_cli.media.resize import Resizer
from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import patch_window
from stts_cli.settings import Execution, default_prune_layer, num_dropped
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


def encode(family, frames, **pruning):
    return family.encode(family.preprocess(frames), family.settings.override(**pruning))


def logits(family, prompt, visual_tokens, **more):
    inputs = family.language_inputs(prompt.input_ids, prompt.mm_token_type_ids, [visual_tokens])
    return family.model(**inputs, **more).logits


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
def test_dropping_or_changing_a_visual_token_changes_the_logits(family, frames):
    encoded = encode(family, frames, keep_ratio=1.0)
    prompt = family.build_prompt(SECONDS, QUESTION, encoded.keep_mask)
    whole = logits(family, prompt, encoded.visual_tokens)[0, -1]
    changed = encoded.visual_tokens.clone()
    changed[7] += 1.0
    assert (logits(family, prompt, changed)[0, -1] - whole).abs().max() > 1e-4
    keep = encoded.keep_mask.clone()
    keep[2, 3] = False
    short = family.build_prompt(SECONDS, QUESTION, keep)
    assert (logits(family, short, encoded.visual_tokens[keep.flatten()])[0, -1] - whole).abs().max() > 1e-4
    with pytest.raises(ValueError, match="do not match"):
        logits(family, prompt, encoded.visual_tokens[:-1])


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
    ids = prompt.input_ids
    present = torch.ones_like(ids, dtype=torch.bool)
    present[ids == family.model.config.image_token_id] = keep.flatten()
    length = ids.shape[1]
    seen = (torch.ones(length, length, dtype=torch.bool).tril() & present) | torch.eye(length, dtype=torch.bool)
    mask = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
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


@pytest.mark.parametrize("scorer", ["learned", "temporal", "reference", "random", "tome", "none"])
@torch.no_grad()
def test_batch_of_videos_equals_each_alone(family, frames, scorer):
    videos = frames.split([4, 2])
    both = family.encode(family.preprocess(*videos), family.settings.override(keep_ratio=0.5, scorer=scorer))
    alone = [encode(family, video, keep_ratio=0.5, scorer=scorer) for video in videos]
    if scorer != "random":
        assert torch.equal(both.keep_mask, torch.cat([a.keep_mask for a in alone]))
        expected = torch.cat([a.visual_tokens for a in alone])
        torch.testing.assert_close(both.visual_tokens, expected, atol=1e-4, rtol=1e-4)
    chunked = family.encode(
        family.preprocess(*videos), family.settings.override(keep_ratio=0.5, scorer=scorer),
        execution=Execution(chunk_frames=2),
    )  # fmt: skip
    torch.testing.assert_close(chunked.visual_tokens, both.visual_tokens, atol=1e-4, rtol=1e-4)


def test_two_questions_behind_one_prefix_are_two_fresh_runs(folder, clip_file):
    from stts_cli import load

    with pytest.warns(UserWarning, match="demonstration"):
        model = load(str(folder), frames=6, max_new_tokens=6, device="cpu")
    questions = [QUESTION, "\n\nHow many are there?"]
    video = model.encode(clip_file)
    together = [model.ask(video, question) for question in questions]
    prefix = video.prefix
    alone = [model.ask(model.encode(clip_file), question) for question in questions]
    assert [one.text for one in together] == [one.text for one in alone]
    assert video.prefix is prefix
    assert together[0].savings == alone[0].savings
    scored = [model.ask(each, QUESTION, options=["red", "blue"]).options for each in (video, model.encode(clip_file))]
    assert scored[0] == scored[1]


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


def test_training_words_a_conversation_as_asking_does(family):
    keep = torch.ones(3, 9, dtype=torch.bool)
    for context in ("", "subtitle\n0.0 - 1.0 Hello\n"):
        prompt = family.build_prompt(TIMES, QUESTION, keep, context=context, duration_s=75.2)
        prefix, *_ = family.video_prefix(TIMES, keep, duration_s=75.2)
        ids, is_answer = family.conversation_ids([(QUESTION, "red"), ("Why?", "so")], context)
        asked = prefix.tolist() + ids[: is_answer.index(True)]
        assert asked == prompt.input_ids[0].tolist()


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


def test_several_shards_load_as_one_file_does(folder, tmp_path):
    whole = load_family(folder)
    shutil.copytree(folder, tmp_path / "shards", ignore=shutil.ignore_patterns("model.safetensors"))
    whole.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    again = load_family(tmp_path / "shards").model.state_dict()
    assert again.keys() == whole.model.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in whole.model.state_dict().items())


def test_what_is_counted_without_the_weights_is_the_model(folder, family, tmp_path):
    counted = read_architecture(str(folder))
    assert counted.sizes() == family.shape()
    assert counted.num_parameters() == sum(p.numel() for p in family.model.parameters())
    assert (counted.prune_layer, counted.scorer) == (1, "learned")
    assert read_architecture(str(save_smolvlm(tmp_path))).prune_layer == 1


@pytest.mark.slow
def test_the_commands_run(folder, clip_file, tmp_path, capsys):
    """Ask with a picture of what was kept, eval on the built-in world, profile with random weights and counted."""
    from stts_cli import cli

    small = {
        "model_type": "smolvlm", "description": "small", "prune_layer": 1, "keep_ratio": 0.5, "scale_factor": 2,
        "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 5,
                          "image_size": 32, "patch_size": 8},
        "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1,
                        "head_dim": 16, "num_hidden_layers": 2, "vocab_size": 300, "max_position_embeddings": 4096},
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(json.dumps(small))
    model = ["--model", str(folder), "--frames", "4", "--device", "cpu"]
    shape = ["--shape", str(tmp_path / "small.yaml"), "--frames", "4"]
    documents = []
    for words in (
        ["ask", str(clip_file), QUESTION, "How many?", *model, "--save-kept", str(tmp_path / "kept.png"), "--json"],
        ["eval", "--bench", "shapes", "--limit", "3", *model, "--workers", "0", "--json"],
        ["profile", *shape, "--device", "cpu", "--repeats", "1", "--no-memory", "--json"],
        ["profile", *shape, "--analytic", "--json"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0, words
        documents.append(json.loads(capsys.readouterr().out))
    assert (tmp_path / "kept.png").is_file()
    measured, counted = (document["points"][0] for document in documents[2:])
    assert measured["tokens"] == counted["tokens"]
    assert measured["flops"]["LLM prefill"] == counted["flops"]["LLM prefill"]
