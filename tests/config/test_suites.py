from __future__ import annotations

import pytest

from stts_cli.config.files import names
from stts_cli.config.presets import presets_folder
from stts_cli.config.suites import Suite, load_suite
from stts_cli.errors import InputError


@pytest.mark.parametrize("name", names(presets_folder() / "suites"))
def test_every_suite_that_ships_loads(name):
    suite = load_suite(name)
    assert suite.bench.startswith("shapes") or suite.bench == "all"
    assert len(suite.compare) == len(set(suite.compare)) > 1


def test_a_file_of_ones_own_says_what_it_says(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("bench: tomato\nframes: 8\nkeep_ratio: 1\ncompare: [random, 0.5]\npaper: {dense: 50}\n")
    with pytest.raises(InputError, match=r"mine\.yaml:4: compare\.1 0\.5: must be text\."):
        load_suite(str(mine))
    mine.write_text(mine.read_text().replace("0.5", "'0.5'"))
    suite = load_suite(str(mine))
    assert suite == Suite(bench="tomato", frames=8, keep_ratio=1.0, compare=["random", "0.5"], paper={"dense": 50.0})
    assert (suite.scoring, suite.limit, suite.split) == ("strict", None, None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("benc: x", "1: benc: unknown key; did you mean 'bench'?"),
        ("paper: [1]", "1: paper [1]: must be 'key: value' lines."),
        ("paper: {dense: x}", '1: paper.dense "x": must be a number, at least 0 and at most 100.'),
        ("paper:\n  a: 1\n  b: 101", "3: paper.b 101: must be at least 0 and at most 100."),
        ("paper: {2: 3}", "1: paper.2 2: must be text."),
        ("frames: many", '1: frames "many": must be a whole number, at least 1.'),
        ("compare: random", '1: compare "random": must be a list, each item text.'),
        ("compare:\n- random\n- [x]", "3: compare.1 ['x']: must be text."),
    ],
)
def test_what_a_suite_may_not_say(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_suite(str(path))
    assert str(caught.value) == f"{path}:{sentence}"


def test_what_is_no_suite():
    with pytest.raises(InputError, match="suite papr: unknown; did you mean 'paper'"):
        load_suite("papr")
    with pytest.raises(InputError, match=r"suite gone\.yaml: no such file; must be a file or one of molmo2-paper, "):
        load_suite("gone.yaml")


def test_flags_go_before_the_suite():
    suite = Suite(bench="all", frames=64, keep_ratio=1.0, compare=["0.5"], paper={"dense": 63.0})
    assert suite.override(frames=8, limit=None) == suite.model_copy(update={"frames": 8})
    assert suite.override(bench="tomato").paper == {}, "the figures are of the suite's own benchmarks"
    with pytest.raises(InputError, match=r"^--limit 0: must be at least 1\.$"):
        suite.override(limit=0)
    arms = suite.override(model="m/m", scorer="random").arms(["dense@8f"], dtype="float16", resize="decoder")
    assert [(arm.name, arm.keep_ratio, arm.frames) for arm in arms] == [
        ("dense", 1.0, 64), ("keep 0.5", 0.5, 64), ("dense@8f", 1.0, 8)
    ]  # fmt: skip
    assert {(arm.model, arm.dtype, arm.resize) for arm in arms} == {("m/m", "float16", "decoder")}
