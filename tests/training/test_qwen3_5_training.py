"""Qwen3.5 through finetune: its losses are the stock model's, whose linear attention heeds no mask."""

import pytest
import torch
from torch.nn import functional

from stts_cli.families import load_family
from stts_cli.training.model import TrainingModel
from stts_cli.training.settings import FinetuneSettings
from tests.families.tiny_qwen3_5 import save_qwen3_5
from tests.training.conftest import TALKS, noise_clip


def alone(family, clip, talk):
    """Return the summed loss of one conversation by the stock model and its own masks."""
    encoded = family.encode(family.preprocess(clip.frames), family.settings.override(keep_ratio=0.5))
    prefix = family.video_prefix(list(clip.timestamps_s), encoded.keep_mask, encoded.layout, clip.duration_s)
    ids, is_answer = talk.tokens(family)
    whole, types = torch.cat([prefix.ids, torch.tensor(ids)]), torch.zeros(len(prefix.ids) + len(ids)).long()
    types[: len(prefix.ids)] = prefix.is_visual
    behind = prefix.positions[..., -1:] + 1 + torch.arange(len(ids))
    inputs = family.language_inputs(whole[None], types[None], [encoded.visual_tokens])
    positions = torch.cat([prefix.positions, behind], -1)[:, None]
    hidden = family.model.model(**inputs, position_ids=positions).last_hidden_state[0]
    wanted = torch.tensor([False] * len(prefix.ids) + list(is_answer))
    said = family.model.lm_head(hidden[wanted.nonzero()[:, 0] - 1])
    return functional.cross_entropy(said, whole[wanted], reduction="sum")


@pytest.mark.parametrize("seq_len", [None, 10_000])
@pytest.mark.parametrize("model_type", ["qwen3_5", "qwen3_5_moe"])
@torch.no_grad()
def test_losses_are_those_of_each_conversation_alone(tmp_path, monkeypatch, model_type, seq_len):
    family = load_family(save_qwen3_5(tmp_path, scorer=True, model_type=model_type))
    clips = [noise_clip(4, TALKS[:3], 1, size=(16, 40)), noise_clip(4, TALKS[3:4], 2, size=(16, 40))]
    separate = torch.stack([alone(family, clip, talk) for clip in clips for talk in clip.conversations]).sum()
    model = TrainingModel(family, FinetuneSettings(seq_len=seq_len))
    torch.testing.assert_close(model(clips, 0.5).lm_sum, separate, rtol=1e-5, atol=1e-4)
    monkeypatch.setattr(type(family), "shared_rows", True)
    assert abs(model(clips, 0.5).lm_sum - separate) > 0.1, "its state would carry one conversation into the next"
