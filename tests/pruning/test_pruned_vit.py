import itertools
import re

import pytest
import torch
from torch.nn import functional

from stts_cli.errors import InputError
from stts_cli.pruning import attention, stopwatch
from stts_cli.pruning.attention import log_score_bias
from stts_cli.pruning.pruned_vit import prune_and_encode
from stts_cli.pruning.scorer import random_scores, reference_scores
from stts_cli.pruning.selection import select_windows
from stts_cli.pruning.tome import merge_windows
from stts_cli.pruning.windows import patch_window, window_index
from stts_cli.settings import Execution, Layout, Pruning, first_fit_descending, num_dropped
from tests.pruning.bins import pack_bins
from tests.pruning.conftest import TinyVit

LAYOUT = Layout((20, 16), (5, 4), (2, 2))
INDEX = window_index(*LAYOUT.grid, *LAYOUT.window)
LENGTHS = [4, 1, 5]
LAYERS = [-1, 4, 1, 2]  # packed, packed, dense, and the block with the bias


def encode(blocks, hidden, scorer, keep_ratio=0.5, lengths=None, **options):
    taps, embed = options.pop("taps", LAYERS), options.pop("embed", lambda x: x)
    how = {key: options.pop(key) for key in ("kernel", "chunk_frames", "checkpoint", "keep_scored") if key in options}
    learned = isinstance(scorer, torch.nn.Module)
    pruning = Pruning(**{
        "keep_ratio": keep_ratio, "scorer": "learned" if learned else scorer, "prune_layer": 1, **options
    })  # fmt: skip
    return prune_and_encode(
        TinyVit(blocks, taps, embed), hidden, lengths or [len(hidden)], pruning, LAYOUT, INDEX,
        learned=scorer if learned else None, execution=Execution(**how),
    )  # fmt: skip


def dropped_of(lengths, keep_ratio, prune_from_frame=0, merges=False):
    return [num_dropped(length, len(INDEX), keep_ratio, prune_from_frame, merges=merges) for length in lengths]


def binned_features(blocks, hidden, scorer, keep_ratio, lengths, refill):
    """The paper's layout: what comes after the block with the bias runs in bins, under a mask."""
    outputs = []
    for block in blocks[:2]:
        hidden = block(hidden)
        outputs.append(hidden)
    scores = scorer(hidden, INDEX, lengths)
    kept = select_windows(scores, dropped_of(lengths, keep_ratio), lengths)[:, patch_window(INDEX, 20)]
    outputs.append(blocks[2](hidden, log_score_bias(scores, INDEX, LAYOUT, lengths)[:, None, None]))
    binned = pack_bins(outputs[-1], kept, refill)
    x, mask = binned.tokens, (binned.segment[:, None, :, None] == binned.segment[:, None, None, :])
    features = [output.flatten(0, 1)[binned.index] for output in outputs]
    for block in blocks[3:]:
        x = block(x, mask)
        features.append(x.flatten(0, 1)[binned.kept_slot])
    return torch.cat([features[layer] for layer in LAYERS], -1)


def masked_reference(blocks, hidden, scorer, keep_ratio, lengths, rescale="row", whole=()):
    """The slow path: every patch stays, dropped ones are masked as keys from block l + 2 on, but in whole frames."""
    outputs, merge = [], None
    for i, block in enumerate(blocks):
        mask = None
        if i == 2 and scorer == "tome":
            keep, merge = merge_windows(hidden, INDEX, dropped_of(lengths, keep_ratio, merges=True), lengths)
        elif i == 2:
            scores = scorer(hidden, INDEX, lengths)
            keep = select_windows(scores, dropped_of(lengths, keep_ratio), lengths)
            mask = log_score_bias(scores, INDEX, LAYOUT, lengths, rescale)[:, None, None]
        if i > 2:
            kept = keep[:, patch_window(INDEX, 20)]
            kept[list(whole)] = True
            mask = torch.zeros(kept.shape).masked_fill(~kept, float("-inf"))[:, None, None]
            mask = torch.where(kept.any(1)[:, None, None, None], mask, 0.0)
        hidden = block(hidden, attention_mask=mask)
        if i == 2 and merge:
            hidden = merge(hidden)
        outputs.append(hidden)
    features = torch.cat([outputs[layer] for layer in LAYERS], -1)
    return features, keep


