"""Models that may think before they answer: asked to or not, and what of their tokens is the answer."""

import json

import numpy as np
import pytest

from stts_cli import cli, load
from stts_cli.engine import generate
from stts_cli.engine.chat import Chat
from stts_cli.engine.thinking import Thoughts
from stts_cli.errors import InputError
from stts_cli.families import load_family
from tests.families.registry import TINY
from tests.families.tiny import byte_tokenizer
from tests.families.tiny_qwen3_5 import STORED
from tests.families.tiny_qwen3_vl import QUESTION, TIMES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(TINY["qwen3_5"].save(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def says(monkeypatch):
    """Let a model with a temperature say given tokens."""

    def script(ids):
        left = iter(ids)
        monkeypatch.setattr(generate, "Sampler", lambda *_: lambda logits: next(left))

    return script


def answer_of(text, prompt=""):
    words = byte_tokenizer(("<think>", "</think>", "<|begin_of_box|>", "<|end_of_box|>"))
    ids = words(text)["input_ids"]
    return words.decode([*filter(Thoughts(words, words(prompt)["input_ids"]), ids)])


@pytest.mark.parametrize(
    ("prompt", "said", "answer"),
    [
        ("", "red", "red"),
        ("<think>\n", "it moves</think>\n\nred", "\n\nred"),
        ("<think>\n", "it moves", ""),
        ("<think>\n\n</think>\n\n", "red", "red"),
        ("", "<think>it moves</think>red", "red"),
        ("", "so<think>it moves", "so"),
        ("", "It is <|begin_of_box|>B<|end_of_box|>.", "It is B."),
        ("", "<answer>B</answer>", "<answer>B</answer>"),
    ],
)
def test_an_answer_is_what_is_not_thought(prompt, said, answer):
    assert answer_of(said, prompt) == answer


def test_a_tokenizer_without_such_tokens_has_answers_alone():
    words = byte_tokenizer(("<eos>",))
    ids = words("<think>a</think>b")["input_ids"]
    assert [*filter(Thoughts(words, []), ids)] == ids


@pytest.mark.parametrize(("think", "name"), [(False, "plain"), (True, "thinking")])
def test_the_prompt_is_what_the_stock_processor_writes(checkpoint, think, name):
    family = load_family(checkpoint)
    layout = family.layout_rule(24, 24, 5)
    keep = np.ones((3, layout.num_windows), bool)
    import torch

    prompt = family.build_prompt(TIMES, QUESTION, torch.from_numpy(keep), layout=layout, think=think)
    with np.load(STORED) as stored:
        assert prompt.input_ids[0].tolist() == stored[name].tolist()


def test_thinking_is_left_out_of_the_answer_and_of_what_comes(checkpoint, clip_file, says):
    model = load(checkpoint, device="cpu", frames=4, temperature=1.0, think=True, max_new_tokens=40)
    words = model.family.tokenizer
    pieces = []
    says(words("It is red.</think>\n\nblue<|im_end|>")["input_ids"])
    answer = model.ask(clip_file, QUESTION, on_text=pieces.append)
    assert (answer.text, answer.finished) == ("blue", True)
    assert "".join(pieces) == "blue"
    says(words("I cannot say, and cannot say, and cannot say")["input_ids"])
    cut = model.ask(clip_file, QUESTION, max_new_tokens=10)
    assert (cut.text, cut.finished) == ("", False)


def test_thinking_has_more_room_unless_told(checkpoint):
    limits = [
        load(checkpoint, device="cpu", frames=4, **given).max_new_tokens
        for given in ({}, {"think": True}, {"think": True, "max_new_tokens": 7})
    ]
    assert limits == [64, 4096, 7]


def test_a_conversation_thinks_about_its_last_question(checkpoint, clip_file, says):
    model = load(checkpoint, device="cpu", frames=4, temperature=1.0, think=True, max_new_tokens=40)
    chat = Chat(model, model.encode(clip_file))
    words = model.family.tokenizer
    says(words("Hm.</think>\n\nblue<|im_end|>")["input_ids"])
    assert chat.ask("Which?").text == "blue"
    text = words.decode(chat.prompt_ids("Why?"))
    assert "<think>\n\n</think>\n\nblue<|im_end|>" in text
    assert text.endswith("Why?<|im_end|>\n<|im_start|>assistant\n<think>\n")


def test_options_are_not_thought_about(checkpoint, clip_file):
    model = load(checkpoint, device="cpu", frames=4, think=True)
    with pytest.raises(InputError, match="--think: cannot stand with options"):
        model.ask(clip_file, QUESTION, options=["red", "blue"])


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_a_model_without_the_choice_is_not_asked_to_think(tmp_path, clip_file, capsys):
    folder = TINY["qwen3_vl"].save(tmp_path)
    code, out, err = run(
        capsys, "ask", clip_file, QUESTION, "--model", folder, "--frames", 4, "--device", "cpu", "--think"
    )
    assert (code, out) == (2, "")
    assert "--think: the chat template of" in err


def test_eval_records_thinking_and_counts_what_was_cut(checkpoint, capsys):
    words = ("eval", "--bench", "shapes", "--limit", 3, "--model", checkpoint, "--frames", 4, "--workers", 0)
    words = (*words, "--device", "cpu", "--think", "--max-new-tokens", 3)
    code, out, _ = run(capsys, *words, "--json")
    document = json.loads(out)
    assert (code, document["config"]["think"], document["config"]["max_new_tokens"]) == (0, True, 3)
    (arm,) = document["arms"].values()
    assert arm["n_cut"] == sum(not row["finished"] for row in document["samples"]) > 0
    code, out, _ = run(capsys, *words)
    assert f"cut at 3 tokens, so perhaps unread: {next(iter(document['arms']))} {arm['n_cut']}" in " ".join(out.split())
