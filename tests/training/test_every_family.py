"""Every family through finetune, each on its tiny random checkpoint."""

import copy

import pytest
import torch

from stts_cli import load
from stts_cli.families import load_family
from stts_cli.training.finetune import finetune
from stts_cli.training.model import TrainingModel, part_of
from stts_cli.training.settings import FinetuneSettings
from tests.families.registry import EVERY, TINY
from tests.training.conftest import TALKS, base_settings, noise_clip


@pytest.fixture(scope="module", params=EVERY)
def tiny(request):
    return TINY[request.param]


@pytest.fixture(scope="module")
def small(tiny, tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("small"), scorer=True)


def belongs(name, words):
    return any(word in name for word in words.split(" or "))


def test_a_scorer_step_lowers_the_temporal_loss(tiny, small):
    family = load_family(small)
    model = TrainingModel(family, FinetuneSettings())
    clip = noise_clip(6, TALKS[:1], 3, size=tiny.size)
    optimizer = torch.optim.AdamW(family.scorer.parameters(), lr=3e-4)
    losses = []
    for _ in range(4):
        step = model([clip], 0.5, temporal_only=True)
        losses.append(step.temporal_sum.item())
        optimizer.zero_grad()
        step.temporal_sum.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@torch.no_grad()
def test_conversations_apart_lose_what_they_lose_in_one_row(tiny, small, monkeypatch):
    family = load_family(small)
    if "linear_attention" in (getattr(family.model.config.text_config, "layer_types", None) or ()):
        pytest.skip("a state that every token changes heeds no mask")
    clips = [noise_clip(4, TALKS[:3], 1, size=tiny.size), noise_clip(4, TALKS[3:4], 2, size=tiny.size)]
    monkeypatch.setattr(type(family), "shared_rows", True)
    together = TrainingModel(family, FinetuneSettings(seq_len=10_000))(clips, 0.5)
    monkeypatch.setattr(type(family), "shared_rows", False)
    apart = TrainingModel(family, FinetuneSettings(seq_len=10_000))(clips, 0.5)
    torch.testing.assert_close(apart.lm_sum, together.lm_sum, rtol=1e-4, atol=1e-3)
    assert apart.num_tokens == together.num_tokens
    assert apart.right.tolist() == together.right.tolist()


def test_parameters_belong_to_their_parts(tiny, small):
    family = load_family(small)
    names = [name for name, _ in TrainingModel(copy.deepcopy(family)).named_parameters()]
    parts = {part: [n for n in names if part_of(n, family.part_names) == part] for part in tiny.parts}
    assert all(parts.values())
    assert all(belongs(name, tiny.parts[part]) for part, held in parts.items() for name in held)
    assert parts["connector"] == [n for n in names if belongs(n, tiny.parts["connector"])]


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
def test_a_result_answers_and_is_the_base_but_for_what_was_trained(tiny, trained, kind, small, clip_file):
    with pytest.warns(UserWarning, match="demonstration"):
        model, before = (load(str(folder), frames=4, max_new_tokens=3) for folder in (trained / kind, small))
    model.ask(model.encode(clip_file), "What is it?")
    ours, theirs = model.family.model.state_dict(), before.family.model.state_dict()
    moved = {name for name, value in theirs.items() if not torch.equal(ours[name], value)}
    assert bool(moved) == (kind != "scorer")
    log = (trained / kind / "log.jsonl").read_text()
    assert ("each has its own, a video is read once for each" in log) == (not before.family.shared_rows)
    has_experts = bool(before.family.shape(before.family.layout_rule(*tiny.size, 4)).llm_experts)
    assert ("not its experts" in log) == (has_experts and kind == "lora")
    if kind == "lora":
        linear = (
            "_proj.weight",
            "gate.weight",
            "projection.weight",
            "in_proj_qkv.weight",
            *(f"in_proj_{part}.weight" for part in "zba"),
        )
        assert all(name.endswith(linear) and belongs(name, tiny.parts["llm"]) for name in moved)
    if kind == "full":
        assert {part_of(name, model.family.part_names) for name in moved} == {"vit", "connector", "llm"}
    pairs = zip(model.family.scorer.parameters(), before.family.scorer.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert model.family.frames == before.family.frames
    assert model.family.layout_rule == before.family.layout_rule
