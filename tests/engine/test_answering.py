"""How answers are worded: drawn by a temperature, cut at a text that ends them, behind a system prompt."""

import json

import pytest
import torch

from stts_cli import cli, load
from stts_cli.config.arms import parse_arm
from stts_cli.engine.chat import Chat
from stts_cli.engine.generate import Sampler
from stts_cli.engine.stream import TextStream, cut
from stts_cli.errors import InputError
from stts_cli.evaluation.seeds import expand_seeds
from stts_cli.families import load_family
from stts_cli.settings import Answering, Arm
from tests.families.registry import EVERY, TINY

SYSTEM = "Answer in one word."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(TINY["qwen3_vl"].save(tmp_path_factory.mktemp("tiny")))


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


# --- drawing


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (2.0, 0.3)])
def test_tokens_are_drawn_as_transformers_would(temperature, top_p):
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = torch.randn(12, generator=torch.Generator().manual_seed(1))
    draw = Sampler(temperature, top_p, 0)
    counts = torch.bincount(torch.tensor([draw(logits) for _ in range(4000)]), minlength=12)
    theirs = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits[None])).softmax(-1)[0]
    assert counts[theirs == 0].sum() == 0
    assert (counts / 4000 - theirs).abs().max() < 0.03


def test_a_temperature_near_0_is_greedy():
    logits = torch.tensor([0.0, 3.0, 2.9])
    assert [Sampler(1e-9, 1.0, seed)(logits) for seed in range(20)] == [1] * 20


def test_an_answer_is_its_seeds(checkpoint, clip_file):
    def answers(seed, **given):
        model = load(checkpoint, device="cpu", frames=4, seed=seed, max_new_tokens=8, **given)
        video = model.encode(clip_file)
        return [model.ask(video, question).text for question in ("Why?", "Who?")]

    first = answers(0, temperature=2.0)
    assert first == answers(0, temperature=2.0)
    assert first != answers(1, temperature=2.0)
    model = load(checkpoint, device="cpu", frames=4, max_new_tokens=8, temperature=2.0)
    assert model.ask(str(clip_file), "Who?").text == first[1], "whatever was asked before"
    assert answers(0) == answers(1) == answers(0, temperature=1e-9)


def test_seeds_are_for_every_arm_that_draws():
    arms = [Arm("dense", "m", keep_ratio=1.0), Arm("a", "m", keep_ratio=0.5)]
    assert [arm.seed for arm in expand_seeds(arms, 2, Answering(temperature=1.0))] == [0, 1, 0, 1]
    with pytest.raises(InputError, match="no arm draws at random; add --compare random or a --temperature"):
        expand_seeds(arms, 2)


def test_a_preset_beside_it_draws_by_the_same_seed():
    assert parse_arm("nano", Arm("a", "m", seed=3)).seed == 3


# --- the end of an answer


class Letters:
    def decode(self, ids, skip_special_tokens):
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("said", "stop", "given", "read"),
    [
        ("a b. c", ["."], "a b", 4),
        ("one\n\ntwo", ["\n\n"], "one", 5),
        ("aab", ["ab"], "a", 3),
        ("xEN yEND z", ["END", "STOP"], "xEN y", 8),
        ("nothing of it", ["?"], "nothing of it", 13),
        (".", ["."], "", 1),
        ("EN", ["END"], "EN", 2),
    ],
)
def test_what_ends_an_answer_is_no_part_of_it(said, stop, given, read):
    got = []
    stream = TextStream(Letters(), got.append, stop)
    ends = [stream(ord(letter)) for letter in said[:read]]
    assert ends == [False] * (read - 1) + [given != said]
    assert given.startswith("".join(got).strip()), "nothing was shown that is taken back"
    stream.end(cut(said[:read], stop).strip())
    assert "".join(got) == given


def test_an_answer_ends_there(checkpoint, clip_file):
    model = load(checkpoint, device="cpu", frames=4, max_new_tokens=24)
    whole = model.ask(str(clip_file), "Why?")
    word = whole.text[3:5]
    model = load(checkpoint, device="cpu", frames=4, max_new_tokens=24, stop=[word])
    pieces = []
    answer = model.ask(str(clip_file), "Why?", on_text=pieces.append)
    assert answer.text == whole.text[: whole.text.index(word)].strip() == "".join(pieces)
    assert answer.finished
    assert answer.num_new_tokens < whole.num_new_tokens
    assert Chat(model, model.encode(clip_file)).ask("Why?").text == answer.text


# --- the system prompt


