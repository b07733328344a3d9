"""What holds for every family, each on its tiny random checkpoint."""

import json
import shutil

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stts_cli import load
from stts_cli.cost import savings
from stts_cli.families import load_family
from stts_cli.families.random_model import read_architecture
from stts_cli.settings import Execution
from tests.families.oracles import encode, logits, positions
from tests.families.registry import EVERY, TINY
from tests.families.tiny import QUESTION


@pytest.fixture(scope="module", params=EVERY)
def tiny(request):
    return TINY[request.param]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("tiny"), scorer=True)


@pytest.fixture(scope="module")
def family(folder):
    return load_family(folder)


@pytest.fixture(scope="module")
def frames(tiny):
    size = (7, *tiny.size, 3)
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def worded(family, encoded, keep=None, **more):
    """Return the prompt of seven frames, half a second apart."""
    keep = encoded.keep_mask if keep is None else keep
    return family.build_prompt([k / 2 for k in range(7)], QUESTION, keep, layout=encoded.layout, **more)


@torch.no_grad()
def test_dropping_or_changing_a_visual_token_changes_the_logits(family, frames):
    encoded = encode(family, frames, keep_ratio=1.0)
    prompt = worded(family, encoded)
    whole = logits(family, prompt, encoded.visual_tokens)[0, -1]
    width = family.model.config.text_config.hidden_size
    for part in range(encoded.visual_tokens.shape[1] // width):  # the token, and what each tap adds
        changed = encoded.visual_tokens.clone()
        changed[7, part * width : (part + 1) * width] += 1.0
        assert (logits(family, prompt, changed)[0, -1] - whole).abs().max() > 1e-4
    keep = encoded.keep_mask.clone()
    keep[2, 3] = False
    short = worded(family, encoded, keep)
    assert (logits(family, short, encoded.visual_tokens[keep.flatten()])[0, -1] - whole).abs().max() > 1e-4
    with pytest.raises(ValueError, match="do not match"):
        logits(family, prompt, encoded.visual_tokens[:-1])


@pytest.mark.parametrize("scorer", ["learned", "temporal", "reference", "random", "tome", "none"])
@torch.no_grad()
def test_a_batch_of_videos_equals_each_alone(family, frames, scorer):
    videos = frames[:6].split([4, 2])
    settings = family.settings.override(keep_ratio=0.5, scorer=scorer)
    both = family.encode(family.preprocess(*videos), settings)
    if scorer != "random":
        alone = [encode(family, video, keep_ratio=0.5, scorer=scorer) for video in videos]
        assert torch.equal(both.keep_mask, torch.cat([a.keep_mask for a in alone]))
        expected = torch.cat([a.visual_tokens for a in alone])
        torch.testing.assert_close(both.visual_tokens, expected, atol=1e-4, rtol=1e-4)
    chunked = family.encode(family.preprocess(*videos), settings, execution=Execution(chunk_frames=2))
    torch.testing.assert_close(chunked.visual_tokens, both.visual_tokens, atol=1e-4, rtol=1e-4)


def test_the_scorer_learns_through_the_blocks(family, frames):
    settings = family.settings.override(keep_ratio=0.5)
    family.scorer.zero_grad()
    encoded = family.encode(family.preprocess(frames), settings, execution=Execution(checkpoint=True))
    encoded.visual_tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in family.scorer.parameters())
    family.model.zero_grad()