@pytest.mark.parametrize("rescale", ["row", "frame"])
@pytest.mark.parametrize("keep_ratio", [0.75, 0.5, 0.3])
@pytest.mark.parametrize("chunk", [None, 3])
def test_equals_masked_dense_path(setting, keep_ratio, rescale, chunk):
    blocks, hidden, scorer = setting
    out = encode(blocks, hidden, scorer, keep_ratio, LENGTHS, bias_rescale=rescale, chunk_frames=chunk)
    features, keep = masked_reference(blocks, hidden, scorer, keep_ratio, LENGTHS, rescale)
    kept = keep[:, patch_window(INDEX, 20)]
    assert torch.equal(out.plan.keep_mask, keep)
    assert not keep.all()
    torch.testing.assert_close(out.features, features[kept], atol=2e-5, rtol=2e-5)
    assert out.packed_patches == kept.sum(1).tolist()
    assert out.kernel == "sdpa"
    # a visual token's slots point at its own window's patches
    tokens = [(t, w) for t in range(10) for w in range(len(INDEX)) if keep[t, w]]
    assert len(out.pool_index) == len(tokens)
    for (t, w), slots in zip(tokens, out.pool_index, strict=True):
        for slot, patch in zip(slots.tolist(), INDEX[w].tolist(), strict=True):
            assert (slot == -1) == (patch < 0)
            if slot >= 0:
                torch.testing.assert_close(out.features[slot], features[t, patch], atol=2e-5, rtol=2e-5)


def test_a_video_that_drops_a_single_window_has_the_bias_too(setting):
    blocks, hidden, scorer = setting
    out = encode(blocks, hidden[:2], scorer, 0.9)
    features, keep = masked_reference(blocks, hidden[:2], scorer, 0.9, [2])
    assert int((~keep).sum()) == 1
    torch.testing.assert_close(out.features, features[keep[:, patch_window(INDEX, 20)]], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("kernel", "keep_ratio", "calls"), [("eager", 0.5, 0), ("eager", 1, 0), ("sdpa", 1, 7)])
def test_whose_attention_is_sdpa(setting, kernel, keep_ratio, calls, monkeypatch):
    """Of "eager" none, so that a counter of FLOPs sees them all."""
    blocks, hidden, scorer = setting
    seen, sdpa = [], functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda *a, **k: seen.append(1) or sdpa(*a, **k))
    encode(blocks, hidden, scorer, keep_ratio, LENGTHS, kernel=kernel)
    assert len(seen) == calls


@pytest.mark.parametrize("chunk", [None, 5])
def test_merged_windows_go_on_as_their_means(setting, chunk):
    blocks, hidden, _ = setting
    out = encode(blocks, hidden, "tome", 0.4, LENGTHS, chunk_frames=chunk)
    features, keep = masked_reference(blocks, hidden, "tome", 0.4, LENGTHS)
    assert torch.equal(out.plan.keep_mask, keep)
    assert (out.plan.scores, out.scored_hidden) == (None, None)
    torch.testing.assert_close(out.features, features[keep[:, patch_window(INDEX, 20)]], atol=2e-5, rtol=2e-5)


def test_the_bias_has_the_given_floor(setting):
    blocks, hidden, scorer = setting
    plain, floored, off = (
        encode(blocks, hidden, scorer, 0.5, LENGTHS, taps=[2, 4], **options).features
        for options in ({}, {"bias_floor": 1.0}, {"bias_rescale": "off"})
    )
    torch.testing.assert_close(floored, off)  # log(1) is no bias
    assert not torch.allclose(plain, off, atol=1e-3)


@pytest.mark.parametrize("scorer_name", ["learned", "temporal", "reference", "random", "tome"])
def test_a_video_that_drops_nothing_is_stock_beside_one_that_does(setting, scorer_name):
    blocks, hidden, learned = setting
    scorer = learned if scorer_name == "learned" else scorer_name
    out = encode(blocks, hidden, scorer, 0.5, [3, 7], prune_from_frame=3, keep_scored=True)
    if scorer_name == "reference":
        for first in (3, 0):
            expected = reference_scores(out.scored_hidden, INDEX, [3, 7], dropped=dropped_of([3, 7], 0.5, first))
            assert torch.equal(out.plan.scores, expected) == (first == 3)
    dense = encode(blocks, hidden[:3], "none")
    assert out.plan.keep_mask[:3].all()
    assert int((~out.plan.keep_mask).sum()) == 12  # half of the windows of 7 - 3 frames
    torch.testing.assert_close(out.features[: 3 * 20], dense.features, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("scorer_name", "keep_ratio"), [("learned", 1.0), ("none", 0.5)])
