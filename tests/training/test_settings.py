"""Settings of a run: what excludes each other, and what has no effect."""

from __future__ import annotations

import dataclasses
import re

import pytest

from stts_cli.config.files import from_flags
from stts_cli.errors import InputError
from stts_cli.training.settings import FinetuneSettings, adam_betas, check_flags, without_effect


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "scorrer"}, "--train scorrer: must be scorer, lora or full; did you mean 'scorer'?"),
        ({"seq_len": 0}, "--seq-len 0: must be at least 1."),
        ({"epochs": 0.0}, "--epochs 0: must be greater than 0, or --steps at least 1."),
        ({"scorer": "temporal"}, "--scorer temporal: must be learned with --train scorer; use --train full."),
        ({"keep_ratio": "1:2,1"}, "--keep-ratio 1:2,1: drops nothing, so no scorer learns. Use --scorer none."),
        (
            {"scorer_warmup": 5, "train": "full", "scorer": "random"},
            "--scorer-warmup 5: nothing learns in these steps with --scorer random.",
        ),
        (
            {"scorer_warmup": 5, "temporal_weight": 0.0},
            "--scorer-warmup 5: nothing learns in these steps with --temporal-weight 0.",
        ),
        (
            {"data": "shapes", "eval_data": "mine.jsonl"},
            "--eval-data mine.jsonl: must be shapes, or left out, with --data shapes.",
        ),
    ],
)
def test_settings_that_are_wrong(change, message):
    with pytest.raises(InputError, match="^" + re.escape(message) + "$"):
        from_flags(FinetuneSettings, change)


def test_settings_are_checked_wherever_they_are_made():
    one = FinetuneSettings(steps=3)
    assert (one.override(steps=None), one.override(steps=4).steps) == (one, 4)
    with pytest.raises(InputError, match="--scorer none: must be learned"):
        dataclasses.replace(one, scorer="none")
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        one.override(frames=0)


def test_betas_are_the_runs_own_or_those_of_its_optimizer():
    assert adam_betas(FinetuneSettings()) == (0.9, 0.95)
    assert adam_betas(FinetuneSettings(optimizer="muon")) == (0.9, 0.98)
    assert adam_betas(FinetuneSettings(optimizer="muon", adam_betas="0.8,0.9")) == (0.8, 0.9)


def test_flags_that_a_preset_decides():
    check_flags(["model", "workers"], ("model", "workers"), "several runs")
    with pytest.raises(
        InputError, match=r"^--lr-llm: cannot go with a preset of stages, which each have their own; only --seed "
    ):
        check_flags(["seed", "lr_llm"], ("seed",), "stages")


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"train": "scorer", "lr_llm": 1.0, "lr_vit": 1.0},
         ["--lr-vit, --lr-llm: no effect on this run with --train scorer."]),
        ({"train": "lora", "lr_llm": 1.0}, ["--lr-llm: no effect on this run with --train lora."]),
        ({"train": "lora", "target_gradient": True}, ["--target-gradient: no effect on this run with --train lora."]),
        ({"train": "lora", "target_gradient": True, "lora_vit": True, "lr_lora": 1.0, "lr_scorer": 1.0}, []),
        ({"target_gradient": True, "lora_vit": True, "lora_rank": 4},
         ["--target-gradient: no effect on this run with --train scorer.",
          "--lora-rank, --lora-vit: no effect on this run with --train scorer."]),
        ({"train": "full", "lr_llm": 1.0, "target_gradient": True, "clamp_scorer_gradient": True}, []),
        ({"train": "full", "scorer": "random", "lr_scorer": 1.0, "clamp_scorer_gradient": True, "prune_layer": 2},
         ["--lr-scorer, --clamp-scorer-gradient: no effect on this run with --scorer random."]),
        ({"train": "full", "scorer": "none", "keep_ratio": "0.3", "prune_layer": 2},
         ["--prune-layer: no effect on this run with --scorer none.",
          "--keep-ratio: no effect on this run with --scorer none."]),
        ({"train": "full", "scorer": "none", "keep_ratio": "1"}, []),
        ({"temporal_weight": 0.0, "train": "full", "target_gradient": True},
         ["--target-gradient: no effect on this run with --temporal-weight 0."]),
        ({"schedule": "wsd", "lr_floor": 0.2}, ["--lr-floor: no effect on this run with --schedule wsd."]),
        ({"cooldown": 0.2}, ["--cooldown: no effect on this run with --schedule cosine."]),
        ({"clip": 0.0, "clip_by": "part"}, ["--clip-by: no effect on this run with --clip 0."]),
        ({"steps": 5, "epochs": 2.0}, ["--epochs: no effect on this run with --steps 5."]),
        ({"data": "shapes", "max_fps": 1.0, "shapes_mix": "long"},
         ["--max-fps: no effect on this run with --data shapes."]),
        ({"data": "a.jsonl", "max_fps": 1.0, "shapes_mix": "long"},
         ["--shapes-mix: no effect on this run with --data a.jsonl."]),
        ({"data": "a.jsonl", "eval_data": "shapes", "max_fps": 1.0, "shapes_mix": "long"}, []),
        ({"data": "a.jsonl", "eval_data": "b.jsonl", "eval_videos": 3},
         ["--eval-videos: no effect on this run with --eval-data b.jsonl."]),
        ({"eval_videos": 0, "eval_every": 5, "save_every": 2},
         ["--eval-every: no effect on this run with --eval-videos 0."]),
        ({"eval_every": 5, "save_every": 2}, ["--save-every: no effect on this run with --eval-every 5."]),
    ],
)  # fmt: skip
def test_settings_without_effect_are_named(change, lines):
    assert without_effect(FinetuneSettings(**change)) == lines