def test_two_questions_behind_one_prefix_are_two_fresh_runs(folder, clip_file):
    with pytest.warns(UserWarning, match="demonstration"):
        model = load(str(folder), frames=7, max_new_tokens=6, device="cpu")
    questions = [QUESTION, "\n\nHow many are there?"]
    video = model.encode(clip_file)
    assert len(video.keep_mask) == -(-7 // model.family.frames_per_unit)
    together = [model.ask(video, question) for question in questions]
    prefix = video.prefix
    alone = [model.ask(model.encode(clip_file), question) for question in questions]
    assert [one.text for one in together] == [one.text for one in alone]
    assert video.prefix is prefix
    assert together[0].savings == alone[0].savings
    scored = [model.ask(each, QUESTION, options=["red", "blue"]).options for each in (video, model.encode(clip_file))]
    assert scored[0] == scored[1]


def test_training_words_a_conversation_as_asking_does(family, frames):
    with torch.no_grad():
        encoded = encode(family, frames)
    seconds = [k / 2 for k in range(7)]
    for context in ("", "subtitle\n0.0 - 1.0 Hello\n"):
        prompt = worded(family, encoded, context=context, duration_s=75.2)
        prefix, *_ = family.video_prefix(seconds, encoded.keep_mask, encoded.layout, duration_s=75.2)
        ids, is_answer = family.conversation_ids([(QUESTION, "red"), ("Why?", "so")], context)
        assert prefix.tolist() + ids[: is_answer.index(True)] == prompt.input_ids[0].tolist()


def test_several_shards_load_as_one_file_does(folder, tmp_path):
    whole = load_family(folder)
    shutil.copytree(folder, tmp_path / "shards", ignore=shutil.ignore_patterns("model.safetensors"))
    whole.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    again = load_family(tmp_path / "shards").model.state_dict()
    assert again.keys() == whole.model.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in whole.model.state_dict().items())


def test_what_is_counted_without_the_weights_is_the_model(tiny, folder, family, frames, tmp_path):
    counted = read_architecture(str(folder))
    layout = family.layout_rule(*tiny.size, len(frames))
    assert counted.at(len(frames), tiny.size).sizes() == family.shape(layout)
    assert counted.num_parameters() == sum(p.numel() for p in family.model.parameters())
    assert (counted.prune_layer, counted.scorer) == (1, "learned")
    assert read_architecture(str(tiny.save(tmp_path))).prune_layer == 1, "of 6 blocks, as deep as in the paper"


@pytest.mark.parametrize(("keep_ratio", "scorer"), [(1.0, "none"), (0.5, "learned"), (0.3, "random")])
def test_flops_are_torchs_own_count(tiny, folder, frames, keep_ratio, scorer, monkeypatch):
    """Of the whole pass, from patches to the next token."""
    monkeypatch.setattr("stts_cli.pruning.attention._GROUP_OVERHEAD", 0)  # units of one length a group: no padding
    family = load_family(folder, attn_implementation="eager")
    if family.shape(family.layout_rule(*frames.shape[1:3], len(frames))).llm_experts:
        family.model.set_experts_implementation("eager")  # products of the others are not counted
    settings = family.settings.override(keep_ratio=keep_ratio, scorer=scorer)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoded = family.encode(family.preprocess(frames), settings, execution=Execution(kernel="eager"))
        prompt = worded(family, encoded)
        inputs = family.language_inputs(prompt.input_ids, prompt.mm_token_type_ids, [encoded.visual_tokens])
        last = family.model.model(**inputs, **positions(prompt), logits_to_keep=1).last_hidden_state[:, -1]
        family.model.get_output_embeddings()(last)  # not all stock classes leave the others out
    length = prompt.input_ids.shape[1]
    counted = savings.count(
        family.shape(encoded.layout), encoded.keep_mask.sum(1).tolist(), (prompt.dense_length, length),
        family.settings.prune_layer, scorer=scorer, packed_patches=encoded.packed_patches,
    )  # fmt: skip
    assert counter.get_total_flops() - tiny.padding_flops == counted.total[1]


@pytest.mark.slow
def test_the_commands_run(tiny, folder, clip_file, tmp_path, capsys):
    """Ask with a picture of what was kept, eval on the built-in world, profile with random weights and counted."""
    from stts_cli import cli

    (tmp_path / "small.yaml").write_text(json.dumps(tiny.shape))
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
