"""Qwen3-VL through finetune: its losses are the stock model's, and every kind of training leaves what loads."""

import copy

import pytest
import torch
from torch.nn import functional

from stts_cli import load
from stts_cli.families import load_family
from stts_cli.training.finetune import finetune
from stts_cli.training.model import TrainingModel, part_of
from stts_cli.training.settings import FinetuneSettings
from tests.families.tiny_qwen3_vl import save_qwen3_vl
from tests.training.conftest import TALKS, base_settings, noise_clip

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
    assert parts["connector"] == [n for n in names if "merger" in n]
    assert len(parts["connector"]) == 3 * 6
    assert all(".visual." in n for n in parts["vit"])
    assert all("language_model" in n or "lm_head" in n for n in parts["llm"])
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
        assert all(name.endswith("_proj.weight") and "language_model" in name for name in moved)
    if kind == "full":
        assert {part_of(name, model.family.part_names) for name in moved} == {"vit", "connector", "llm"}
    pairs = zip(model.family.scorer.parameters(), before.family.scorer.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert model.family.frames == before.family.frames
    assert model.family.layout_rule == before.family.layout_rule
