"""The training forward pass against the stock model, one video and one conversation at a time."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stts_cli.config.presets import load_preset
from stts_cli.engine import generate
from stts_cli.families import load_family
from stts_cli.toy.world_clips import HeldOutShapes
from stts_cli.training.evaluation import evaluate_arms
from stts_cli.training.model import TrainingModel
from stts_cli.training.settings import FinetuneSettings
from tests.training.conftest import TALKS, alone, noise_clip

# float32 sums of some thirty cross-entropies of about 10 nats each, in another order
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


def sums_by_conversation(model, clips, keep_ratio, scorer):
    """Return the packed loss of each conversation: a row's answers, added up over the turns."""
    lengths = [len(clip.frames) for clip in clips]
    encoded = model._encode(clips, keep_ratio, scorer, 0)
    rows = model.write(clips, encoded.keep_mask)
    logits, labels, answers = model._read(rows, encoded, lengths)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    by_answer = torch.zeros(rows.num_answers).index_add(0, answers, each)
    turns = [len(talk.turns) for clip in clips for talk in clip.conversations]
    return [part.sum() for part in by_answer.split(turns)]


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradients(model, loss):
    named = trainable(model)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize(("keep_ratio", "scorer"), [(1.0, "none"), (0.5, "learned"), (0.4, "temporal"), (0.5, "tome")])
@pytest.mark.parametrize("seq_len", [None, 350, 10_000])
@torch.no_grad()
def test_packed_losses_are_those_of_each_conversation_alone(family, batch, keep_ratio, scorer, seq_len):
    model = TrainingModel(family, FinetuneSettings(seq_len=seq_len))
    packed = sums_by_conversation(model, batch, keep_ratio, scorer)
    separate = [alone(family, clip, t, keep_ratio, scorer)[0] for clip in batch for t in clip.conversations]
    torch.testing.assert_close(torch.stack(packed), torch.stack(separate), **CLOSE)
    step = model(batch, keep_ratio, scorer=scorer)
    torch.testing.assert_close(step.lm_sum, torch.stack(separate).sum(), **CLOSE)
    assert len(model.write(batch, step.keep_mask).input_ids) == {None: 3, 350: 2, 10_000: 1}[seq_len]


@torch.no_grad()
def test_a_short_clip_is_clamped_alone_and_said(family, batch):
    notes = []
    step = TrainingModel(family, note=notes.append)(batch, 0.3)
    assert [int(part.sum()) for part in step.keep_mask.split([4, 2, 6])] == [11, 9, 17]
    assert notes == [
        "keep ratio 0.3 of 2 frames: the first frame always stays, so 9 of 18 windows were kept instead of 6"
    ]


@pytest.mark.parametrize(("keep_ratio", "scorer"), [(1.0, "none"), (0.5, "learned")])
def test_packed_gradients_are_those_of_each_conversation_alone(family, batch, keep_ratio, scorer):
    family.model.train()
    model = TrainingModel(family, FinetuneSettings(seq_len=10_000))
    packed = gradients(model, model(batch, keep_ratio, scorer=scorer).lm_sum)
    apart = gradients(
        model, sum(alone(family, clip, t, keep_ratio, scorer)[0] for clip in batch for t in clip.conversations)
    )
    assert packed.keys() == apart.keys()
    assert any(name.startswith("scorer.") for name in packed) == (scorer == "learned")
    for name, ours in packed.items():
        scale = float(apart[name].abs().max())
        torch.testing.assert_close(
            ours, apart[name], rtol=1e-3, atol=1e-5 * max(1.0, scale), msg=f"{name}: {{}}".format
        )


