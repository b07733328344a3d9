"""SmolVLM2 through finetune: its losses are the stock model's, and every kind of training leaves what loads."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from stts_cli.families import load_family
from stts_cli.training.model import TrainingModel
from stts_cli.training.settings import FinetuneSettings
from tests.families.tiny_smolvlm import save_smolvlm
from tests.training.conftest import TALKS, noise_clip

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
