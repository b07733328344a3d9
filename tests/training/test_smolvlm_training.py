"""SmolVLM2 through finetune: its losses are the stock model's, and every kind of training leaves what loads."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional

from stts_cli import load
from stts_cli.families import load_family
from stts_cli.training.finetune import finetune
from stts_cli.training.model import TrainingModel, part_of
from stts_cli.training.settings import FinetuneSettings
from tests.families.tiny_smolvlm import save_smolvlm
from tests.training.conftest import TALKS, base_settings, noise_clip

CLOSE = {"rtol": 1e-5, "atol": 1e-4}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save_smolvlm(tmp_path_factory.mktemp("smolvlm"), scorer=True)


@pytest.fixture
def family(small):
    return load_family(small)


def clip_of(num_frames, talks, seed):
    clip = noise_clip(num_frames, talks, seed, size=(24, 24))
    return dataclasses.replace(clip, duration_s=9.5)


def alone(family, clip, talk, **pruning):
    """Return the summed loss of one conversation by the stock model and its own causal mask."""
    encoded = family.encode(family.preprocess(clip.frames), family.settings.override(**pruning))
    prefix, *_ = family.video_prefix(list(clip.timestamps_s), encoded.keep_mask, duration_s=clip.duration_s)
    text = f"\n\n{talk.subtitles}" if talk.subtitles else ""
    ids = family.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    is_answer = [False] * len(ids)
    lead = "" if text else "\n\n"
    for question, answer in talk.turns:
        for words, said in ((f"{lead}{question}<end_of_utterance>\nAssistant:", False), (f" {answer}", True)):
            new = family.tokenizer(words, add_special_tokens=False)["input_ids"]
            ids, is_answer = ids + new, is_answer + [said] * len(new)
        ids, is_answer = [*ids, family.tokenizer.eos_token_id], [*is_answer, True]
        lead = "\nUser: "
    whole = torch.cat([prefix, torch.tensor(ids)])
    inputs = family.language_inputs(whole[None], torch.zeros_like(whole)[None], [encoded.visual_tokens])
    wanted = torch.tensor([False] * len(prefix) + is_answer)
    places = wanted.nonzero()[:, 0] - 1
    return functional.cross_entropy(family.model(**inputs).logits[0, places], whole[wanted], reduction="sum")


@pytest.mark.parametrize("pruning", [{"keep_ratio": 1.0, "scorer": "none"}, {"keep_ratio": 0.5, "scorer": "learned"}])
@pytest.mark.parametrize("seq_len", [None, 10_000])
@torch.no_grad()
def test_packed_losses_are_those_of_each_conversation_alone(family, pruning, seq_len):
    clips = [clip_of(4, TALKS[:3], 1), clip_of(2, TALKS[3:4], 2)]
    model = TrainingModel(family, FinetuneSettings(seq_len=seq_len))
    separate = torch.stack([alone(family, clip, talk, **pruning) for clip in clips for talk in clip.conversations])
    step = model(clips, pruning["keep_ratio"], scorer=pruning["scorer"])
    torch.testing.assert_close(step.lm_sum, separate.sum(), **CLOSE)


def test_a_scorer_step_lowers_the_temporal_loss(family):
    model = TrainingModel(family, FinetuneSettings())
    clip = clip_of(6, TALKS[:1], 3)
    optimizer = torch.optim.AdamW(family.scorer.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        step = model([clip], 0.5, temporal_only=True)
        losses.append(step.temporal_sum.item())
        optimizer.zero_grad()
        step.temporal_sum.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_parameters_belong_to_their_parts(family):
    names = [name for name, _ in TrainingModel(copy.deepcopy(family)).named_parameters()]
    parts = {part: [n for n in names if part_of(n, family.part_names) == part] for part in ("vit", "connector", "llm")}
    assert parts["connector"] == ["stock.model.connector.modality_projection.proj.weight"]
    assert all("vision_model" in n for n in parts["vit"])
    assert all("text_model" in n or "lm_head" in n for n in parts["llm"])
    assert all(parts.values())


@pytest.fixture(scope="module")
def trained(small, videos_jsonl, tmp_path_factory):
    """The result folders of two steps of each kind, by kind."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in ("scorer", "lora", "full"):
        settings = base_settings(small, videos_jsonl, train=kind, steps=2, eval_videos=1, lora_rank=2)
        finetune(settings, folder / kind, device="cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scorer", "lora", "full"])
def test_a_result_answers_and_is_the_base_but_for_what_was_trained(trained, kind, small, clip_file):
    with pytest.warns(UserWarning, match="demonstration"):
        model, before = (load(str(folder), frames=4, max_new_tokens=3) for folder in (trained / kind, small))
    model.ask(model.encode(clip_file), "What is it?")
    ours, theirs = model.family.model.state_dict(), before.family.model.state_dict()
    moved = {name for name, value in theirs.items() if not torch.equal(ours[name], value)}
    assert bool(moved) == (kind != "scorer")
    if kind == "lora":
        assert all(name.endswith("_proj.weight") and "text_model" in name for name in moved)
    if kind == "full":
        assert {part_of(name, model.family.part_names) for name in moved} == {"vit", "connector", "llm"}
    pairs = zip(model.family.scorer.parameters(), before.family.scorer.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert model.family.frames == before.family.frames
    assert model.family.layout == before.family.layout