@torch.no_grad()
def test_counts_are_those_of_the_batch(family, batch):
    model = TrainingModel(family)
    step = model(batch, 0.5)
    tokens, windows = model.count(batch)
    assert (step.num_tokens, step.num_windows) == (tokens, windows)
    letters = sum(len(a) + 1 for c in batch for t in c.conversations for _, a in t.turns)  # bytes and an end each
    assert tokens == letters
    assert windows == (3 + 1 + 5) * 9
    assert step.keep_mask.shape == (12, 9)
    assert int(step.keep_mask.sum()) == 12 * 9 - 18 - 9 - 27
    assert len(step.right) == 9


@torch.no_grad()
def test_keep_ratio_one_is_the_stock_models_own_forward(family):
    """Pixels in, transformers alone: no encoding, no mask and no rows of ours."""
    clip = noise_clip(4, (TALKS[0],))
    pooling = family.window_index(family.layout)
    offsets = torch.arange(4)[:, None, None] * 25
    prompt = family.build_prompt(list(clip.timestamps_s), "What color?", torch.ones(4, 9, dtype=torch.bool))
    answer = torch.tensor(family.tokenizer("red<|im_end|>", add_special_tokens=False)["input_ids"])
    ids = torch.cat([prompt.input_ids[0], answer])[None]
    types = torch.cat([prompt.mm_token_type_ids, torch.zeros(1, len(answer), dtype=torch.long)], 1)
    logits = family.model(
        input_ids=ids,
        mm_token_type_ids=types,
        pixel_values_videos=family.preprocess(clip.frames).pixels,
        video_token_pooling=torch.where(pooling >= 0, pooling + offsets, -1).flatten(0, 1),
        video_grids=torch.tensor([[4, 3, 3]]),
    ).logits[0, -len(answer) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, answer, reduction="sum")
    step = TrainingModel(family)([clip], 1.0)
    torch.testing.assert_close(step.lm_sum, expected, **CLOSE)
    assert (step.num_windows, int(step.keep_mask.sum())) == (0, 36)


def test_dropped_windows_get_no_gradient_behind_the_scoring(family, monkeypatch):
    """Their patches end where the packed blocks begin, and the language model gives them none."""
    seen = {}
    tower = family.model.model.vision_tower.layers
    # the soft bias is applied in the block after `prune_layer`; what it returns is where windows part
    family.settings = type(family.settings)(prune_layer=2, bias_rescale="off", scorer="learned")
    original = family.encode

    def encode(*arguments, **options):
        import stts_cli.pruning.pruned_vit as vit

        pack = vit.pack

        def keep_input(x, keep):
            x.retain_grad()
            seen.update(hidden=x, keep=keep)
            return pack(x, keep)

        monkeypatch.setattr(vit, "pack", keep_input)
        return original(*arguments, **options)

    monkeypatch.setattr(family, "encode", encode)
    assert len(tower) > 4
    TrainingModel(family)([noise_clip(5, TALKS[:2])], 0.5).lm_sum.backward()
    reached = seen["hidden"].grad.abs().sum(-1) > 0
    assert torch.equal(reached, seen["keep"])
    assert 0 < int(reached.sum()) < reached.numel()


def test_the_temporal_loss_teaches_the_scorer_and_nothing_else(family, batch):
    model = TrainingModel(family)
    step = model(batch, 0.5, temporal_only=True)
    assert (step.num_tokens, float(step.lm_sum), len(step.right)) == (0, 0.0, 0)
    full = model(batch, 0.5)
    torch.testing.assert_close(step.temporal_sum, full.temporal_sum)
    # gradients do pass on into the ViT's first blocks (the scorer reads them), never into connector or language model
    found = gradients(model, step.temporal_sum)
    assert {n for n, _ in family.scorer.named_parameters(prefix="scorer")} <= found.keys()
    others = {name for name in found if not name.startswith("scorer.")}
    assert all(".vision_tower." in name for name in others)


