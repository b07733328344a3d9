"""Generation against the plain way: one forward pass over the whole text, no cache."""

from __future__ import annotations

import pytest
import torch

from stts_cli.engine import generate

VIDEO_START, PATCH, VIDEO_END, BOS, EOS, END = 40, 41, 42, 1, 2, 3
NUM_VISUAL = 6


@pytest.fixture(scope="module")
def model():
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

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
    return model


@pytest.fixture(scope="module")
def visual_tokens():
    return torch.randn(NUM_VISUAL, 16, generator=torch.Generator().manual_seed(1))


HEAD = torch.tensor(
    [[BOS, 7, VIDEO_START, PATCH, PATCH, PATCH, PATCH, VIDEO_END, 8, VIDEO_START, PATCH, PATCH, VIDEO_END]]
)
QUESTIONS = [torch.tensor([[5, 6, 9, 10]]), torch.tensor([[5, 20, 21, 22, 23, 10]])]


def types(ids):
    return ((ids >= VIDEO_START) & (ids <= VIDEO_END)).long()


def whole_logits(model, visual_tokens, *parts):
    """The oracle: every token in one pass, without a cache."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    ids = torch.cat([HEAD, *parts], 1)
    with torch.inference_mode():
        return model(
            input_ids=ids,
            mm_token_type_ids=types(ids),
            mm_encoder_outputs={"video": BaseModelOutputWithPooling(pooler_output=(visual_tokens,))},
            use_cache=False,
        ).logits[0]


def naive_answer(model, visual_tokens, question, max_new_tokens, eos):
    said = []
    while len(said) < max_new_tokens:
        tail = torch.tensor([said], dtype=torch.long).reshape(1, -1)
        token = int(whole_logits(model, visual_tokens, question, tail)[-1].argmax())
        if token in eos:
            return said, True
        said.append(token)
    return said, False


def prefill(model, visual_tokens):
    return generate.prefill_video(model, HEAD, types(HEAD), visual_tokens)


def test_answers_behind_one_prefix_equal_answers_alone(model, visual_tokens):
    prefix = prefill(model, visual_tokens)
    for question in [*QUESTIONS, QUESTIONS[0]]:
        said = generate.answer(model, prefix, question, max_new_tokens=5, eos_token_ids=[EOS])
        assert (said.token_ids, said.finished) == naive_answer(model, visual_tokens, question, 5, [EOS])
        assert prefix.cache.get_seq_length() == HEAD.shape[1] == prefix.num_tokens
    assert said.prefill_s > 0
    assert said.decode_s > 0


def test_the_video_matters(model, visual_tokens):
    seen = whole_logits(model, visual_tokens, QUESTIONS[0])[-1]
    other = whole_logits(model, visual_tokens.flip(0), QUESTIONS[0])[-1]
    assert (seen - other).abs().max() > 1e-3


def test_an_end_token_ends_the_answer_and_is_not_part_of_it(model, visual_tokens):
    spoken, _ = naive_answer(model, visual_tokens, QUESTIONS[0], 4, [EOS])
    last = spoken[-1]
    stop = spoken.index(last)
    said = generate.answer(model, prefill(model, visual_tokens), QUESTIONS[0], max_new_tokens=9, eos_token_ids=[last])
    assert said.token_ids == spoken[:stop]
    assert said.finished
    assert said.num_decoded == stop + 1


def test_option_scores_are_log_probabilities_of_the_whole_answer(model, visual_tokens):
    prefix = prefill(model, visual_tokens)
    options = [[11], [12, 13, 14], [12, 13]]
    question = QUESTIONS[1]
    scored = generate.score_options(model, prefix, question, options, eos_token_ids=[EOS, END])
    for option, score in zip(options, scored.log_likelihoods, strict=True):
        logits = whole_logits(model, visual_tokens, question, torch.tensor([option])).log_softmax(-1)
        start = HEAD.shape[1] + question.shape[1] - 1
        expected = sum(float(logits[start + i, token]) for i, token in enumerate(option))
        expected += float(logits[-1, [EOS, END]].logsumexp(0))
        assert score == pytest.approx(expected, abs=1e-4)
        assert score < 0
    assert scored.num_tokens == [2, 4, 3]
    assert prefix.cache.get_seq_length() == prefix.num_tokens
