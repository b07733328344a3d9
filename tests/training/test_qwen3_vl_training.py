"""Qwen3-VL through finetune: its losses are the stock model's, and every kind of training leaves what loads."""

import pytest
import torch
from torch.nn import functional

from stts_cli.families import load_family
from stts_cli.training.model import TrainingModel
from stts_cli.training.settings import FinetuneSettings
from tests.families.tiny_qwen3_vl import save_qwen3_vl
from tests.training.conftest import TALKS, noise_clip

CLOSE = {"rtol": 1e-5, "atol": 1e-4}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"), scorer=True)


@pytest.fixture
def family(small):
    return load_family(small)


def clip_of(num_frames, talks, seed, size=(16, 24)):
    return noise_clip(num_frames, talks, seed, size=size)


def alone(family, clip, talk, **pruning):
    """Return the summed loss of one conversation by the stock model, its own causal mask and stock's positions."""
    encoded = family.encode(family.preprocess(clip.frames), family.settings.override(**pruning))
    layout, keep = encoded.layout, encoded.keep_mask
    prefix = family.video_prefix(list(clip.timestamps_s), keep, layout)
    text = talk.subtitles or ""
    ids = family.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    is_answer = [False] * len(ids)
    lead = "<|vision_end|>"
    for question, answer in talk.turns:
        for words, said in ((f"{lead}{question}<|im_end|>\n<|im_start|>assistant\n", False), (answer, True)):
            new = family.tokenizer(words, add_special_tokens=False)["input_ids"]
            ids, is_answer = ids + new, is_answer + [said] * len(new)
        ids, is_answer = [*ids, family.tokenizer.eos_token_id], [*is_answer, True]
        lead = "\n<|im_start|>user\n"
    dense = family.video_prefix(list(clip.timestamps_s), torch.ones_like(keep), layout).ids
    whole = torch.cat([dense, torch.tensor(ids)])[None]
    is_video = whole == family.model.config.video_token_id
    grid = torch.tensor([[len(keep), *layout.grid]])
    positions, _ = family.model.model.get_rope_index(whole, 2 * is_video.int(), video_grid_thw=grid)
    left = torch.ones_like(is_video[0])
    left[is_video[0]] = keep.flatten()
    whole, is_video, positions = whole[:, left], is_video[:, left], positions[..., left]
    assert torch.equal(prefix.ids, whole[0, : len(prefix.ids)])
    inputs = family.language_inputs(whole, is_video.long(), [encoded.visual_tokens])
    wanted = torch.tensor([False] * len(prefix.ids) + is_answer)
    places = wanted.nonzero()[:, 0] - 1
    logits = family.model(**inputs, position_ids=positions).logits
    return functional.cross_entropy(logits[0, places], whole[0, wanted], reduction="sum")


@pytest.mark.parametrize("pruning", [{"keep_ratio": 1.0, "scorer": "none"}, {"keep_ratio": 0.5, "scorer": "learned"}])
@pytest.mark.parametrize("seq_len", [None, 10_000])
@torch.no_grad()
def test_packed_losses_are_those_of_each_conversation_alone(family, pruning, seq_len):
    clips = [clip_of(5, TALKS[:3], 1), clip_of(2, TALKS[3:4], 2), clip_of(4, TALKS[:1], 4, size=(24, 32))]
    model = TrainingModel(family, FinetuneSettings(seq_len=seq_len))
    separate = torch.stack([alone(family, clip, talk, **pruning) for clip in clips for talk in clip.conversations])
    step = model(clips, pruning["keep_ratio"], scorer=pruning["scorer"])
    torch.testing.assert_close(step.lm_sum, separate.sum(), **CLOSE)
    assert model.count(clips)[1] == 2 * 6 + 0 + 1 * 12, "windows that are scored, of units of two frames"
    assert step.sums()[5] == 3 * 6 + 1 * 12 + 2 * 12, "the second is made as large as the third"
