"""What the pages say: README's commands are the ones that CI runs; commands, flags, modules and links exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from stts_cli import cli
from stts_cli.config import presets
from stts_cli.config.architectures import shapes_folder
from stts_cli.config.files import names
from stts_cli.config.suites import load_suite
from stts_cli.cost import estimate
from stts_cli.report import plots
from tests.commands import readme

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = {  # every page, by its place
    str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8")
    for path in [
        REPOSITORY / "README.md",
        *(p for top in ("presets", "stts_cli", "tests") for p in (REPOSITORY / top).rglob("README.md")),
    ]
}
CI = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The code block behind a marker, found independently of .ci/run's own way."""
    found = re.findall(rf"^<!-- ci: {name} -->\n```\w*\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"README has {len(found)} blocks marked {name}"
    return found[0]


def commands() -> list[list[str]]:
    """Every `stts` command line in the pages' bash blocks, as words, each once."""
    blocks = re.findall(r"^```bash\n(.*?)\n```$", "\n".join(PAGES.values()), re.MULTILINE | re.DOTALL)
    parts = [part.strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]
    found = dict.fromkeys(part for part in parts if part.startswith("stts "))
    assert len(found) >= 20
    return [shlex.split(command, comments=True)[1:] for command in found]


@pytest.mark.parametrize("name", ["ask", "answer", "test"])
def test_ci_takes_its_commands_from_readme(name):
    script = re.search(r"^readme_block\(\) \{.*?^\}$", CI, re.MULTILINE | re.DOTALL)
    assert script
    printed = subprocess.run(
        ["bash", "-euc", f"{script[0]}\nreadme_block {name}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.rstrip("\n") == block(name)
    assert f"readme_block {name}" in CI


def test_both_commands_set_up_a_fresh_machine():
    for name, last in (("ask", "stts ask presets/nano/demo.mp4"), ("test", "python -m pytest")):
        steps = [step.strip() for step in block(name).split("&&")]
        assert steps[0] == "python3 -m venv .venv"
        assert any(step.startswith("pip install") for step in steps)
        assert steps[-1].startswith(last)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_pages_is_understood(words, monkeypatch, clip_file, tmp_path):
    """Parse each one for real, up to the call that would load a model."""
    from stts_cli import profiling
    from stts_cli.engine import ask
    from stts_cli.evaluation import suite
    from stts_cli.evaluation.benchmarks import registry
    from stts_cli.toy import nano
    from stts_cli.training import finetune, runs

    asked = []
    monkeypatch.setattr(ask, "ask", lambda arms, videos, questions, **settings: asked.append(settings) or 1 / 0)
    monkeypatch.setattr(profiling, "profile", lambda *given, **settings: asked.append(settings) or 1 / 0)
    monkeypatch.setattr(estimate, "analytic", lambda **settings: asked.append(settings) or 1 / 0)
    monkeypatch.setattr(profiling, "architecture_of", lambda *which: None)
    monkeypatch.setattr(suite, "run_benchmarks", lambda *settings, **rest: asked.append(settings) or 1 / 0)
    monkeypatch.setattr(finetune, "finetune", lambda settings, output, **rest: asked.append(rest) or 1 / 0)
    monkeypatch.setattr(nano, "train_nano", lambda stages, flags, output, **rest: asked.append(rest) or 1 / 0)
    monkeypatch.setattr(runs, "train_runs", lambda plan, output, **rest: asked.append(rest) or 1 / 0)
    monkeypatch.setattr(registry, "describe", lambda: asked.append({}) or 1 / 0)
    monkeypatch.setattr(plots, "check_target", lambda *target: None)
    monkeypatch.chdir(tmp_path)  # where the folders are that earlier commands would have left
    for text in load_suite("paper-trained").compare:
        if "runs/" in text:
            Path(text.partition("=")[2].rpartition("@")[0]).mkdir(parents=True, exist_ok=True)
    Path("films").mkdir()
    shutil.copy(clip_file, "films")
    typed = [str(clip_file) if word.endswith(".mp4") else word for word in words]
    monkeypatch.setenv("STTS_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(typed)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("README.md", r"red ViT .* visual tokens 104 of 208, "),  # 13 frames of 16 windows, half of them kept
        ("stts_cli/engine/README.md", r"8 frames, 39 of 128 windows kept torch.Size\(\[8, 16\]\) 0\.\d+\n[123] \[0\."),
    ],
)
def test_the_python_of_a_page_runs_as_written(page, said, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(REPOSITORY)
    with pytest.warns(UserWarning, match="demonstration model"):
        exec(code, {})
    assert re.match(said, capsys.readouterr().out)


def test_a_person_reads_readme_in_two_minutes():
    assert len(README.encode()) <= 7000


def test_the_tables_of_flags_are_current():
    page = readme.PAGE.read_text(encoding="utf-8")
    assert readme.updated(page) == page, "run: python -m tests.commands.readme"
    assert page.count("\n| `--keep-ratio ") == 4


@pytest.mark.parametrize("name", readme.commands())
def test_the_flags_that_a_section_names_exist(name):
    options = {
        option
        for parameter in readme.commands()[name].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    section = re.search(
        rf"^## `stts {name}\b.*?(?=^## |\Z)", PAGES["stts_cli/commands/README.md"], re.MULTILINE | re.DOTALL
    )
    assert set(re.findall(r"`(--[a-z-]+)", section[0])) == {option for option in options if option.startswith("--")}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    """Presets, modules that are run, and the targets of links, headings included."""
    text, folder = PAGES[page], (REPOSITORY / page).parent
    assert set(re.findall(r"(?<!\.ci/)molmo2-\d+b|nano\b", text)) <= {*presets.preset_names(), *names(shapes_folder())}
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]+)?\)", text):
        path = folder / target if target else REPOSITORY / page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading[1:] in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, heading


def test_every_page_is_linked_from_another():
    linked = {
        str((REPOSITORY / page).parent.joinpath(target).resolve().relative_to(REPOSITORY))
        for page, text in PAGES.items()
        for target in re.findall(r"\]\((?!https?:)([^)#]+\.md)", text)
    }
    assert set(PAGES) - linked == {"README.md"} - linked
