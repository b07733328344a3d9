"""The embedded model's training: the lean passes against the stock modules, packed questions against single ones."""

import json

import numpy as np
import pytest
import torch

from stts_cli.shapes.questions import ask
from stts_cli.shapes.world import make_scene
from stts_cli.training import lean
from stts_cli.training.nano_joint import encode, new_scorer, train_joint
from stts_cli.training.nano_language import (
    LabelEmbedding,
    answer_logits,
    draw_keep,
    embed,
    exact_matches,
    train_language,
)
from stts_cli.training.nano_model import build_nano
from stts_cli.training.nano_tokenizer import build_tokenizer
from stts_cli.training.nano_vision import fit_connector, gated_features, patchify, vit_features, windows
from stts_cli.training.optim import MasterOptimizer, is_hidden
from stts_cli.training.world_batches import Clip, PromptWriter, draw_clip


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_nano(tokenizer).eval()


def _clip(frames=4, questions=3, seed=0):
    return draw_clip(np.random.default_rng(seed), "train", frames, questions, False)


def _batch(tokenizer, *clips):
    return PromptWriter(tokenizer).batch(list(clips), [np.full(len(c.times_s), 16) for c in clips])


def test_tokenizer_survives_any_text_and_knows_every_answer(tokenizer):
    for text in ("Où est 🐈?\n\t x", "What color is the red star?", "<|im_start|>user\nhi<|im_end|>\n"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    for k in range(40):
        for question in ask(make_scene("train", k)):
            assert len(tokenizer(question.answer, add_special_tokens=False).input_ids) <= 3
    assert len(tokenizer(" 12.5 ", add_special_tokens=False).input_ids) == 2


def test_lean_language_model_equals_the_stock_one(model, tokenizer):
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    batch = _batch(tokenizer, _clip(questions=1))
    visual = torch.randn(int(batch.is_placeholder.sum()), 192)
    with torch.no_grad():
        stock = model(
            input_ids=batch.input_ids,
            mm_token_type_ids=batch.is_visual.long(),
            mm_encoder_outputs={"video": BaseModelOutputWithPooling(pooler_output=(visual,))},
        ).logits
        bias = lean.attention_bias(batch.block_ids, batch.is_visual, torch.float32)
        hidden = lean.language_model(model.model.language_model, embed(model, batch, visual), batch.position_ids, bias)
        torch.testing.assert_close(model.lm_head(hidden), stock, atol=2e-5, rtol=1e-4)


def test_lean_vit_and_connector_equal_the_stock_ones(model):
    patches = patchify(np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8), torch.float32)
    table = windows(torch.arange(64, dtype=torch.float32).view(1, 64, 1))[0, :, :, 0].long()
    pooling = torch.cat([table, table + 64])
    with torch.no_grad():
        stock = model.get_video_features(patches, pooling, torch.tensor([[2, 4, 4]])).pooler_output[0]
        gated = gated_features(model, windows(vit_features(model, patches)).flatten(0, 1))
        lean_visual = model.model.multi_modal_projector.image_projector.down_proj(gated)
    torch.testing.assert_close(lean_visual, stock, atol=2e-5, rtol=1e-4)


def test_packed_questions_equal_single_ones(model, tokenizer):
    clip = _clip(questions=3)
    packed = _batch(tokenizer, clip, _clip(frames=2, seed=1))
    per_video = packed.is_placeholder.sum(1).tolist()
    visual = torch.randn(sum(per_video), 192)
    with torch.no_grad():
        together, _ = answer_logits(model, packed, visual)
        parts = []
        for question in clip.questions:
            single = _batch(tokenizer, Clip(clip.scene, clip.times_s, (question,)))
            parts.append(answer_logits(model, single, visual[: per_video[0]])[0])
    alone = torch.cat(parts)
    torch.testing.assert_close(together[: len(alone)], alone, atol=2e-5, rtol=1e-4)


def test_exact_match_needs_every_token(model, tokenizer):
    clip = _clip(questions=3)
    batch = _batch(tokenizer, clip)
    wanted = batch.labels[batch.labels >= 0]
    logits = torch.nn.functional.one_hot(wanted, len(tokenizer)).float()
    assert [ok for _, ok in exact_matches(logits, batch, [clip])] == [True] * len(clip.questions)
    logits[-1] = logits[-1].roll(1)
    assert [ok for _, ok in exact_matches(logits, batch, [clip])][-1] is False


def test_the_prompt_is_the_familys_own(model, tokenizer, tmp_path):
    from stts_cli.families import load_family
    from stts_cli.training.nano_export import export_nano

    scorer = new_scorer(model.config.vision_config)
    export_nano(build_nano(tokenizer), scorer, tokenizer, tmp_path, keep_ratio=0.5, prune_layer=3, training={})
    family = load_family(tmp_path)
    assert family.is_demonstration
    assert family.scorer is not None
    clip = _clip(frames=5, questions=1)
    keep = torch.rand(len(clip.times_s), 16) < 0.5
    keep[0] = True
    prompt = family.build_prompt(clip.times_s.tolist(), clip.questions[0].text, keep)
    batch = PromptWriter(tokenizer).batch([clip], [keep.sum(1).numpy()])
    length = prompt.input_ids.shape[1]  # the training row goes on with the answer
    assert batch.input_ids[0, :length].tolist() == prompt.input_ids[0].tolist()
    assert batch.is_visual[0, :length].long().tolist() == prompt.mm_token_type_ids[0].tolist()
    frames = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    torch.testing.assert_close(
        family.preprocess(torch.from_numpy(frames)), patchify(frames, torch.float32), atol=1e-6, rtol=0
    )


