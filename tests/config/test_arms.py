"""Arms as they are typed after --compare and written in suites."""

from __future__ import annotations

import dataclasses
import re

import pytest

from stts_cli.config.arms import parse_arm, parse_arms
from stts_cli.config.presets import load_preset
from stts_cli.errors import InputError
from stts_cli.settings import Arm

FIRST = Arm("pruned", "m", frames=9, keep_ratio=0.5, resize="decoder")


@pytest.mark.parametrize(
    ("text", "name", "changed"),
    [
        ("dense", "dense", {"keep_ratio": 1.0, "scorer": "none"}),
        ("none", "none", {"scorer": "none"}),
        ("0.30", "keep 0.3", {"keep_ratio": 0.3}),
        (" random ", "random", {"scorer": "random"}),
        ("random@0.3", "random@0.3", {"scorer": "random", "keep_ratio": 0.3}),
        ("my.scorers:newest@0.3", "my.scorers:newest@0.3", {"scorer": "my.scorers:newest", "keep_ratio": 0.3}),
        ("dense@22f", "dense@22f", {"keep_ratio": 1.0, "scorer": "none", "frames": 22}),
        ("random@0.3@32f", "random@0.3@32f", {"scorer": "random", "keep_ratio": 0.3, "frames": 32}),
        ("random@32f@0.3", "random@32f@0.3", {"scorer": "random", "keep_ratio": 0.3, "frames": 32}),
        ("0.5@32f", "keep 0.5, 32 frames", {"keep_ratio": 0.5, "frames": 32}),
        ("wild = random@0.3", "wild", {"scorer": "random", "keep_ratio": 0.3}),
        ("allenai/Molmo2-8B", "allenai/Molmo2-8B", {"model": "allenai/Molmo2-8B"}),
        ("a/B@0.7@8f", "a/B@0.7@8f", {"model": "a/B", "keep_ratio": 0.7, "frames": 8}),
    ],
)
def test_an_arm_changes_what_it_names(text, name, changed):
    assert parse_arm(text, FIRST) == dataclasses.replace(FIRST, name=name, **changed)


def test_an_arm_may_be_another_preset():
    other = load_preset("molmo2-4b").arm("molmo2-4b", "decoder")
    assert (other.model, other.dtype, other.prune_layer) == ("allenai/Molmo2-4B", "bfloat16", 3)
    assert parse_arm("molmo2-4b", FIRST) == other
    assert parse_arm("molmo2-4b@0.3@7f", FIRST) == dataclasses.replace(
        other, name="molmo2-4b@0.3@7f", keep_ratio=0.3, frames=7
    )


def test_an_arm_may_be_a_folder_whose_name_looks_like_a_ratio(tmp_path):
    folder = tmp_path / "run@2"
    folder.mkdir()
    assert parse_arm(f"{folder}/@0.3", FIRST) == Arm(f"{folder}/@0.3", str(folder), 9, keep_ratio=0.3, resize="decoder")
    arm = parse_arm(f"best={folder}", FIRST)
    assert (arm.name, arm.model, arm.keep_ratio) == ("best", str(folder), 0.5)


def test_an_arm_beside_a_dense_one_prunes():
    assert parse_arm("0.5", dataclasses.replace(FIRST, scorer="none")).scorer == "auto"
    assert parse_arm("random@0.5", dataclasses.replace(FIRST, scorer="none")).scorer == "random"
    arm = parse_arm("random", dataclasses.replace(FIRST, keep_ratio=1.0))
    assert (arm.scorer, arm.keep_ratio) == ("random", None), "the checkpoint's own ratio"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "dens",
            "--compare dens: must be dense, a keep ratio, a scorer, a preset or a checkpoint; did you mean 'dense'?",
        ),
        ("", "--compare : must be dense, a keep ratio"),
        ("random@0.3@0.4", "--compare random@0.3@0.4: must be dense, a keep ratio"),
        ("random@1.5", "--keep-ratio 1.5: must be greater than 0 and at most 1."),
        ("nan", "--keep-ratio nan: must be"),
        ("./gone@0.5", "--compare ./gone@0.5: there is no folder ./gone; must be a checkpoint's folder."),
        ("none@0.5", "--compare none@0.5: none keeps everything; must be none, or a scorer with @0.5."),
        ("dense@0.5", "--compare dense@0.5: dense keeps everything; must be dense, or a scorer with @0.5."),
        ("dense@0f", "--frames 0: must be a whole number, at least 1."),
        ("=random", "--compare =random: must be NAME=ARM, such as best=runs/best@0.5."),
        ("best=", "--compare best=: must be NAME=ARM"),
    ],
)
def test_what_is_no_arm(text, sentence):
    with pytest.raises(InputError, match="^" + re.escape(sentence)):
        parse_arm(text, FIRST)


def test_flags_may_hold_several_and_what_drops_nothing_is_dense():
    arms = parse_arms(FIRST, ["1,random", "1@3f"], suite=["a,b=0.7"])
    assert [arm.name for arm in arms] == ["pruned", "a,b", "dense", "random", "keep 1, 3 frames"]
    assert [arm.is_dense for arm in arms] == [False, False, True, False, True]
    assert parse_arms(dataclasses.replace(FIRST, scorer="none"), None)[0].name == "dense"
