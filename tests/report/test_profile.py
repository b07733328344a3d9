"""What a profile looks like, from documents that a profile could have made."""

from __future__ import annotations

import json

import pytest

from stts_cli.config.architectures import load_architecture
from stts_cli.cost import estimate
from stts_cli.report import profile as report_profile


def stat(median, low=None, high=None):
    return {"median": median, "low": low or median, "high": high or median, "samples": [median]}


PASS = (
    "preprocess", "vit_dense", "score_select_pack", "vit_packed", "connector", "llm_prefill", "vit_to_prefill",
    "decode_per_token",
)  # fmt: skip


def make_point(frames=64, dense_s=4.0, pruned_s=2.0, low=1.9, changes_nothing=False, peak=(200 << 20, 100 << 20)):
    stages = {stage: {"dense": stat(1.0), "pruned": stat(0.5)} for stage in PASS}
    stages["vit_to_prefill"] = {"dense": stat(dense_s, dense_s * 0.9, dense_s * 1.1), "pruned": stat(pruned_s)}
    stages["score_select_pack"] = {"dense": stat(0.0), "pruned": stat(0.02)}
    stages["ttft"] = {"dense": stat(5.0), "pruned": stat(2.5)}
    achieved = dense_s / pruned_s
    return {
        "num_frames": frames, "keep_ratio": 0.5, "scorer": "learned", "kernel": "sdpa", "kernel_reason": "no GPU",
        "tokens": {"LLM prompt": {"dense": 5722, "pruned": 3130}},
        "flops": {
            "LLM prefill": {"dense": 0, "pruned": 0}, "scorer": {"dense": 0, "pruned": 5_000},
            "total": {"dense": 4_000_000, "pruned": 2_000_000},
        },
        "decode_flops_per_token": {"dense": 3000, "pruned": 1500}, "ideal_speedup": 2.0,
        "changes_nothing": changes_nothing, "headline": "vit_to_prefill", "seconds": stages, "read_s": 0.25,
        "speedup": {
            "vit_to_prefill": {
                "achieved": achieved, "low": low, "high": 2.1, "ideal": 2.0, "achieved_of_ideal": achieved / 2,
            },
            "ttft": {"achieved": 2.0, "low": 1.8, "high": 2.2, "ideal": None, "achieved_of_ideal": None},
        },
        "score_select_pack_share_of_vit": 0.0196,
        "peak_bytes": dict(zip(("dense", "pruned"), peak, strict=True)),
    }  # fmt: skip


def make_document(*points, random_weights=True):
    return {
        "command": "profile", "mode": "measured",
        "model": {
            "name": "mini", "description": "small", "num_parameters": 125_000_000, "random_weights": random_weights,
            "is_demonstration": False,
        },
        "machine": {
            "device": "cpu", "device_name": "Abacus", "threads": 2, "cores": 2, "dtype": "float32",
            "versions": {"torch": "2.13"},
        },
        "settings": {
            "prune_layer": 3, "train": False, "repeats": 5, "warm_up": 1, "new_tokens": 9,
            "memory": "a process for each arm",
        },
        "clips": [{"text": "64 of the 144 frames of demo.mp4"}], "notes": ["busy"], "convention": "a multiply-add is 2",
        "points": list(points), "break_even": [],
    }  # fmt: skip


def shown(document, capsys, **settings):
    report_profile.show(document, **settings)
    return capsys.readouterr()


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line[len(start) :].split()


def test_one_point_is_a_table_by_stage(capsys):
    out, err = shown(make_document(make_point()), capsys)
    assert row(out, "LLM prompt") == ["5,722", "3,130", "0.55"]
    assert row(out, "FLOPs, scorer") == ["0", "5.00", "k"], "a cost that dense does not have has no ratio"
    assert row(out, "FLOPs, ViT to prefill") == ["4.00", "M", "2.00", "M", "0.50"]
    assert row(out, "time, read (once, in neither)") == ["250.0", "ms"]
    assert row(out, "time, ViT to prefill") == ["4.00", "s", "±10%", "2.00", "s", "±0%", "0.50"]
    assert row(out, "time, score, select, pack") == ["-", "20.0", "ms", "±0%"]
    assert row(out, "peak memory above the model") == ["200", "MiB", "100", "MiB", "0.50"]
    assert "speed-up, ViT to prefill: 2.00 (1.90 to 2.10); FLOP-ideal 2.00; achieved / ideal 1.00" in out
    assert "score, select, pack: 2.0% of the pruned arm's ViT time" in out
    assert "on cpu, 2 threads of Abacus, float32; torch 2.13" in out
    assert "kernel of the packed blocks: sdpa (no GPU)" in out
    assert "64 of the 144 frames of demo.mp4" in out
    assert "peak memory: a process for each arm" in out
    assert "no gain" not in out
    assert "stts: busy" in err


