"""Oracles for the family: the stock model, and a slow path that masks instead of dropping."""

import dataclasses

import pytest
import torch

from stts_cli.errors import InputError
from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.windows import patch_window, window_index
from stts_cli.settings import Execution, Layout, Pruning, num_dropped

TIMES = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
QUESTION = "What color is it?"


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 10, 10, 3), generator=generator, dtype=torch.uint8)


def encode(family, patches, *, kernel="auto", chunk_frames=None, **pruning):
    execution = Execution(kernel=kernel, chunk_frames=chunk_frames)
    return family.encode(patches, family.settings.override(**pruning), execution=execution)


def encoder_outputs(visual_tokens):
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return {"video": BaseModelOutputWithPooling(pooler_output=(visual_tokens,))}


def logits(family, prompt, visual_tokens, **more):
    return family.model(
        input_ids=prompt.input_ids,
        mm_token_type_ids=prompt.mm_token_type_ids,
        mm_encoder_outputs=encoder_outputs(visual_tokens),
        **more,
    ).logits


@torch.no_grad()
def stock_logits(family, frames):
    """transformers on its own: pixels, pooling indices and grids, no code of ours but the patches and the text."""
    pooling = window_index(5, 5, 2, 2)
    offsets = torch.arange(len(frames))[:, None, None] * 25
    prompt = family.build_prompt(TIMES[: len(frames)], QUESTION, torch.ones(len(frames), 9, dtype=torch.bool))
    return family.model(
        input_ids=prompt.input_ids,
        mm_token_type_ids=prompt.mm_token_type_ids,
        pixel_values_videos=family.preprocess(frames).pixels,
        video_token_pooling=torch.where(pooling >= 0, pooling + offsets, -1).flatten(0, 1),
        video_grids=torch.tensor([[len(frames), 3, 3]]),
    ).logits


@pytest.mark.parametrize(("scorer", "keep_ratio"), [("learned", 1.0), ("none", 0.5), ("tome", 1.0)])
@torch.no_grad()
def test_dense_is_the_stock_model_bit_for_bit(family, frames, scorer, keep_ratio):
    encoded = encode(family, family.preprocess(frames), keep_ratio=keep_ratio, scorer=scorer)
    prompt = family.build_prompt(TIMES, QUESTION, encoded.keep_mask)
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), stock_logits(family, frames))
    assert encoded.scorer == "none"
    assert encoded.kernel == "dense"
    assert prompt.dense_length == prompt.input_ids.shape[1]


@torch.no_grad()
def test_lone_frames_run_whole_where_the_checkpoint_says_so(family, frames, monkeypatch):
    patches = family.preprocess(frames)
    plain = encode(family, patches, keep_ratio=0.75, scorer="learned")
    monkeypatch.setattr(family, "settings", dataclasses.replace(family.settings, refill_lone_frames=True))
    refilled = encode(family, patches, keep_ratio=0.75, scorer="learned")
    off = encode(family, patches, keep_ratio=0.75, scorer="learned", refill_lone_frames=False)
    assert torch.equal(off.visual_tokens, plain.visual_tokens)
    assert sum(refilled.packed_patches) > sum(plain.packed_patches)
    assert not torch.allclose(refilled.visual_tokens, plain.visual_tokens, atol=1e-2)


@torch.no_grad()
def test_one_frame_is_the_stock_model(family, frames):
    encoded = encode(family, family.preprocess(frames[:1]), keep_ratio=0.3, scorer="learned")
    prompt = family.build_prompt(TIMES[:1], QUESTION, encoded.keep_mask)
    assert torch.equal(logits(family, prompt, encoded.visual_tokens), stock_logits(family, frames[:1]))


