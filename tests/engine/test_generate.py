"""Generation against the plain way: one forward pass over the whole text, no cache."""

from __future__ import annotations

import pytest
import torch

from stts_cli.engine import generate
from stts_cli.families.base import Prompt

VIDEO_START, PATCH, VIDEO_END, BOS, EOS, END = 40, 41, 42, 1, 2, 3
NUM_VISUAL = 6


@pytest.fixture(scope="module")
def family():
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    from stts_cli.families.frames import FrameProcessor
    from stts_cli.families.molmo2 import Molmo2Family
    from stts_cli.settings import FixedLayout, Layout, Pruning

    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = Molmo2Config(
        vision_config={
            **heads, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "image_size": [8, 8],
            "patch_size": 4, "num_position_embeddings": 4,
        },
        adapter_config={
            **heads, "vision_feature_layer": [1, 0], "hidden_size": 16, "intermediate_size": 32, "text_hidden_size": 16,
        },
        text_config={
            **heads, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 40,
            "additional_vocab_size": 8, "max_position_embeddings": 256,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_start_token_id=43, low_res_image_start_token_id=44, image_end_token_id=45, image_patch_id=PATCH,
        frame_start_token_id=VIDEO_START, frame_end_token_id=VIDEO_END, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    model = Molmo2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    rule = FixedLayout(Layout((8, 8), (2, 2), (2, 2)))
    return Molmo2Family(
        model, None, scorer=None, frames=FrameProcessor(), layout_rule=rule, settings=Pruning(), model_name="tiny"
    )


@pytest.fixture(scope="module")
def visual_tokens():
    return torch.randn(NUM_VISUAL, 16, generator=torch.Generator().manual_seed(1))


HEAD = torch.tensor(
    [[BOS, 7, VIDEO_START, PATCH, PATCH, PATCH, PATCH, VIDEO_END, 8, VIDEO_START, PATCH, PATCH, VIDEO_END]]
)
QUESTIONS = [torch.tensor([[5, 6, 9, 10]]), torch.tensor([[5, 20, 21, 22, 23, 10]])]


def types(ids):
    return ((ids >= VIDEO_START) & (ids <= VIDEO_END)).long()


def whole_logits(family, visual_tokens, *parts):
    """The oracle: every token in one pass, without a cache."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    ids = torch.cat([HEAD, *parts], 1)
    with torch.inference_mode():
        return family.model(
            input_ids=ids,
            mm_token_type_ids=types(ids),
            mm_encoder_outputs={"video": BaseModelOutputWithPooling(pooler_output=(visual_tokens,))},
            use_cache=False,
        ).logits[0]


def naive_answer(family, visual_tokens, question, max_new_tokens, eos):
    said = []
    while len(said) < max_new_tokens:
        tail = torch.tensor([said], dtype=torch.long).reshape(1, -1)
        token = int(whole_logits(family, visual_tokens, question, tail)[-1].argmax())
        if token in eos:
            return said, True
        said.append(token)
    return said, False


def prefill(family, visual_tokens, position_ids=None):
    prompt = Prompt(HEAD, types(HEAD), HEAD.shape[1], HEAD.shape[1], position_ids)
    return generate.prefill_video(family, prompt, visual_tokens)


def test_answers_behind_one_prefix_equal_answers_alone(family, visual_tokens):
    prefix = prefill(family, visual_tokens)
    for question in [*QUESTIONS, QUESTIONS[0]]:
        said = generate.answer(family, prefix, question, max_new_tokens=5, eos_token_ids=[EOS])
        assert (said.token_ids, said.finished) == naive_answer(family, visual_tokens, question, 5, [EOS])
        assert prefix.cache.get_seq_length() == HEAD.shape[1] == prefix.num_tokens
    assert said.prefill_s > 0
    assert said.decode_s > 0


def test_tokens_behind_a_video_count_on_from_its_own_positions(family, visual_tokens):
    """Only differences of positions matter to this model, so that 7, 8, 9... is 0, 1, 2..."""
    prefix = prefill(family, visual_tokens, torch.arange(HEAD.shape[1])[None] + 7)
    said = generate.answer(family, prefix, QUESTIONS[1], max_new_tokens=5, eos_token_ids=[EOS])
    assert (said.token_ids, said.finished) == naive_answer(family, visual_tokens, QUESTIONS[1], 5, [EOS])
    scored = [
        generate.score_options(family, each, QUESTIONS[1], [[11], [12, 13]], eos_token_ids=[EOS]).log_likelihoods
        for each in (prefix, prefill(family, visual_tokens))
    ]
    assert scored[0] == pytest.approx(scored[1], abs=1e-4)


def test_a_cache_that_cannot_be_cut_is_copied(family, visual_tokens, monkeypatch):
    prefix = prefill(family, visual_tokens)
    cut = generate.score_options(family, prefix, QUESTIONS[0], [[11], [12, 13]], eos_token_ids=[EOS])
    monkeypatch.setattr(family, "cache_reuse", "copy")
    monkeypatch.setattr(prefix.cache, "crop", None)
    for _ in range(2):
        copied = generate.score_options(family, prefix, QUESTIONS[0], [[11], [12, 13]], eos_token_ids=[EOS])
        assert copied.log_likelihoods == cut.log_likelihoods
        said = generate.answer(family, prefix, QUESTIONS[0], max_new_tokens=5, eos_token_ids=[EOS])
        assert (said.token_ids, said.finished) == naive_answer(family, visual_tokens, QUESTIONS[0], 5, [EOS])
        assert prefix.cache.get_seq_length() == prefix.num_tokens


def test_the_video_matters(family, visual_tokens):
    seen = whole_logits(family, visual_tokens, QUESTIONS[0])[-1]
    other = whole_logits(family, visual_tokens.flip(0), QUESTIONS[0])[-1]
    assert (seen - other).abs().max() > 1e-3


def test_an_end_token_ends_the_answer_and_is_not_part_of_it(family, visual_tokens):
    spoken, _ = naive_answer(family, visual_tokens, QUESTIONS[0], 4, [EOS])
    last = spoken[-1]
    stop = spoken.index(last)
    said = generate.answer(family, prefill(family, visual_tokens), QUESTIONS[0], max_new_tokens=9, eos_token_ids=[last])
    assert said.token_ids == spoken[:stop]
    assert said.finished
    assert said.num_decoded == stop + 1


def test_option_scores_are_log_probabilities_of_the_whole_answer(family, visual_tokens):
    prefix = prefill(family, visual_tokens)
    options = [[11], [12, 13, 14], [12, 13]]
    question = QUESTIONS[1]
    scored = generate.score_options(family, prefix, question, options, eos_token_ids=[EOS, END])
    for option, score in zip(options, scored.log_likelihoods, strict=True):
        logits = whole_logits(family, visual_tokens, question, torch.tensor([option])).log_softmax(-1)
        start = HEAD.shape[1] + question.shape[1] - 1
        expected = sum(float(logits[start + i, token]) for i, token in enumerate(option))
        expected += float(logits[-1, [EOS, END]].logsumexp(0))
        assert score == pytest.approx(expected, abs=1e-4)
        assert score < 0
    assert scored.num_tokens == [2, 4, 3]
    assert prefix.cache.get_seq_length() == prefix.num_tokens
