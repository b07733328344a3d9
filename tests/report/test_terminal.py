"""Text from outside is shown as it is: it is no markup, and steers no terminal, picture or page."""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from stts_cli import cli
from stts_cli.evaluation import suite
from stts_cli.report import evaluate as report_eval
from stts_cli.report import finetune as report_finetune
from stts_cli.report import plots
from stts_cli.report.evaluation_page import literal, markdown
from stts_cli.report.progress import Progress
from stts_cli.report.terminal import CLOSED_PIPE, Screen, print_json, print_lines, print_note
from stts_cli.text import printable, to_json
from tests.report.evaluations import document as eval_document
from tests.report.test_finetune import EVENTS, make_document

PACKAGE = Path(__file__).parents[2] / "stts_cli"
STEERING = ["\x00", "\x07", "\x1b", "\r", "\x7f", "\x85", "\x9b", "\u202e", "\u2066", "\u200f", "\u2028", "\udcff"]
HOSTILE = "[red]x[/nope]\x1b[31m\x9b2J\u202egpj.\udcff|<b>$\\frac{$"


def steers(text: str) -> list[str]:
    """Characters that may not reach a terminal; rich's own colours are taken out first."""
    text = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[1?[AK]|\x1b\[2K|\r", "", text)
    return [mark for mark in STEERING if mark in text]


@pytest.mark.parametrize("mark", STEERING)
def test_what_steers_is_replaced_on_a_terminal_and_escaped_in_json(mark):
    assert printable(f"a{mark}b") == "a\ufffdb"
    assert mark not in to_json({"x": f"a{mark}b"})
    assert json.loads(to_json({"x": f"a{mark}b"})) == {"x": f"a{mark}b"}


@pytest.mark.parametrize("text", ["plain", "a\nb\tc", "ü ß 中文\u3000字", "\U0001f469\u200d\U0001f680", "a\u00a0b"])
def test_what_does_not_steer_stays(text):
    assert printable(text) == text
    assert to_json(text) == json.dumps(text, ensure_ascii=False)


def test_lines_tables_and_notes_are_literal(capsys, monkeypatch):
    from rich.table import Table

    monkeypatch.setenv("COLUMNS", "200")
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    Screen().show(HOSTILE, table)
    print_lines(HOSTILE)
    print_json({HOSTILE: HOSTILE})
    print_note(f"{HOSTILE}\nstts: second line")
    out, err = capsys.readouterr()
    assert out.count("[red]x[/nope]") == 7
    assert steers(out + err) == []
    assert err.count("\n") == 1


def test_only_the_terminal_writes():
    """One way out: nothing else in the package writes to the standard streams, or makes a console of its own."""
    tools = {"toy/clips.py", "toy/kept_windows.py", "families/convert.py"}  # small programs
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name == "report/terminal.py" or name in tools:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "sys.stdout.write", "sys.stderr.write", "Console"), f"{name}: {called}"
            if called == "TextColumn":
                assert any(word.arg == "markup" for word in node.keywords), f"{name}: markup in a progress bar"
            if called.endswith("echo"):
                assert name == "cli.py", "the version, nothing from outside"


def hostile_evaluation():
    renamed = {"dense": "dense" + HOSTILE, "pruned": "pruned" + HOSTILE}
    found = copy.deepcopy(eval_document())
    found["arms"] = {renamed[name]: arm for name, arm in found["arms"].items()}
    for arm in found["arms"].values():
        arm["groups"] = {HOSTILE: {HOSTILE: {"n": 4, "accuracy": 0.75, "chance": None}}}
        arm["macro"] = {HOSTILE: 0.5}
    found["config"]["arms"] = {renamed[name]: arm | {"model": HOSTILE} for name, arm in found["config"]["arms"].items()}
    for pair in found["comparisons"]:
        pair["arm"], pair["against"] = renamed[pair["arm"]], renamed[pair["against"]]
    return found | {"bench": HOSTILE, "title": HOSTILE, "remark": HOSTILE, "notes": [HOSTILE], "missing": [HOSTILE]}


@pytest.mark.parametrize("terminal", ["", "1"])
def test_an_evaluation_of_hostile_names_is_shown(capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    found = hostile_evaluation()
    with Progress(line_every_s=0) as progress:
        progress(HOSTILE, 1, 9)
    report_eval.show_evaluation(found, json_only=False)
    out, err = capsys.readouterr()
    assert out.count("[red]x[/nope]") > 10
    assert steers(out + err) == []
    whole = {"averages": suite.averages([found]), "differences": suite.differences([found]), "seeds": {}}
    report_eval.show_evaluation({"suite": HOSTILE, "benchmarks": [found], **whole}, json_only=False)
    assert steers("".join(capsys.readouterr())) == []


def test_pages_and_pictures_of_hostile_names(tmp_path):
    found = hostile_evaluation()
    page = "\n".join(markdown(found))
    assert "<b>" not in page.split("```")[0]
    rows = [line for line in page.split("```")[0].splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert len(set(cells)) == 2, "two tables, each of one width"
    assert steers(page) == []
    plots.plot_results(found, tmp_path)
    ElementTree.parse(tmp_path / "plot.svg")
    plots.plot_accuracy(found, str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", r"a\|b"),
        ("<i>&", "&lt;i&gt;&amp;"),
        ("[x](y) *z* `c`", r"\[x\](y) \*z\* \`c\`"),
        ("shapes_long", "shapes_long"),
        ("_x_", r"\_x\_"),
        ("two\nlines", "two lines"),
        ("\\", r"\\"),
    ],
)
def test_markdown_is_literal(text, written):
    assert literal(text) == written


@pytest.mark.parametrize("terminal", ["", "1"])
def test_a_training_of_hostile_names_is_shown(capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with report_finetune.FinetuneProgress() as progress:
        for event in EVENTS:
            progress({**event, **{key: HOSTILE for key in ("name", "text", "data") if key in event}})
    report_finetune.show_finetune(make_document(model=HOSTILE), HOSTILE)
    report_finetune.show_runs({HOSTILE: make_document()}, HOSTILE)
    out, err = capsys.readouterr()
    assert out.count("[red]x[/nope]") == 5
    assert steers(out + err) == []


def test_the_spinner_takes_no_markup(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress() as progress:
        progress(HOSTILE)
    assert steers(capsys.readouterr().err) == []


def test_a_hostile_file_name_in_every_command(tmp_path, capsys):
    (tmp_path / "a\x1b[31m[").mkdir()
    name = str(tmp_path / "a\x1b[31m[/red]\u202e.mp4")
    Path(name).write_bytes(b"no video")
    for words in (["ask", name, "What?"], ["profile", "--video", name], ["ask", f"{name}.gone", "What?"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        said = capsys.readouterr()
        assert (end.value.code, said.out) == (2, "")
        assert "[/red]" in said.err
        assert said.err.count("\n") == 1
        assert "\x1b" not in said.err
        assert "\u202e" not in said.err


PRINTER = "from stts_cli.report.terminal import print_lines, Screen; {call}"


@pytest.mark.parametrize("call", ["print_lines('x')", "print_lines('x' * 10**6)", "Screen().show('x')"])
def test_a_closed_pipe_ends_quietly(call):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", PRINTER.format(call=call)], stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (CLOSED_PIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_stdout_is_one_line_and_exit_3(tmp_path):
    program = [sys.executable, "-m", "stts_cli.cli", "eval", "--list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, cwd=PACKAGE.parent)
    assert (done.returncode, done.stderr) == (3, "stts: stdout: cannot be written (No space left on device).\n")