@torch.no_grad()
def masked_logits(family, frames, keep_ratio):
    """The slow path: every patch and every placeholder stays, dropped ones are masked wherever they could be seen."""
    model, table = family.model.model, family.window_index(family.layout)
    patches = family.preprocess(frames).pixels
    hidden = model.vision_tower.patch_embedding(patches) + model.vision_tower.positional_embedding
    outputs = []
    for i, block in enumerate(model.vision_tower.layers):
        mask = None
        if i == family.settings.prune_layer + 1:
            scores = family.scorer(hidden, table, [len(frames)])
            keep = select_windows(scores, [num_dropped(len(frames), len(table), keep_ratio)], [len(frames)])
            mask = log_score_bias(scores, table, family.layout, [len(frames)])[:, None, None].expand(-1, -1, 25, -1)
        elif i > family.settings.prune_layer:
            kept = keep[:, patch_window(table, 25)]
            kept = torch.where(kept.any(1, keepdim=True), kept, True)[:, None, None].expand(-1, -1, 25, -1)
            mask = torch.zeros(kept.shape).masked_fill(~kept, torch.finfo(torch.float32).min)
        hidden = block(hidden, attention_mask=mask)
        outputs.append(hidden)
    features = torch.cat([outputs[6], outputs[4]], -1)
    offsets = torch.arange(len(frames))[:, None, None] * 25
    pooling = torch.where(table >= 0, table + offsets, -1).flatten(0, 1)
    visual = model.multi_modal_projector(features, pooling).last_hidden_state
    prompt = family.build_prompt(TIMES, QUESTION, torch.ones_like(keep))
    ids, types = prompt.input_ids, prompt.mm_token_type_ids
    present = torch.ones_like(ids, dtype=torch.bool)
    present[ids == family.model.config.image_patch_id] = keep.flatten()
    length = ids.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril() | ((types.T == 1) & (types == 1))
    seen = (seen & present) | torch.eye(length, dtype=torch.bool)
    mask = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
    out = family.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(present.long().cumsum(1) - 1).clamp_min(0),
        mm_encoder_outputs=encoder_outputs(visual),
    )
    return out.logits[present], keep


@pytest.mark.parametrize("keep_ratio", [0.75, 0.5, 0.3])
@torch.no_grad()
def test_pruned_equals_the_masked_path(family, frames, keep_ratio):
    encoded = encode(family, family.preprocess(frames), keep_ratio=keep_ratio, scorer="learned")
    prompt = family.build_prompt(TIMES, QUESTION, encoded.keep_mask)
    expected, keep = masked_logits(family, frames, keep_ratio)
    assert torch.equal(encoded.keep_mask, keep)
    assert int(keep.sum()) < keep.numel()
    assert len(encoded.visual_tokens) == int(keep.sum())
    assert prompt.dense_length - prompt.input_ids.shape[1] == int((~keep).sum())
    torch.testing.assert_close(logits(family, prompt, encoded.visual_tokens)[0], expected, atol=1e-4, rtol=1e-4)
    dense = stock_logits(family, frames)[0, -1]
    assert (dense - expected[-1]).abs().max() > 1e-3  # pruning does change something here