@pytest.mark.parametrize("seq_len", [None, 10_000])
@pytest.mark.parametrize(("answer_weights", "z_loss"), [("root-length", 0.0), ("equal", 0.01), ("root-length", 0.01)])
@torch.no_grad()
def test_weighted_answers_and_the_z_loss_are_those_of_each_answer_alone(family, batch, answer_weights, z_loss, seq_len):
    expected, weights = 0.0, 0.0
    for clip in batch:
        for talk in clip.conversations:
            _, logits, labels = alone(family, clip, talk, 0.5, "learned")
            lengths = [len(answer) + 1 for _, answer in talk.turns]  # bytes and an end
            for answer, said in zip(logits.double().split(lengths), labels.split(lengths), strict=True):
                weight = len(said) ** -0.5 if answer_weights == "root-length" else 1.0
                denominator = answer.exp().sum(1).log()
                expected += weight * float((denominator - answer[range(len(said)), said]).sum())
                expected += weight * z_loss * float((denominator**2).sum())
                weights += weight * len(said)
    model = TrainingModel(family, FinetuneSettings(seq_len=seq_len, answer_weights=answer_weights, z_loss=z_loss))
    assert model.count(batch)[0] == pytest.approx(weights)
    step = model(batch, 0.5)
    assert float(step.answer_sum) == pytest.approx(expected, rel=1e-5)
    plain = TrainingModel(family, FinetuneSettings(seq_len=seq_len))(batch, 0.5)
    assert torch.equal(step.lm_sum, plain.lm_sum), "what is logged and measured has no weights"
    assert plain.answer_sum is plain.lm_sum


def test_the_targets_gradient_reaches_the_scored_blocks_where_asked_for(family, batch):
    family.scorer.requires_grad_(False)
    family.settings = dataclasses.replace(family.settings, prune_layer=1)
    sums, reached = [], []
    for on in (False, True):
        model = TrainingModel(family, FinetuneSettings(target_gradient=on))
        encoded = model._encode(batch, 0.5, "learned", 0)
        encoded.scores = encoded.scores.detach()  # what is left is the target's own way back
        loss, _ = model._temporal(encoded, [4, 2, 6], None)
        sums.append(loss.item())
        reached.append(set(gradients(model, loss)) if loss.requires_grad else set())
    assert sums[0] == sums[1] > 0
    assert reached[0] == set()
    blocks = {name.partition("layers.")[2].partition(".")[0] for name in reached[1] if ".layers." in name}
    assert blocks == {"0", "1"}
    assert all(".vision_tower." in name for name in reached[1])


def test_the_scorers_gradient_is_bounded_by_window(family, batch):
    bounded, free = (TrainingModel(family, FinetuneSettings(clamp_scorer_gradient=on)) for on in (True, False))
    pulls = []
    for model in (bounded, free):
        original = family.encode
        held = {}

        def encode(*arguments, original=original, held=held, **options):
            out = original(*arguments, **options)
            out.scores.register_hook(lambda g: held.update(before=g.clone()))
            held["scores"] = out.scores
            out.scores.retain_grad()
            return out

        family.encode = encode
        (1000 * model(batch, 0.5).lm_sum).backward()
        family.encode = original
        pulls.append((held["before"], held["scores"].grad))
    (raw, kept), (same_raw, unbounded) = pulls
    limit = 1 / raw.numel()
    torch.testing.assert_close(raw, same_raw)
    assert float(raw.abs().max()) > limit
    assert torch.equal(kept, raw.clamp(-limit, limit))
    assert torch.equal(unbounded, same_raw)


