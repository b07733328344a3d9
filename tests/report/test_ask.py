"""What a run looks like, from a document written by hand."""

from __future__ import annotations

import copy
import json

import pytest

from stts_cli.report import ask as report


def pair(dense, pruned):
    return {"dense": dense, "pruned": pruned}


def make_arm(name, kept, text, vit_s, packed_s):
    return {
        "name": name,
        "scorer": "learned" if name == "pruned" else "none",
        "keep_ratio": 0.3 if name == "pruned" else 1.0,
        "prune_layer": 3,
        "num_windows": 100,
        "num_windows_kept": kept,
        "kept_per_frame": [kept, 0, 0, 0], "num_frames": 4, "frames_per_unit": 1,
        "seconds": {"vit_dense": vit_s, "vit_packed": packed_s, "llm_prefill": 0.5, "decode": 0.01},
        "peak_bytes": 3 * 2**30,
        "answers": [
            {
                "question": "What color?", "text": text, "finished": True, "options": None, "num_prompt_tokens": 40,
                "num_new_tokens": 2, "ttft_s": 1.5, "seconds": {},
                "savings": {
                    "tokens": {"visual tokens": pair(100, 30)},
                    "flops": {"scorer": pair(0, 5_000), "total": pair(4_000_000_000, 1_000_000_000)},
                    "convention": "a multiply-add counts 2",
                },
            }
        ],
    }  # fmt: skip


def make_document(arms):
    return {
        "stts": "0", "command": "ask", "model": "m", "is_demonstration": False, "device": "cpu", "dtype": "float32",
        "video": {
            "path": "v.mp4", "num_frames": 8, "num_source_frames": 50, "timestamps_s": [0.0, 4.9], "duration_s": 5.0,
            "frame_size": [96, 128], "backend": "pyav", "start_s": 0.0, "frames_per_s": 1.43,
        },
        "arms": arms,
        "seconds": {"load": 2.0, "read": 0.05},
        "notes": [],
    }  # fmt: skip


@pytest.fixture
def document():
    return make_document([make_arm("pruned", 30, "red", 0.25, 0.25)])


def shown(document, capsys, mode="table", notes=True):
    report.show(document, mode=mode, notes=notes)
    return capsys.readouterr()


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line[len(start) :].split()


def test_the_table_of_one_arm(document, capsys):
    out, err = shown(document, capsys)
    assert out.splitlines()[0] == "red"
    assert err == ""
    assert row(out, "visual tokens") == ["100", "30", "70.0%"]
    assert row(out, "frames with a token") == ["4", "1", "75.0%"]
    assert row(out, "FLOPs, total") == ["4.00", "G", "1.00", "G", "75.0%"]
    assert row(out, "FLOPs, scorer") == ["0", "5.00", "k"], "a cost that dense does not have saves nothing"
    assert row(out, "time, ViT") == ["500.0", "ms"]
    assert row(out, "peak memory") == ["3.00", "GiB"]
    assert "keep ratio 0.3 (drop ratio 0.7): 30 of 100 windows kept" in out
    assert "8 of 50 frames, 0.0 to 4.9 s of 5.0 s, 1.43 a second, 128x96 px, read by pyav" in out
    assert "a multiply-add counts 2" in out


def test_the_table_of_two_arms(document, capsys):
    document["arms"].append(make_arm("dense", 100, "blue", 2.0, 0.0))
    out, _ = shown(document, capsys)
    assert out.splitlines()[:2] == ["red  (pruned)", "blue  (dense)"]
    assert row(out, "time, ViT") == ["2.00", "s", "500.0", "ms", "75.0%"]


def test_every_arm_beside_dense_has_its_table(document, capsys):
    document["arms"] += [make_arm("random@0.2", 20, "blue", 1.0, 0.0), make_arm("dense", 100, "blue", 2.0, 0.0)]
    out, _ = shown(document, capsys)
    first, second = out.split("random@0.2: none scorer after ViT block 3")
    assert row(first, "time, ViT") == ["2.00", "s", "500.0", "ms", "75.0%"]
    assert row(second, "time, ViT") == ["2.00", "s", "1.00", "s", "50.0%"]
    assert second.count("visual tokens") == 1


def test_several_questions_are_told_apart_and_bare_when_quiet(document, capsys):
    second = copy.deepcopy(document["arms"][0]["answers"][0])
    second.update(question="What shape?", text="a\nsquare")
    document["arms"][0]["answers"].append(second)
    out, _ = shown(document, capsys)
    assert out.splitlines()[:3] == ["What color?", "red", "What shape?"]
    assert shown(document, capsys, mode="quiet").out == "red\na square\n"


def test_options_are_shown_likeliest_first(document, capsys):
    document["arms"][0]["answers"][0]["options"] = [
        {"text": "green", "probability": 0.25, "log_likelihood": -2},
        {"text": "red", "probability": 0.75, "log_likelihood": -1},
    ]
    assert shown(document, capsys).out.splitlines()[:3] == ["red", "   75.0%  red", "   25.0%  green"]


def test_notes_go_to_stderr_and_can_be_left_out(document, capsys):
    document["notes"] = ["read with PyAV: decord hung"]
    document["is_demonstration"] = True
    document["arms"][0]["num_windows_kept"] = 100
    err = shown(document, capsys).err
    lines = err.splitlines()
    assert lines[0].startswith("stts: demonstration model")
    assert "--preset molmo2-4b" in lines[0]
    assert lines[1:] == [
        "stts: read with PyAV: decord hung",
        "stts: nothing was pruned: all 100 windows were kept",
    ]
    assert shown(document, capsys, mode="quiet", notes=False) == ("red\n", "")


def test_json_is_the_document(document, capsys):
    assert json.loads(shown(document, capsys, mode="json").out) == document


def test_an_answer_cannot_steer_the_terminal(document, capsys):
    document["arms"][0]["answers"][0]["text"] = "\x1b[2Jred"
    assert "\x1b" not in shown(document, capsys).out
    document["video"]["path"] = "[bold]v.mp4"
    assert "[bold]v.mp4: 8 of 50" in shown(document, capsys).out
