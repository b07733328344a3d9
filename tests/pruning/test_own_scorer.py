"""A scorer of the user's own: the README's example as written, and what is said of one that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import stts_cli
import stts_cli.pruning
from stts_cli.errors import InputError
from stts_cli.pruning.own_scorer import load_scorer
from stts_cli.settings import Pruning, is_scorer, resolve_scorer
from tests.pruning.test_pruned_vit import INDEX, LAYOUT, LENGTHS, encode

README = Path(stts_cli.pruning.__file__).with_name("README.md").read_text(encoding="utf-8")
SCORERS = """
import torch
from torch import nn

table = 3
linear = nn.Linear(24, 1)

def first_channel(features, layout):
    assert layout.num_windows == 6 and not torch.is_grad_enabled() and not features.requires_grad
    return linear(features[:, :6])[..., 0].double()

def wide(features, layout):
    return features[:, :5, 0]

def short(features, layout):
    return features[1:, :6, 0]

def listed(features, layout):
    return [1.0]

def undefined(features, layout):
    scores = features[:, :6, 0].clone()
    scores[2, 3] = float("nan")
    return scores

def endless(features, layout):
    return features[:, :6, 0].square() / 0

def broken(features, layout):
    raise KeyError("no\\nkey")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_scorers.py").write_text(SCORERS)
    (tmp_path / "own_broken.py").write_text("import no_such_package")
    (tmp_path / "own_failing.py").write_text("1 / 0")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "inner.py").write_text(SCORERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    return tmp_path


def test_the_example_of_the_readme_is_asked_for_as_written(folder, clip_file, capsys):
    from stts_cli import cli

    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (folder / "motion.py").write_text(code)
    command = re.findall(r"^stts ask \S+ (\".*?\") (--scorer \S+) (--keep-ratio \S+)", README, re.M)
    ((question, *flags),) = command
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask", str(clip_file), question.strip('"'), *" ".join(flags).split(), "--frames", "8"])
    shown = capsys.readouterr()
    assert ended.value.code in (0, None), shown.err
    assert "motion:change scorer after ViT block" in shown.out


def test_it_scores_each_video_alone_without_gradient(setting, folder):
    blocks, hidden, _ = setting
    hidden.requires_grad_()
    out = encode(blocks, hidden, "own_scorers:first_channel", 0.5, LENGTHS, keep_scored=True)
    import own_scorers

    with torch.no_grad():
        expected = own_scorers.linear(out.scored_hidden[:, :6])[..., 0]
    assert out.plan.scores.dtype == torch.float32
    assert not out.plan.scores.requires_grad
    torch.testing.assert_close(out.plan.scores, expected)
    assert int((~out.plan.keep_mask).sum()) == 27
    inner = encode(blocks, hidden, "own_package.inner:first_channel", 0.5, LENGTHS)
    assert inner.plan.scores.shape == (10, 6)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_nowhere:change", "there is no module 'own_nowhere'; install it, or run in the folder"),
        ("own_scorers.more:change", "there is no module 'own_scorers.more'"),
        ("own_broken:change", "there is no module 'no_such_package'"),
        ("own_failing:change", r"own_failing cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("own_scorers:change", "own_scorers has no function 'change'; name one of its functions"),
        ("own_scorers:table", "own_scorers has no function 'table'"),
        ("own_scorers:wide", r"returns shape \(4, 5\); must be a tensor of shape \(4, 6\), frames by windows"),
        ("own_scorers:short", r"returns shape \(3, 6\); must be a tensor of shape \(4, 6\)"),
        ("own_scorers:listed", "returns list; must be a tensor of shape"),
        ("own_scorers:undefined", "returns scores that are no finite numbers"),
        ("own_scorers:endless", "returns scores that are no finite numbers"),
        ("own_scorers:broken", r"fails \(KeyError: .*key'\); STTS_DEBUG=1 shows where"),
    ],
)
def test_one_that_cannot_be_used_is_refused_in_a_sentence(folder, path, message):
    with pytest.raises(InputError, match=rf"^--scorer {re.escape(path)}: {message}.*\.$") as caught:
        load_scorer(path, LAYOUT)(torch.rand(4, 20, 24), INDEX, [4])
    assert "\n" not in str(caught.value)


def test_a_wrong_name_is_refused_before_a_video_is_read(folder, capsys):
    with pytest.raises(InputError, match=r"^--scorer own_nowhere:change: there is no module 'own_nowhere'"):
        stts_cli.load("nano", scorer="own_nowhere:change", device="cpu")


@pytest.mark.parametrize("name", ["learned", "none", "a:b", "a.b_c.d:e1"])
def test_names_of_scorers(name):
    assert is_scorer(name)
    assert Pruning(scorer=name).scorer == name
    assert resolve_scorer(name, model="m", trained_with="temporal", has_learned=True) == (name, [])


@pytest.mark.parametrize("name", ["lerned", "a:", ":b", "a:b:c", "a-b:c", "a..b:c", "a b:c", "a.py:b()"])
def test_what_is_no_name_of_a_scorer(name):
    assert not is_scorer(name)
    with pytest.raises(InputError, match=r"must be one of learned, .* or module:function"):
        Pruning(scorer=name)
    with pytest.raises(InputError, match=r"must be auto, .* or module:function"):
        resolve_scorer(name, model="m", trained_with="temporal", has_learned=True)
