"""`ask --chat` and answers as they come, as a user sees them."""

import io
import json

import pytest

from stts_cli import cli
from stts_cli.commands.chatting import ALONE
from stts_cli.text import printable


class Terminal(io.StringIO):
    """What is typed or shown, on a terminal or through a pipe; Ctrl-C where a line says so."""

    def __init__(self, text="", is_terminal=True):
        super().__init__(text)
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal

    def readline(self, *args):
        line = super().readline(*args)
        if line == "CTRL-C\n":
            raise KeyboardInterrupt
        return line


@pytest.fixture
def run(tiny_checkpoint, clip_file, capsys, monkeypatch):
    """Return what asks, with what is typed, and gives (exit code, stdout, stderr)."""

    def run(*words, typed="", stdin_is_terminal=False):
        monkeypatch.setattr("sys.stdin", Terminal(typed, stdin_is_terminal))
        words = [w if w != "CLIP" else str(clip_file) for w in words]
        own = ["--model", str(tiny_checkpoint), "--frames", "4", "--device", "cpu", "--max-new-tokens", "4"]
        with pytest.raises(SystemExit) as ended:
            cli.main(["ask", *words, *own])
        return (ended.value.code, *capsys.readouterr())

    return run


def test_questions_through_a_pipe_are_answered_in_turn(run):
    code, out, err = run("CLIP", "What is it?", "--chat", "--json", typed="And where?\n\n  Why?  \n")
    assert code == 0, err
    assert err.count(f"stts: {ALONE}") == 1, "the tiny checkpoint is said to be a demonstration"
    documents = [json.loads(line) for line in out.splitlines()]
    turns = [document["arms"][0]["answers"] for document in documents]
    assert [[answer["question"] for answer in answers] for answers in turns] == [
        ["What is it?"], ["And where?"], ["Why?"]
    ]  # fmt: skip
    lengths = [answers[0]["num_prompt_tokens"] for answers in turns]
    assert lengths[0] < lengths[1] < lengths[2], "each is asked behind what was said"
    code, quiet, _ = run("CLIP", "What is it?", "--chat", "-q", typed="And where?\nWhy?\n")
    assert code == 0
    assert quiet.splitlines() == [printable(" ".join(answers[0]["text"].split())) for answers in turns]
    code, table, _ = run("CLIP", "--chat", typed="What is it?\n")
    assert code == 0
    assert table.index(printable(turns[0][0]["text"])) < table.index("visual tokens")


def test_on_a_terminal_ctrl_c_at_the_prompt_goes_on_and_ctrl_d_leaves(run):
    code, out, _ = run("CLIP", "--chat", typed="What is it?\nCTRL-C\n\nWhy?\n", stdin_is_terminal=True)
    assert code == 0
    assert "2 questions behind one encoded video" in out


def test_a_question_too_long_costs_itself(run):
    code, out, err = run("CLIP", "--chat", "-q", typed="Why? " * 3000 + "\nWhat is it?\n")
    assert code == 2
    assert len(out.splitlines()) == 1
    assert "the conversation: has" in err
    assert err.splitlines()[-1] == "stts: 1 of 2 questions were not answered; see above."


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["CLIP", "CLIP", "--chat"], "--chat: is about one video; ask several without it."),
        (["CLIP", "--chat", "--compare", "dense"], "--chat: is with one model; it cannot stand with --compare or"),
        (["CLIP", "?", "--chat", "--options", "a", "b"], "--chat: its answers are worded; it cannot stand with"),
        (["CLIP", "--chat", "--output", "lines.jsonl"], "--output lines.jsonl: keeps a line a video; it cannot stand"),
        (["-", "--chat"], "--chat: reads questions from standard input; name the video's file."),
    ],
)
def test_what_cannot_stand_with_it_is_refused(run, words, line):
    code, out, err = run(*words)
    assert code == 2
    assert not out
    assert err.splitlines()[-1].startswith(f"stts: {line}")


def test_answers_come_piece_by_piece_on_a_terminal(run, monkeypatch):
    from stts_cli.commands import asking

    pieces = []
    monkeypatch.setattr(asking, "print_piece", pieces.append)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, _ = run("CLIP", "What is it?", "Why?")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    _, plain, _ = run("CLIP", "What is it?", "Why?")
    shown = "".join(pieces)
    assert len(pieces) > 6
    assert printable(shown).rstrip("\n").splitlines() == plain[: plain.index("\n\n")].splitlines()
    assert printable(shown).strip() not in out, "and are not shown again"