@pytest.mark.parametrize("keep_scored", [True, False])
def test_dense_runs_the_blocks_untouched(setting, scorer_name, keep_ratio, keep_scored):
    blocks, hidden, scorer = setting
    given = scorer if scorer_name == "learned" else scorer_name
    with torch.no_grad():
        out = encode(blocks, hidden, given, keep_ratio, LENGTHS, keep_scored=keep_scored)
        outputs = []
        for block in blocks:
            outputs.append(block(outputs[-1] if outputs else hidden))
    assert torch.equal(out.features, torch.cat([outputs[layer] for layer in LAYERS], -1).flatten(0, 1))
    assert out.plan.keep_mask.all()
    assert out.kernel == "dense"
    offsets = torch.arange(10)[:, None, None] * 20
    assert torch.equal(out.pool_index, torch.where(INDEX >= 0, INDEX + offsets, -1).flatten(0, 1))
    few = encode(blocks, hidden, given, keep_ratio, LENGTHS, keep_scored=keep_scored, taps=[-1])
    for scored in (out.scored_hidden, few.scored_hidden):  # block 1 is read, and is not
        assert torch.equal(scored, outputs[1]) if keep_scored else scored is None


@pytest.mark.parametrize("scorer_name", ["learned", "temporal", "reference", "random"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_behind_the_encoder_every_block_is_dense_and_kept_patches_go_on(setting, scorer_name, chunk):
    blocks, hidden, learned = setting
    scorer = learned if scorer_name == "learned" else scorer_name
    with torch.no_grad():
        dense = encode(blocks, hidden, "none", lengths=LENGTHS, chunk_frames=chunk)
        out = encode(blocks, hidden, scorer, 0.5, LENGTHS, prune_layer="last", chunk_frames=chunk, keep_scored=True)
        last = hidden
        for block in blocks:
            last = block(last)
        if scorer_name == "learned":
            expected = select_windows(learned(last, INDEX, LENGTHS), [12, 0, 15], LENGTHS)
            assert torch.equal(out.plan.keep_mask, expected)
    assert torch.equal(out.features, dense.features[out.plan.kept_patches.flatten()])
    torch.testing.assert_close(out.scored_hidden, last)
    assert int((~out.plan.keep_mask).sum()) == 27
    assert (out.kernel, out.kernel_reason) == ("none", "every block sees every patch")
    assert len(out.pool_index) == int(out.plan.keep_mask.sum())
    assert out.seconds["vit_packed"] == 0


def test_behind_the_encoder_merged_windows_go_on_as_their_means(setting):
    blocks, hidden, _ = setting
    dense = encode(blocks, hidden, "none", lengths=LENGTHS)
    out = encode(blocks, hidden, "tome", 0.4, LENGTHS, prune_layer="last", taps=[-1, 1])
    last, early = (dense.features[:, k : k + 24].view(10, 20, 24) for k in (0, 48))  # the first and third of LAYERS
    keep, merge = merge_windows(last, INDEX, dropped_of(LENGTHS, 0.4, merges=True), LENGTHS)
    wanted = torch.cat([merge(last), merge(early)], -1)[keep[:, patch_window(INDEX, 20)]]
    assert torch.equal(out.plan.keep_mask, keep)
    torch.testing.assert_close(out.features, wanted)


def test_behind_the_encoder_nothing_dropped_is_the_stock_model(setting):
    blocks, hidden, scorer = setting
    dense = encode(blocks, hidden, "none", lengths=LENGTHS)
    out = encode(blocks, hidden, scorer, 1.0, LENGTHS, prune_layer="last")
    assert torch.equal(out.features, dense.features)
    assert out.kernel == "dense"


@pytest.mark.parametrize("name", ["learned", "temporal", "reference", "tome"])
def test_batch_of_videos_equals_each_alone(setting, name):
    blocks, hidden, scorer = setting
    given = scorer if name == "learned" else name
    both = encode(blocks, hidden, given, 0.5, LENGTHS)
    alone = [encode(blocks, part, given, 0.5) for part in hidden.split(LENGTHS)]
    assert torch.equal(both.plan.keep_mask, torch.cat([a.plan.keep_mask for a in alone]))
    parts = torch.cat([a.features for a in alone])
    torch.testing.assert_close(both.features, parts, atol=1e-5, rtol=1e-5)


def test_one_frame_is_not_pruned(setting):
    blocks, hidden, scorer = setting
    out = encode(blocks, hidden[:1], scorer, 0.2)
    assert out.plan.keep_mask.all()
    assert out.kernel == "dense"


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_checkpointed_blocks_run_again_and_give_the_same_gradients(setting, keep_ratio):
    blocks, hidden, scorer = setting
    runs, grads = [], []
    for block in blocks:
        block.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    for options in ({}, {"checkpoint": True}):
        runs.clear()
        out = encode(blocks, hidden, scorer, keep_ratio, LENGTHS, **options)
        grads.append(torch.autograd.grad(out.features.square().sum(), blocks.parameters()))
        assert len(runs) == (14 if options else 7)
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"keep_ratio": 1.0}, {"keep_ratio": 1.0, "keep_scored": True}])
def test_patches_are_embedded_a_chunk_at_a_time(setting, options):
    blocks, hidden, scorer = setting
    sizes = []
    whole = encode(blocks, 2 * hidden, scorer, lengths=LENGTHS, **options)

    def embed(x):
        sizes.append(len(x))
        return 2 * x

    out = encode(blocks, hidden, scorer, lengths=LENGTHS, chunk_frames=4, embed=embed, **options)
    assert sizes == [4, 4, 2]
    torch.testing.assert_close(out.features, whole.features, atol=2e-5, rtol=2e-5)