def test_the_trainers_bound_is_that_of_the_whole_step(family, batch):
    """Not of the forward pass, or accumulation and processes would change what the scorer learns."""
    held = {}
    original = family.encode

    def encode(*arguments, **options):
        out = original(*arguments, **options)
        out.scores.retain_grad()
        held["scores"] = out.scores
        return out

    family.encode = encode
    model = TrainingModel(family, FinetuneSettings(clamp_scorer_gradient=True))
    (1000 * model(batch, 0.5, score_bound=0.0025).lm_sum).backward()
    assert float(held["scores"].grad.abs().max()) == pytest.approx(0.0025)


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_checkpointed_gradients_are_identical(base, batch, keep_ratio):
    found = []
    for checkpointed in (False, True):
        family = load_family(base)
        model = TrainingModel(family, FinetuneSettings(gradient_checkpointing=checkpointed)).train()
        if checkpointed:
            family.enable_gradient_checkpointing()
        step = model(batch, keep_ratio)
        found.append((step.lm_sum, gradients(model, step.lm_sum + step.temporal_sum)))
    (loss, plain), (again, recomputed) = found
    assert torch.equal(loss, again)
    assert plain.keys() == recomputed.keys()
    assert len(plain) > 50
    for name, gradient in plain.items():
        assert torch.equal(gradient, recomputed[name]), name


def test_pruned_training_skips_dropped_windows_in_the_backward_pass_too(family):
    """Counted, not timed: matrix products of forward and backward, dense and at keep 0.5."""
    clips = [noise_clip(8, TALKS[:2])]
    model = TrainingModel(family, FinetuneSettings(scorer="learned"))
    counted = {}
    for keep_ratio, scorer in ((1.0, "none"), (0.5, "temporal")):
        with FlopCounterMode(display=False) as forward:
            loss = model(clips, keep_ratio, scorer=scorer).lm_sum
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        counted[keep_ratio] = forward.get_total_flops(), backward.get_total_flops()
    (dense_forward, dense_backward), (forward, backward) = counted[1.0], counted[0.5]
    assert forward < 0.9 * dense_forward
    assert backward < 0.9 * dense_backward
    # what is saved forward is saved twice backward, as matrix products go: once for inputs, once for weights
    saved, saved_backward = dense_forward - forward, dense_backward - backward
    assert saved_backward > 1.6 * saved


@pytest.fixture(scope="module")
def nano():
    return load_family(load_preset("nano").model)


@pytest.mark.parametrize(("keep_ratio", "scorer"), [(1.0, "none"), (0.5, "learned"), (0.5, "random")])
@torch.no_grad()
def test_right_is_what_generation_answers(nano, keep_ratio, scorer):
    """Greedy decoding by the pipeline, question by question, against one teacher-forced pass over all."""
    right, said = [], []
    shapes = HeldOutShapes(FinetuneSettings(eval_videos=3, seed=5, frames=8), nano.frame_size)
    for (clip,) in (shapes[k] for k in range(3)):
        talks = clip.conversations[:5]
        clip = type(clip)(clip.frames, clip.timestamps_s, talks, clip.name)
        right += TrainingModel(nano)([clip], keep_ratio, scorer=scorer).right.tolist()
        encoded = nano.encode(
            nano.preprocess(clip.frames), nano.settings.override(keep_ratio=keep_ratio, scorer=scorer)
        )
        for talk in talks:
            ((asked, answer),) = talk.turns
            prompt = nano.build_prompt(list(clip.timestamps_s), asked, encoded.keep_mask)
            question_ids = prompt.input_ids[:, prompt.num_prefix :]
            prefix = generate.prefill_video(nano, prompt, encoded.visual_tokens)
            out = generate.answer(nano, prefix, question_ids, max_new_tokens=20, eos_token_ids=nano.eos_token_ids)
            said.append(out.finished and nano.tokenizer.decode(out.token_ids) == answer)
    assert right == said
    assert True in right
    assert keep_ratio == 1 or scorer == "learned" or False in right


def test_the_flops_of_held_out_clips_count_refilled_frames(family, batch):
    ratios = []
    for refill in (False, True):
        family.settings = dataclasses.replace(family.settings, refill_lone_frames=refill)
        arms = evaluate_arms(TrainingModel(family), [[clip] for clip in batch], arms={"pruned": (0.7, "learned")})
        ratios.append(arms["pruned"]["flops_ratio"])
    assert ratios[1] > ratios[0] + 0.001
