"""What is trained on is what is asked: the words of the prompt, the answers behind them, and who has to say what."""

import pytest
import torch

from stts_cli.config.presets import load_preset
from stts_cli.errors import InputError
from stts_cli.families import load_family

TIMES = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module", params=["released", "nano", "bytes"])
def family(request, released):
    """The released chat template, nano's, and no template at all."""
    if request.param == "nano":
        return load_family(load_preset("nano").model)
    loaded = load_family(released)
    if request.param == "bytes":
        loaded.tokenizer.chat_template = None
    return loaded


@pytest.fixture
def keep(family):
    mask = torch.ones(3, family.shape().num_windows, dtype=torch.bool)
    mask[1, 2:] = False
    return mask


def words(family, ids):
    return family.tokenizer.decode(ids)


def ids_of(family, text):
    return family.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("question", "answer", "context"),
    [
        ("What color is it?", "red", ""),
        ("How many squares are there?", "3", "\nSubtitles: one two\n"),
        ("Two\nlines?", "it does, twice", ""),
    ],
)
def test_one_turn_is_the_prompt_and_the_answer(family, keep, question, answer, context):
    """Prefix and turn, put together, are what inference reads; behind it the answer and the token that ends it."""
    prompt = family.build_prompt(TIMES, question, keep, context=context)
    prefix, is_visual, _ = family.video_prefix(TIMES, keep)
    ids, is_answer = family.conversation_ids(((question, answer),), context)
    said = [*ids_of(family, answer), family.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert prefix.tolist() + ids == prompt.input_ids[0].tolist() + said
    assert is_visual.tolist() == prompt.mm_token_type_ids[0, : len(prefix)].bool().tolist()
    assert not prompt.mm_token_type_ids[0, len(prefix) :].any()
    assert is_answer == [False] * (len(ids) - len(said)) + [True] * len(said)
    assert said[-1] in family.eos_token_ids
    assert int((prefix == family.tokenizer.convert_tokens_to_ids("<im_patch>")).sum()) == int(keep.sum())


def test_several_turns_follow_as_the_template_words_them(family):
    turns = (("How many?", "3"), ("Sure?", "yes it is"), ("Why?", "it moved"))
    ids, is_answer = family.conversation_ids(turns)
    pieces = []
    for number, (question, answer) in enumerate(turns):
        start = "\n" if number else ""
        pieces.append((f"{start}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces += [(answer, True), ("<|im_end|>", True)]
    expected = [(i, said) for text, said in pieces for i in ids_of(family, text)]
    assert list(zip(ids, is_answer, strict=True)) == expected


def test_a_conversation_begins_like_every_shorter_one(family):
    """What is learned for a later turn is what inference would have read up to it."""
    turns = (("How many?", "3"), ("Sure?", "yes"))
    whole, first = family.conversation_ids(turns)[0], family.conversation_ids(turns[:1])[0]
    assert whole[: len(first)] == first
    assert len(whole) > len(first)


def test_the_video_stands_once_in_front(family):
    ids, _ = family.conversation_ids((("One?", "1"), ("Two?", "2")))
    text = words(family, ids)
    assert "<|video|>" not in text
    assert "<im_patch>" not in text
    assert text.count("<|im_start|>user") == 2


def test_answers_keep_their_own_tokens(family):
    """An answer that would melt into the words before it is tokenized as it is said: by itself."""
    for answer in ("\n", " 3", "9.5", "it\n\ndid"):
        ids, is_answer = family.conversation_ids((("How many?", answer),))
        said = [i for i, own in zip(ids, is_answer, strict=True) if own]
        assert said[:-1] == ids_of(family, answer)


def test_special_tokens_in_what_is_said_stay_words(family):
    """Trained as it will be asked: no token of the video's, nor the end of a turn, comes from a person's words."""
    words = "<im_patch><|video|><|im_end|>"
    ids, is_answer = family.conversation_ids(((f"a{words}", words), ("b", "c")), words)
    special = family.tokenizer.convert_tokens_to_ids(["<im_patch>", "<|video|>"])
    assert not set(ids) & set(special)
    assert ids.count(family.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 4
    assert family.tokenizer.decode(ids).count(words) == 3
    said = [i for i, own in zip(ids, is_answer, strict=True) if own]
    assert family.tokenizer.decode(said[: -len(family.tokenize("c")) - 2]) == words


def test_a_template_that_rewrites_answers_is_told(released):
    family = load_family(released)
    family.tokenizer.chat_template = family.tokenizer.chat_template.replace(
        "{{ content['text'] }}", "{{ content['text'] | trim }}"
    )
    assert family.conversation_ids((("a", "b"),))[1].count(True) == 2
    with pytest.raises(InputError, match=r"^answer ' b': the chat template of .* rewrites it; strip blanks"):
        family.conversation_ids((("a", " b"),))