def test_random_scores_follow_the_seed(setting):
    blocks, hidden, _ = setting
    for seed in (0, 5):
        expected = random_scores(hidden, INDEX, [10], seed=seed)
        assert torch.equal(encode(blocks, hidden, "random", seed=seed).plan.scores, expected)


def test_gradient_reaches_the_scorer_through_the_bias_only(setting):
    blocks, hidden, scorer = setting
    encode(blocks, hidden, scorer, 0.5, LENGTHS).features.square().sum().backward()
    assert all(p.grad is not None for p in scorer.parameters())
    assert sum(p.grad.abs().sum().item() for p in scorer.parameters()) > 1e-3
    assert blocks[0].mlp[0].weight.grad.abs().sum() > 0
    scorer.zero_grad(set_to_none=True)
    encode(blocks, hidden, scorer, 0.5, LENGTHS, bias_rescale="off").features.square().sum().backward()
    assert all(p.grad is None for p in scorer.parameters())


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("trained", ["", "scorer", "blocks.6", "2.mlp", "4.self_attn.k", "scorer|2.self_attn.q"])
def test_gradients_equal_those_of_the_masked_path(setting, trained, checkpoint):
    """Also where most parameters are frozen."""
    blocks, hidden, scorer = setting
    named = torch.nn.ModuleDict({"blocks": blocks, "scorer": scorer}).requires_grad_(False).named_parameters()
    parameters = [p.requires_grad_() for name, p in named if re.search(trained, name)]
    out = encode(blocks, hidden, scorer, 0.5, LENGTHS, checkpoint=checkpoint)
    weight = torch.randn(out.features.shape, generator=torch.Generator().manual_seed(3))
    grads = torch.autograd.grad((out.features * weight).sum(), parameters)
    features, keep = masked_reference(blocks, hidden, scorer, 0.5, LENGTHS)
    loss = (features[keep[:, patch_window(INDEX, 20)]] * weight).sum()
    for grad, reference in zip(grads, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(grad, reference, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("trained", ["", "0.mlp.0.weight"])
def test_bfloat16_trains_with_explicit_attention(setting, trained, monkeypatch):
    blocks, hidden, scorer = setting
    for name, p in blocks.named_parameters():
        p.requires_grad_(trained in name)
    exact = encode(blocks, hidden, scorer, 0.5, LENGTHS)
    blocks, scorer = blocks.to(torch.bfloat16), scorer.to(torch.bfloat16)
    with monkeypatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", None)  # no block calls it, dense or packed
        out = encode(blocks, hidden.to(torch.bfloat16), "random", 0.5, LENGTHS)
    assert out.kernel == "eager"
    out.features.float().square().mean().backward()
    assert blocks[0].mlp[0].weight.grad.isfinite().all()
    assert out.features.shape == encode(blocks.float(), hidden, "random", 0.5, LENGTHS).features.shape
    assert exact.features.dtype == torch.float32


def test_bfloat16_is_near_float32(setting):
    blocks, hidden, _ = setting
    with torch.no_grad():
        exact = encode(blocks, hidden, "random", 0.5, LENGTHS).features
        out = encode(blocks.to(torch.bfloat16), hidden.to(torch.bfloat16), "random", 0.5, LENGTHS)
    assert out.kernel == "sdpa"  # SDPA's backward pass alone is slow
    rough = out.features
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("chunk", [None, 3])
def test_lone_frames_run_whole(setting, chunk):
    blocks, hidden, scorer = setting
    plain = encode(blocks, hidden, scorer, 0.65, LENGTHS)
    kept = plain.packed_patches
    bins = first_fit_descending(kept, 20)
    whole = [frames[0] for frames in bins if len(frames) == 1 and kept[frames[0]] < 20]
    assert whole
    assert any(len(frames) > 1 for frames in bins)
    out = encode(blocks, hidden, scorer, 0.65, LENGTHS, chunk_frames=chunk, refill_lone_frames=True)
    features, keep = masked_reference(blocks, hidden, scorer, 0.65, LENGTHS, whole=whole)
    assert torch.equal(out.plan.keep_mask, plain.plan.keep_mask)
    assert torch.equal(out.pool_index, plain.pool_index)
    torch.testing.assert_close(out.features, features[keep[:, patch_window(INDEX, 20)]], atol=2e-5, rtol=2e-5)
    assert out.packed_patches == [20 if frame in whole else n for frame, n in enumerate(kept)]
    frame_of = keep[:, patch_window(INDEX, 20)].nonzero()[:, 0]
    changed = (out.features - plain.features).abs().amax(1) > 1e-4
    assert sorted(set(frame_of[changed].tolist())) == sorted(whole)


@pytest.mark.parametrize("refill", [False, True])
def test_features_and_gradients_are_those_of_the_bins(setting, refill):
    blocks, hidden, scorer = setting
    leaf = hidden.clone().requires_grad_()
    grads = []
    ours = encode(blocks, leaf, scorer, 0.65, LENGTHS, refill_lone_frames=refill).features
    theirs = binned_features(blocks, leaf, scorer, 0.65, LENGTHS, refill)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    for features in (ours, theirs):
        grads.append(torch.autograd.grad(features.square().sum(), [leaf, *scorer.parameters()]))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3 + 1e-4 * other.abs().max().item(), rtol=0)


def test_merged_windows_are_not_refilled(setting):
    blocks, hidden, _ = setting
    plain, asked = (encode(blocks, hidden, "tome", 0.65, LENGTHS, refill_lone_frames=on) for on in (False, True))
    assert torch.equal(plain.features, asked.features)
    assert plain.packed_patches == asked.packed_patches


def test_training_free_scorers_drop_the_budget(setting):
    blocks, hidden, _ = setting
    for name in ("temporal", "reference", "random"):
        out = encode(blocks, hidden, name, 0.5)
        assert int((~out.plan.keep_mask).sum()) == 30
        assert out.plan.keep_mask[0].all()


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_chunks_bound_what_a_block_sees(setting, keep_ratio):
    blocks, hidden, scorer = setting
    seen = []
    for block in blocks:
        block.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel() // 24))
    encode(blocks, hidden, scorer, keep_ratio, LENGTHS, chunk_frames=3)
    assert max(seen) == 3 * 20
    seen.clear()
    encode(blocks, hidden, scorer, keep_ratio, LENGTHS)
    assert max(seen) == 10 * 20


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"keep_ratio": 1.0}, (1, 0, 0)),
        ({}, (2, 3, 1)),
        ({"chunk_frames": 5}, (3, 4, 2)),
        ({"scorer": "tome"}, (2, 3, 1)),
    ],
)
def test_the_times_of_the_stages_add_up(setting, options, seconds, monkeypatch):
    """Under a clock that goes on by a second whenever it is read."""
    monkeypatch.setattr(stopwatch.time, "perf_counter", itertools.count(100).__next__)
    blocks, hidden, scorer = setting
    out = encode(blocks, hidden, **{"scorer": scorer, "lengths": LENGTHS, **options})
    assert out.seconds == dict(zip(("vit_dense", "score_select_pack", "vit_packed"), seconds, strict=True))


def test_frames_are_grouped_once_a_chunk(setting, monkeypatch):
    calls = []
    grouped = attention.group_frames
    monkeypatch.setattr(attention, "group_frames", lambda *args: calls.append(1) or grouped(*args))
    blocks, hidden, scorer = setting
    encode(blocks, hidden, scorer, 0.5, LENGTHS, chunk_frames=5)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_ratio": 0.0}, "greater than 0 and at most 1"),
        ({"prune_layer": 5}, "--prune-layer 5: must be 0 to 4; 7 ViT blocks run"),
        ({"prune_layer": 3, "taps": [1, 4]}, "--prune-layer 3: must be 0 to 2; 5 ViT blocks run"),
        ({"prune_layer": -1}, "--prune-layer -1: must be a whole number, at least 0"),
        ({"scorer": "best"}, "--scorer best: must be one of learned"),
        ({"lengths": [3, 4]}, "add up to 7, not to 10"),
        ({"kernel": "fast"}, "--kernel fast: must be auto, flash_attn"),
    ],
)
def test_bad_input(setting, options, message):
    blocks, hidden, _ = setting
    with pytest.raises((InputError, ValueError), match=message):
        encode(blocks, hidden, **{"scorer": "random", **options})