@pytest.mark.parametrize("scorer", ["learned", "temporal", "reference", "tome", "none"])
@torch.no_grad()
def test_batch_of_videos_equals_each_alone(family, frames, scorer):
    videos = frames.split([4, 2])
    both = encode(family, family.preprocess(*videos), keep_ratio=0.5, scorer=scorer)
    alone = [encode(family, family.preprocess(video), keep_ratio=0.5, scorer=scorer) for video in videos]
    assert torch.equal(both.keep_mask, torch.cat([a.keep_mask for a in alone]))
    # float32: with several threads a matrix product sums in another order for another number of rows
    torch.testing.assert_close(both.visual_tokens, torch.cat([a.visual_tokens for a in alone]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_chunks_change_nothing(family, frames, monkeypatch):
    patches = family.preprocess(frames)
    plain = encode(family, patches, keep_ratio=0.5, scorer="learned")
    monkeypatch.setattr("stts_cli.families.molmo2._CHUNK_TOKENS", 5)
    chunked = encode(family, patches, keep_ratio=0.5, scorer="learned", chunk_frames=2)
    assert torch.equal(plain.keep_mask, chunked.keep_mask)
    torch.testing.assert_close(plain.visual_tokens, chunked.visual_tokens, atol=1e-4, rtol=1e-4)


def test_long_videos_are_chunked_without_gradient_only(family, frames, monkeypatch):
    monkeypatch.setattr("stts_cli.families.base._CHUNK_PATCHES", 60)
    chunks = []

    def prune_and_encode(*args, execution, **options):
        chunks.append(execution.chunk_frames)
        raise ValueError("seen enough")

    monkeypatch.setattr("stts_cli.families.base.prune_and_encode", prune_and_encode)
    for grad in (False, True):
        with torch.set_grad_enabled(grad), pytest.raises(InputError, match="seen enough"):
            encode(family, family.preprocess(frames), keep_ratio=0.5, scorer="learned")
    assert chunks == [2, None]


def lm_loss(family, frames):
    encoded = encode(family, family.preprocess(frames), keep_ratio=0.5, scorer="learned")
    prompt = family.build_prompt(TIMES, QUESTION, encoded.keep_mask)
    return logits(family, prompt, encoded.visual_tokens)[0, -1].log_softmax(-1)[3]


def test_loss_reaches_the_scorer_through_the_bias_only(family, frames, monkeypatch):
    parameters = list(family.scorer.parameters())
    grads = torch.autograd.grad(lm_loss(family, frames), parameters, allow_unused=True)
    assert all(g is not None for g in grads)
    assert sum(g.abs().sum() for g in grads) > 1e-4
    monkeypatch.setattr(family, "settings", dataclasses.replace(family.settings, bias_rescale="off"))
    grads = torch.autograd.grad(lm_loss(family, frames), parameters, allow_unused=True)
    assert all(g is None for g in grads)


@torch.no_grad()
def test_generation_with_cache_equals_without(family, frames):
    encoded = encode(family, family.preprocess(frames), keep_ratio=0.5, scorer="learned")
    prompt = family.build_prompt(TIMES, QUESTION, encoded.keep_mask)

    def generate(use_cache):
        return family.model.generate(
            input_ids=prompt.input_ids,
            mm_token_type_ids=prompt.mm_token_type_ids,
            mm_encoder_outputs=encoder_outputs(encoded.visual_tokens),
            max_new_tokens=6,
            do_sample=False,
            use_cache=use_cache,
            eos_token_id=10**6,
        )

    with_cache = generate(True)[0, prompt.input_ids.shape[1] :].tolist()
    ids, types = prompt.input_ids, prompt.mm_token_type_ids
    step_by_step = []
    for _ in range(6):
        out = family.model(
            input_ids=ids, mm_token_type_ids=types, mm_encoder_outputs=encoder_outputs(encoded.visual_tokens)
        ).logits[0, -1]
        step_by_step.append(int(out.argmax()))
        ids = torch.cat([ids, ids.new_tensor([[step_by_step[-1]]])], 1)
        types = torch.cat([types, types.new_zeros(1, 1)], 1)
    assert with_cache == step_by_step


def test_visual_tokens_must_fit_the_placeholders(family, frames):
    encoded = encode(family, family.preprocess(frames), keep_ratio=0.5, scorer="learned")
    prompt = family.build_prompt(TIMES, QUESTION, encoded.keep_mask)
    with pytest.raises(ValueError, match="do not match"):
        logits(family, prompt, encoded.visual_tokens[:-1])
    with pytest.raises(InputError, match=r"^5 timestamps: must be one a frame; 6 units"):
        family.build_prompt(TIMES[:-1], QUESTION, encoded.keep_mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_ratio": 0.0}, "greater than 0 and at most 1"),
        ({"prune_layer": 6}, "--prune-layer 6: must be 0 to 4; 7 ViT blocks run"),
        ({"scorer": "leraned"}, "--scorer leraned: must be one of learned, "),
        ({"kernel": "quick"}, "--kernel quick: must be auto"),
    ],
)
def test_bad_settings_are_input_errors(family, frames, options, message):
    with pytest.raises(InputError, match=message):
        encode(family, family.preprocess(frames), **{"keep_ratio": 0.5, "scorer": "learned", **options})


def test_stages_are_timed(family, frames):
    seconds = encode(family, family.preprocess(frames), keep_ratio=0.5, scorer="learned").seconds
    assert set(seconds) == {"vit_dense", "score_select_pack", "vit_packed", "connector"}
    assert all(s > 0 for s in seconds.values())


def test_videos_of_one_call_are_cut_alike(family, frames, monkeypatch):
    def rule(height, width, num_frames):
        return Layout((10, 10), (5, 5), (2, 2) if num_frames < 3 else (5, 5))

    short, long = frames[:2], frames[2:]
    monkeypatch.setattr(family, "layout_rule", rule)
    assert family.encode(family.preprocess(long), Pruning(scorer="none")).keep_mask.shape == (4, 1)
    assert family.encode(family.preprocess(short), Pruning(scorer="none")).keep_mask.shape == (2, 9)
    with pytest.raises(InputError, match="videos of one batch: are cut in different ways"):
        family.preprocess(short, long)
    with pytest.raises(InputError, match="cuts every video in its own way"):
        _ = family.layout