def test_gradients_reach_everything_that_stage_four_trains(tokenizer):
    model = build_nano(tokenizer)
    scorer = new_scorer(model.config.vision_config).to(torch.bfloat16)
    model.to(torch.bfloat16)
    clips = [_clip(8, 4, seed=k) for k in range(2)]
    visual, kept, auxiliary = encode(model, scorer, clips, 0.5, np.random.default_rng(0))
    assert sum(int(k.sum()) for k in kept) == len(visual)
    assert len(visual) < sum(len(c.times_s) for c in clips) * 16
    logits, wanted = answer_logits(model, PromptWriter(tokenizer).batch(clips, kept), visual)
    torch.nn.functional.cross_entropy(logits, wanted).backward()  # without the temporal loss
    assert auxiliary > 0
    for name, parameter in [*model.named_parameters(), *scorer.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or "k_proj.bias" in name, name


def test_fit_connector_explains_the_stand_in(tokenizer):
    model = build_nano(tokenizer).to(torch.bfloat16)
    assert fit_connector(model, LabelEmbedding(192).to(torch.bfloat16), num_frames=200) > 0.05


def test_draw_keep_honours_the_ratio_and_the_first_frame():
    labels = np.random.default_rng(0).random((6, 16, 55)).astype(np.float32)
    keep = draw_keep(np.random.default_rng(1), labels, 0.5)
    assert keep.sum() == 48
    assert keep[0].all()


def test_muon_takes_hidden_matrices_only(model):
    taken = {n for n, p in model.named_parameters() if is_hidden(n, p)}
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in taken
    assert not any("embed" in n or "lm_head" in n or "bias" in n or "norm" in n for n in taken)


def test_optimizer_goes_on_where_it_stopped(tokenizer):
    def build():
        torch.manual_seed(0)
        layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)).to(torch.bfloat16)
        return layer, MasterOptimizer(layer.named_parameters(), 0.01, 0.001)

    def step(layer, optimizer, seed):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
        layer(x).square().mean().backward()
        optimizer.step(1.0)

    unbroken, optimizer = build()
    for seed in range(4):
        step(unbroken, optimizer, seed)
    first, optimizer = build()
    for seed in range(2):
        step(first, optimizer, seed)
    saved = optimizer.state_dict()
    resumed, optimizer = build()
    optimizer.load_state_dict(saved)
    for seed in range(2, 4):
        step(resumed, optimizer, seed)
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_stages_run_and_resume(tokenizer, tmp_path, monkeypatch):
    from stts_cli.training import nano_joint, nano_language

    monkeypatch.setattr(nano_language, "LENGTHS", ((2, 1.0, 2, False),))
    monkeypatch.setattr(nano_joint, "LENGTHS", ((2, 1.0, 2, False),))
    model = build_nano(tokenizer).to(torch.bfloat16)
    train_language(model, tokenizer, tmp_path, steps=2)
    assert torch.load(tmp_path / "language.pt", weights_only=False)["step"] == 2
    scorer = new_scorer(model.config.vision_config).to(torch.bfloat16)
    train_joint(model, scorer, tokenizer, tmp_path, steps=2)
    train_joint(model, scorer, tokenizer, tmp_path, steps=3)
    lines = [json.loads(line) for line in (tmp_path / "joint.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]


def test_a_recipe_names_its_keys(tmp_path):
    from stts_cli.errors import InputError
    from stts_cli.presets import presets_folder
    from stts_cli.training.nano import NanoRecipe, read_recipe, train_nano

    assert isinstance(read_recipe(presets_folder() / "training" / "nano.yaml"), NanoRecipe)
    bad = tmp_path / "bad.yaml"
    bad.write_text("stepps: 3\n")
    with pytest.raises(InputError, match="language_steps"):
        read_recipe(bad)
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text("{}")
    with pytest.raises(InputError, match="another recipe"):
        train_nano(NanoRecipe(1, 1, 1, 1, 0.01, 0.01), run)


def test_the_scorer_warms_up_to_what_moves_and_does_not_saturate(tokenizer):
    from stts_cli.pruning.losses import temporal_loss, temporal_target
    from stts_cli.pruning.windows import window_index
    from stts_cli.training.nano_joint import warm_up_scorer

    model = build_nano(tokenizer).to(torch.bfloat16)
    torch.manual_seed(0)
    scorer = new_scorer(model.config.vision_config).to(torch.bfloat16)
    before = warm_up_scorer(model, scorer, steps=1, seed=0)
    after = warm_up_scorer(model, scorer, steps=40, seed=0)
    assert after < before / 2
    table = window_index(8, 8, 2, 2)
    hidden = torch.randn(3, 64, 96, dtype=torch.bfloat16)
    scores = scorer(hidden, table, [3])
    assert (scores > 1e-4).all(), "a saturated scorer has no gradient left"
    assert temporal_loss(scores, hidden, table, [3]).requires_grad
    assert not temporal_target(hidden, table, [3]).requires_grad
