"""The page "How to add a benchmark": its code, added as it says, answers `stts eval`'s questions about its own row."""

import json
import random
import re
import shutil
import sys
import types
from pathlib import Path

import pytest

from stts_cli.errors import InputError
from stts_cli.evaluation.benchmarks import registry
from stts_cli.evaluation.gather import gather

PAGE = (Path(registry.__file__).parent / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return code


@pytest.fixture
def added(monkeypatch):
    module = types.ModuleType("stts_cli.evaluation.benchmarks.mybench")
    exec(compile(block("python"), "README.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "NAMES", (*registry.NAMES, "mybench"))


def test_the_example_is_a_benchmark(added, tmp_path, write_video):
    (tmp_path / "clips").mkdir()
    shutil.copy(write_video("a.mp4", num_frames=5), tmp_path / "clips/a.mp4")
    (tmp_path / "test.jsonl").write_text(block("json"))
    questions = gather("mybench", data_dir=tmp_path)
    (item,) = questions.items
    assert item.source.path == tmp_path / "clips/a.mp4"
    assert (item.options, item.answer, item.groups) == (("runs", "sits"), "B", {"action": ("sit",)})
    assert questions.benchmark.prompt(item).startswith("What does she do?\nA. runs\nB. sits\nAnswer ")
    score = questions.benchmark.scorers["strict"]
    assert [score(text, item, random.Random(0)).correct for text in ("B", "She sits.", "A")] == [True, True, False]


def test_the_example_says_which_row_is_wrong(added, tmp_path):
    row = json.loads(block("json"))
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "2", "answer": "E"}))
    with pytest.raises(InputError, match=r"test\.jsonl, row 2: answer 'E' of 2 options; check"):
        gather("mybench", data_dir=tmp_path)


def test_the_names_of_the_page_exist():
    """What its table calls is imported by a benchmark, or is a method of what a loader is given."""
    sources = "".join(path.read_text() for path in Path(registry.__file__).parent.glob("*.py"))
    for name in re.findall(r"`(?:folder\.)?([a-z_]+)(?:\(|`)", PAGE.split("## What")[1]):
        assert re.search(rf"\b{name}\b", sources), name
