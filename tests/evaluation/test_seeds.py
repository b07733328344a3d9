"""The random scorer under several seeds: an arm each, a mean and a spread, in JSON, in the tables and on the page."""

from __future__ import annotations

import dataclasses
import json
from statistics import mean, stdev

import pytest

from stts_cli import cli
from stts_cli.errors import InputError
from stts_cli.evaluation.seeds import expand_seeds, summarize_seeds
from stts_cli.settings import Arm

DENSE = Arm("dense", "m", keep_ratio=1.0, scorer="none")
RANDOM = Arm("random@0.3", "m", keep_ratio=0.3, scorer="random")


def test_only_arms_that_score_at_random_become_one_a_seed():
    learned = dataclasses.replace(RANDOM, name="learned", scorer="learned")
    every = dataclasses.replace(RANDOM, name="all", keep_ratio=1.0)
    arms = [DENSE, RANDOM, learned, every]
    assert expand_seeds(arms, None) == arms
    assert expand_seeds(arms, 2) == [
        DENSE,
        dataclasses.replace(RANDOM, name="random@0.3, seed 0", seed=0),
        dataclasses.replace(RANDOM, name="random@0.3, seed 1", seed=1),
        learned,
        every,
    ]
    with pytest.raises(InputError, match=r"^--seeds 0: must be at least 1\.$"):
        expand_seeds(arms, 0)
    with pytest.raises(
        InputError, match=r"^--seeds 2: no arm draws at random; add --compare random or a --temperature\.$"
    ):
        expand_seeds([DENSE, learned, every], 2)


def test_mean_and_sample_deviation():
    arms = expand_seeds([DENSE, RANDOM, dataclasses.replace(RANDOM, name="more", keep_ratio=0.5)], 3)
    shares = dict(zip([arm.name for arm in arms], (0.9, 0.1, 0.2, 0.6, 0.5, None, 0.5), strict=True))
    found = summarize_seeds(arms, shares)
    assert found == {
        "random@0.3": {
            "arms": ["random@0.3, seed 0", "random@0.3, seed 1", "random@0.3, seed 2"],
            "accuracies": [0.1, 0.2, 0.6],
            "mean": pytest.approx(0.3),
            "std": pytest.approx(0.07**0.5),  # squares 0.04 + 0.01 + 0.09 over 2
        },
        "more": {
            "arms": ["more, seed 0", "more, seed 1", "more, seed 2"],
            "accuracies": [0.5, None, 0.5],
            "mean": None,
            "std": None,
        },
    }
    one = summarize_seeds(expand_seeds([RANDOM], 1), {"random@0.3, seed 0": 0.25})["random@0.3"]
    assert (one["mean"], one["std"]) == (0.25, None)
    assert summarize_seeds([DENSE], {"dense": 0.9}) == {}


def test_seeds_draw_other_windows_and_are_reported_each_and_together(tiny_checkpoint, tmp_path, capsys):
    words = ["eval", "--bench", "shapes", "--limit", "6", "--frames", "3", "--model", str(tiny_checkpoint)]
    words += ["--workers", "0", "--max-new-tokens", "1", "--compare", "random@0.3", "--keep-ratio", "1"]
    words += ["--seeds", "3", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--json"])
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    document = json.loads(said.out)
    names = [f"random@0.3, seed {seed}" for seed in range(3)]
    assert list(document["arms"]) == ["dense", *names]
    assert [arm["seed"] for arm in document["config"]["arms"].values()] == [None, 0, 1, 2]
    shares = [document["arms"][name]["accuracy"] for name in names]
    assert document["seeds"] == {
        "random@0.3": {"arms": names, "accuracies": shares, "mean": mean(shares), "std": stdev(shares)}
    }
    with pytest.raises(SystemExit):
        cli.main(words)
    said = capsys.readouterr()
    assert "24 of 24 answers were there already" in said.err
    cell = f"{mean(shares):.1%} ± {stdev(shares):.1%}"
    assert any(line.startswith("random@0.3 ") and line.endswith(cell) for line in said.out.splitlines())
    assert f"| random@0.3 | 3 | {cell} |" in (tmp_path / "out/results.md").read_text()
    with pytest.raises(SystemExit) as end:
        cli.main([*words[:-4], "--seeds", "2", *words[-2:]])
    assert end.value.code == 2
    assert "holds a run with the arm random@0.3, seed 2 too" in capsys.readouterr().err