def test_random_weights_are_said_everywhere(capsys):
    for settings in ({}, {"json_only": True}):
        shot = shown(make_document(make_point()), capsys, **settings)
        assert "random weights: timings only" in shot.err
        assert "random weights" in shot.out or json.loads(shot.out)["model"]["random_weights"] is True
    shot = shown(make_document(make_point(), random_weights=False), capsys)
    assert "random" not in shot.out + shot.err


@pytest.mark.parametrize(
    ("point", "words"),
    [
        (make_point(pruned_s=5.0), "no gain here: pruned takes 1.25 times as long as dense"),
        (make_point(low=0.98), "no sure gain here"),
        (make_point(changes_nothing=True), "no gain here: nothing was pruned"),
    ],
)
def test_where_there_is_no_gain_it_is_said(point, words, capsys):
    assert words in shown(make_document(point), capsys).out
    assert (
        f"64 frames, learned at keep ratio 0.5: {words}"
        in shown(make_document(point, make_point(frames=128)), capsys).out
    )


def test_nothing_pruned_is_never_a_speedup(capsys):
    assert "speed-up, ViT" not in shown(make_document(make_point(changes_nothing=True)), capsys).out


def test_several_points_are_a_row_each(capsys):
    document = make_document(make_point(16, peak=(None, None)), make_point(32))
    document["break_even"] = [{"keep_ratio": 0.5, "scorer": "learned", "frames": 16, "is_bound": True}]
    out = shown(document, capsys).out
    assert row(out, "    16") == ["0.5", "3,130", "4.00", "s", "2.00", "s", "2.00", "2.00", "1.00"]
    assert row(out, "    32") == ["0.5", "3,130", "4.00", "s", "2.00", "s", "2.00", "2.00", "1.00", "0.50"]
    assert "break-even of learned at keep ratio 0.5: at or below 16 frames" in out
    document["break_even"] = [{"keep_ratio": 0.5, "scorer": "learned", "frames": 23.6, "is_bound": False}]
    assert "break-even of learned at keep ratio 0.5: about 24 frames" in shown(document, capsys).out
    document["break_even"] = [{"keep_ratio": 0.5, "scorer": "learned", "frames": None, "is_bound": False}]
    assert "none among these frame counts; no gain here" in shown(document, capsys).out
    document["points"][1]["scorer"] = "reference"
    out = shown(document, capsys).out
    assert row(out, "  16 learned")[:2] == ["0.5", "3,130"]
    assert row(out, "32 reference")[:2] == ["0.5", "3,130"]
    assert "learned, reference scorer after ViT block 3" in out


@pytest.mark.parametrize("frames", [[64], [64, 128]])
def test_what_was_only_counted_shows_no_time(frames, capsys):
    document = estimate.analytic(architecture=load_architecture("molmo2-4b"), frames=frames, keep_ratios=[0.5])
    out = shown(document, capsys).out
    assert "nothing was run" in out
    assert "time, " not in out
    assert "1.94" in out
    assert "…" not in out, "the table fits a narrow terminal"
    table = [line for line in out.splitlines() if line[-1:].isdigit()]
    assert len(table) >= len(frames)
    assert max(map(len, table)) <= 80


def test_json_is_the_document(capsys):
    document = make_document(make_point())
    assert json.loads(shown(document, capsys, json_only=True).out) == document


@pytest.mark.parametrize(
    ("repeats", "words"), [(1, "one run after 1 to"), (5, "medians of 5 runs in turns after 1 to")]
)
def test_how_often_is_said(repeats, words):
    document = make_document(make_point())
    document["settings"]["repeats"] = repeats
    assert report_profile.header_lines(document)[-1].startswith(words)