@pytest.mark.parametrize("name", EVERY)
def test_the_system_prompt_stands_before_the_video(name, tmp_path):
    family = load_family(TINY[name].save(tmp_path))
    mask = torch.ones(1, family.layout_rule(*TINY[name].size, 1).num_windows, dtype=torch.bool)
    how = {"layout": family.layout_rule(*TINY[name].size, 1)}
    plain, told = (family.build_prompt([0.0], "Why?", mask, system=system, **how) for system in ("", SYSTEM))
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Why?"}]},
    ]
    template = family.chat_template or family.tokenizer.chat_template
    theirs = family.tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    text = family.tokenizer.decode(told.input_ids[0])
    assert text.startswith(theirs.partition(family.video_tag)[0].rstrip())
    assert text.index(SYSTEM) < text.index(family.placeholder)
    behind = plain.input_ids.shape[1] - plain.num_prefix
    assert torch.equal(told.input_ids[0, -behind:], plain.input_ids[0, -behind:])
    prefix = family.video_prefix([0.0], mask, how["layout"], system=SYSTEM)
    assert torch.equal(prefix.ids, told.input_ids[0, : told.num_prefix])


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}<video>",
        "{% for m in messages if m.role == 'user' %}{% for c in m.content %}"
        "{% if c.type == 'video' %}<video>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_without_a_place_for_it_is_said(checkpoint, template):
    family = load_family(checkpoint)
    family.tokenizer.chat_template = template.replace("<video>", family.video_tag)
    layout = family.layout_rule(16, 40, 1)
    mask = torch.ones(1, layout.num_windows, dtype=torch.bool)
    with pytest.raises(InputError, match=r"^--system: the chat template of .* has no place for one; leave it out\.$"):
        family.build_prompt([0.0], "Why?", mask, layout=layout, system=SYSTEM)


def test_special_tokens_in_it_are_letters(checkpoint):
    family = load_family(checkpoint)
    layout = family.layout_rule(16, 40, 1)
    mask = torch.ones(1, layout.num_windows, dtype=torch.bool)
    prompt = family.build_prompt([0.0], "Why?", mask, layout=layout, system="say <|im_end|> and <|video_pad|>")
    assert int((prompt.input_ids == family.tokenizer.convert_tokens_to_ids("<|video_pad|>")).sum()) == mask.numel()


def test_a_conversation_begins_with_it(checkpoint, clip_file):
    plain, told = (load(checkpoint, device="cpu", frames=4, max_new_tokens=6, system=text) for text in ("", SYSTEM))
    chat = Chat(told, told.encode(clip_file))
    assert chat.ask("Why?").text == told.ask(str(clip_file), "Why?").text
    more = len(told.family.tokenize(SYSTEM))
    assert len(chat.prompt_ids("Who?")) > len(Chat(plain, plain.encode(clip_file)).prompt_ids("Who?")) + more


# --- the commands


def test_ask_records_how(checkpoint, clip_file, capsys):
    words = ["ask", clip_file, "Why?", "--model", checkpoint, "--frames", "2", "--max-new-tokens", "4", "--json"]
    how = ["--system", SYSTEM, "--temperature", "0.7", "--top-p", "0.9", "--seed", "3", "--stop", "ab", "xyz"]
    code, out, err = run(capsys, *words, *how)
    assert code == 0, err
    asked = {"system": SYSTEM, "temperature": 0.7, "top_p": 0.9, "stop": ["ab", "xyz"]}
    assert json.loads(out)["answering"] == asked
    assert json.loads(run(capsys, *words)[1])["answering"] == {}


def test_eval_records_how_and_goes_on_with_the_same_only(checkpoint, tmp_path, capsys):
    words = ["eval", "--bench", "shapes", "--limit", "2", "--frames", "2", "--model", checkpoint, "--workers", "0"]
    words += ["--output", tmp_path / "out", "--max-new-tokens", "2"]
    assert run(capsys, *words, "--temperature", "0.7", "--stop", "ab")[0] == 0
    config = json.loads((tmp_path / "out" / "results.json").read_text())["config"]
    assert (config["temperature"], config["stop"]) == (0.7, ["ab"])
    assert "system" not in config
    code, _, err = run(capsys, *words, "--stop", "ab")
    assert code == 2
    assert "holds a run with temperature 0.7, this one has None" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--temperature", "-1"], "--temperature -1.0: must be a number, at least 0."),
        (["--temperature", "nan"], "--temperature nan: must be a number, at least 0."),
        (["--temperature", "1", "--top-p", "0"], "--top-p 0.0: must be greater than 0 and at most 1."),
        (["--top-p", "0.5"], "--top-p 0.5: has no effect on greedy answers; give a --temperature too."),
        (["--stop="], "--stop ['']: must be texts, none of them empty."),
        (["--system", ""], "--system: is empty; give a text, or leave it out."),
    ],
)
@pytest.mark.parametrize("command", [["ask", "{clip}", "Why?"], ["eval", "--bench", "shapes"]], ids=["ask", "eval"])
def test_what_means_nothing_is_one_line(command, words, line, clip_file, capsys):
    code, _, err = run(capsys, *(word.format(clip=clip_file) for word in command), *words)
    assert code == 2
    assert " ".join(err.split()).endswith(line)


def test_options_are_not_worded(checkpoint, clip_file, capsys):
    words = ["ask", clip_file, "Why?", "--model", checkpoint, "--frames", "2", "--options", "a", "b"]
    code, _, err = run(capsys, *words, "--temperature", "1", "--batch-size", "2")
    assert code == 0
    assert "--temperature, --stop: no effect with --options" in " ".join(err.split())
    assert "--batch-size 2: no effect where a question has options." in " ".join(err.split())
