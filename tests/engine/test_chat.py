"""A conversation answers as a fresh run over its whole prompt would, and what is streamed is what is answered."""

import pytest
import torch
from transformers.cache_utils import Cache

from stts_cli.engine.chat import Chat
from stts_cli.engine.model import VideoModel
from stts_cli.engine.stream import TextStream
from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.settings import Arm
from tests.families.registry import EVERY, TINY

QUESTIONS = ["What color is it?", "And where?", "How many are there?"]


@pytest.fixture(scope="module", params=[*EVERY, "molmo2"])
def model(request, tmp_path_factory, tiny_checkpoint):
    save = None if request.param == "molmo2" else TINY[request.param].save
    folder = save(tmp_path_factory.mktemp("tiny"), scorer=True) if save else tiny_checkpoint
    return VideoModel(load_family(folder), Arm("", str(folder), frames=4), max_new_tokens=5)


@torch.no_grad()
def greedy(model, video, ids, num_tokens):
    """Decode behind a whole prompt, all of it run anew for every token; (text, whether that is all)."""
    family = model.family
    dense = video.prompt("?")
    number = dense.num_prefix
    visual = family.tokenizer.convert_tokens_to_ids(list(family.visual_words))
    said = []
    for _ in range(num_tokens):
        whole = torch.tensor([[*ids, *said]])
        types = torch.zeros_like(whole)
        types[:, :number] = dense.mm_token_type_ids[:, :number]
        inputs = {**family.language_inputs(whole, types, [video.tokens.visual_tokens])}
        if dense.position_ids is not None:
            start = dense.position_ids[..., :number]
            behind = start[..., -1:] + 1 + torch.arange(whole.shape[1] - number)
            inputs["position_ids"] = torch.cat([start, behind.expand(*start.shape[:-1], -1)], -1)
        token = int(family.model(**inputs, use_cache=False).logits[0, -1].argmax())
        if token in family.eos_token_ids:
            break
        said.append(token)
        if token in visual:
            break  # a model with random weights may say one; read again it would stand for a visual token
    return family.tokenizer.decode(said, skip_special_tokens=True).strip(), not set(said) & set(visual)


def test_each_answer_is_that_of_a_fresh_run_over_the_whole_conversation(model, clip_file):
    video = model.encode(clip_file)
    chat = Chat(model, video)
    for number, question in enumerate(QUESTIONS):
        ids = chat.prompt_ids(question)
        answer = chat.ask(question)
        fresh, is_whole = greedy(model, video, ids, 5)
        assert answer.text == fresh if is_whole else answer.text.startswith(fresh)
        assert answer.num_prompt_tokens == len(ids)
        assert len(chat.turns) == number + 1
    first = model.ask(model.encode(clip_file), QUESTIONS[0])
    assert chat.turns[0] == (QUESTIONS[0], first.text), "the first question is one asked alone"
    assert video.prefix is not None
    assert model.ask(video, QUESTIONS[1]).text == model.ask(model.encode(clip_file), QUESTIONS[1]).text, "as it was"


def test_of_each_turn_what_is_new_is_read(model, clip_file, monkeypatch):
    video = model.encode(clip_file)
    chat = Chat(model, video)
    chat.ask(QUESTIONS[0])
    before = len(chat.prompt_ids(QUESTIONS[0]))
    read = []
    whole = model.family.model.forward

    def forward(*args, **given):
        read.append(given["input_ids"].shape[1])
        return whole(*args, **given)

    monkeypatch.setattr(model.family.model, "forward", forward)
    answer = chat.ask(QUESTIONS[1])
    if model.family.cache_reuse == "crop":
        assert sum(read) - (answer.num_new_tokens - 1) < answer.num_prompt_tokens - video.prefix.num_tokens
    assert read[0] < before


def test_a_turn_that_was_stopped_leaves_no_trace(model, clip_file, monkeypatch):
    chat, other = Chat(model, model.encode(clip_file)), Chat(model, model.encode(clip_file))
    for each in (chat, other):
        each.ask(QUESTIONS[0])

    def stop(self, prefix, tail, limit, on_text, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VideoModel, "speak", stop)
        with pytest.raises(KeyboardInterrupt):
            chat.ask(QUESTIONS[1])
    assert len(chat.turns) == 1
    assert chat.ask(QUESTIONS[2]).text == other.ask(QUESTIONS[2]).text
    assert chat.turns == other.turns


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_ctrl_c_in_a_pass_leaves_no_trace(model, clip_file, monkeypatch, passes):
    """Passes of a turn: over the question, over its last token, over the answer's first."""
    chat, other = Chat(model, model.encode(clip_file)), Chat(model, model.encode(clip_file))
    whole, layers, left = Cache.update, set(), [passes]

    def update(cache, keys, values, layer, *args, **given):
        layers.add(layer)
        return whole(cache, keys, values, layer, *args, **given)

    def stop(cache, keys, values, layer, *args, **given):
        left[0] -= layer == max(layers)
        if not left[0]:
            raise KeyboardInterrupt  # the layers before have appended theirs
        return whole(cache, keys, values, layer, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "update", update)
        for each in (chat, other):
            each.ask(QUESTIONS[0])
        patch.setattr(Cache, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            chat.ask(QUESTIONS[1])
    assert chat.ask(QUESTIONS[2]).text == other.ask(QUESTIONS[2]).text
    assert chat.ask(QUESTIONS[0]).text == other.ask(QUESTIONS[0]).text


def test_a_conversation_too_long_costs_one_question(model, clip_file):
    chat = Chat(model, model.encode(clip_file))
    chat.ask(QUESTIONS[0])
    with pytest.raises(InputError, match=r"^the conversation: has \d+ tokens, the model takes \d+; begin a new one\.$"):
        chat.ask("Why? " * 5000)
    assert len(chat.turns) == 1
    assert chat.ask(QUESTIONS[1]).text is not None


def test_what_is_streamed_is_the_answer(model, clip_file):
    video = model.encode(clip_file)
    for question in QUESTIONS:
        pieces = []
        answer = model.ask(video, question, on_text=pieces.append)
        assert "".join(pieces) == answer.text == model.ask(video, question).text


class Letters:
    """A tokenizer of bytes."""

    def decode(self, tokens, skip_special_tokens):
        return bytes(tokens).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab", ["a", "b"]),
        (" a b ", ["a", " b"]),
        ("\u00e9!", ["\u00e9", "!"]),
        ("a\n\n", ["a"]),
        ("   ", []),
    ],
)
def test_a_piece_is_passed_on_once_nothing_can_change_it(text, pieces):
    got = []
    stream = TextStream(Letters(), got.append)
    for token in text.encode():
        stream(token)
    stream.end(text.strip())
    assert got == pieces


def test_a_text_that_does_not_go_on_so_is_shown_whole():
    got = []
    stream = TextStream(Letters(), got.append)
    stream(ord("a"))
    stream.end("b c")
    assert got == ["a", "\nb c"]
