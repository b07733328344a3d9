"""The Python door: load, encode, ask, on the embedded model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import stts_cli
from stts_cli.config.presets import demo_video, presets_folder
from stts_cli.errors import InputError
from stts_cli.settings import Arm
from stts_cli.text import DEMONSTRATION
from tests.engine.asking import ask_one

NANO = str(presets_folder() / "nano")
COLOR = "What color is the circle?"


@pytest.fixture(scope="module")
def model():
    with pytest.warns(UserWarning, match="demonstration model"):
        return stts_cli.load("nano", keep_ratio=0.5)


@pytest.fixture(scope="module")
def video(model):
    return model.encode(demo_video(), frames=64)


def test_importing_the_package_imports_nothing_heavy():
    program = (
        "import sys, stts_cli\n"
        "assert {'load', 'from_model', 'VideoModel', 'Clip'} <= set(dir(stts_cli))\n"
        "assert not {'torch', 'transformers', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = stts_cli.lod


def test_a_video_is_asked_any_number_of_questions(model, video):
    answers = [model.ask(video, COLOR) for _ in range(2)]
    assert [answer.text for answer in answers] == ["red", "red"]
    assert video.keep_mask.shape == (13, 16)
    assert (video.keep_mask.dtype, int(video.keep_mask.sum())) == (torch.bool, 104)
    assert video.tokens.scores.shape == (13, 16)
    assert len(video.timestamps_s) == 13
    assert str(video.savings).startswith(
        "ViT patches 416 of 832, visual tokens 104 of 208, LLM prompt 157 of 261, FLOPs"
    )
    assert answers[1].savings.tokens["LLM prompt"] == (273, 169)
    assert video.num_questions == 2


def test_the_command_and_the_library_are_one(model, video):
    run = ask_one([Arm("pruned", NANO, keep_ratio=0.5)], demo_video(), [COLOR], options=["red", "blue"])
    here, there = model.ask(video, COLOR, options=["red", "blue"]), run.arms[0].answers[0]
    assert here.options == there.options
    assert here.savings == there.savings


def test_settings_of_one_video(model, video):
    dense = model.encode(video.clip, keep_ratio=1)
    assert dense.keep_mask.all()
    assert model.encode(demo_video(), frames=4, scorer="random", seed=1).keep_mask.shape == (4, 16)
    assert model.frames == 64
    with pytest.raises(InputError, match="frame: is no setting here; did you mean 'frames'"):
        stts_cli.load("nano", frame=3)
    with pytest.raises(InputError, match="keep"):
        model.encode(video.clip, keep_ratio=0)
    for name in ("", None, 5):
        with pytest.raises(InputError, match="must be a preset's name, a folder or a hub id"):
            stts_cli.load(name)
    with pytest.raises(InputError, match=r"^rtsp://a\.b/c\.mp4: is no file; must be a file or an http"):
        model.encode("rtsp://a.b/c.mp4")
    with pytest.raises(InputError, match="name is empty"):
        model.encode("")


def test_a_warning_points_at_the_line_that_asked(video):
    with pytest.warns(UserWarning, match="demonstration") as raised:
        stts_cli.load(Path(NANO))
    assert {Path(warning.filename).name for warning in raised} == {"test_api.py"}


def test_frames_in_memory_give_what_the_file_gives(model, video):
    again = model.encode(video.clip.frames, times=video.timestamps_s)
    assert torch.equal(again.tokens.visual_tokens, video.tokens.visual_tokens)
    assert again.clip.backend == "memory"
    with pytest.warns(UserWarning, match="the first frame always stays"):
        assert model.encode(np.zeros((1, 20, 30, 3), np.uint8), times=[0]).keep_mask.all()


def test_a_model_that_is_loaded_already(model, video):
    from transformers import AutoTokenizer, Molmo2ForConditionalGeneration

    stock = Molmo2ForConditionalGeneration.from_pretrained(NANO, dtype=torch.float32).eval()
    settings = {"size": {"height": 96, "width": 96}, "pooling_size": [2, 2]}
    processor = type("Processor", (), {"to_dict": lambda self: settings})()
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    other = stts_cli.from_model(stock, tokenizer, scorer=model.family.scorer, video_processor=processor, keep_ratio=0.5)
    again = other.encode(video.clip)
    assert torch.equal(again.tokens.visual_tokens, video.tokens.visual_tokens)
    assert other.ask(again, COLOR).text == "red"
    with pytest.warns(UserWarning, match="no learned scorer"):
        assert stts_cli.from_model(stock, tokenizer).pruning.scorer == "temporal"
    with pytest.raises(InputError, match="dtype: is no setting here"):
        stts_cli.from_model(stock, tokenizer, dtype="bfloat16")
    with pytest.raises(InputError, match="in training mode"):
        stts_cli.from_model(stock.train(), tokenizer)
    stock.eval()
    with pytest.raises(InputError, match="must be given a transformers model"):
        stts_cli.from_model(torch.nn.Linear(2, 2), tokenizer)
    stock.config.model_type = "llava"
    with pytest.raises(InputError, match="of type llava: no family handles it"):
        stts_cli.from_model(stock, tokenizer)


def test_results_show_themselves_in_a_notebook(model, video):
    pytest.importorskip("matplotlib")
    shown = video._repr_html_()
    assert '<img src="data:image/png;base64,' in shown
    assert "13 frames, 104 of 208 windows kept" in shown
    assert ">50.0%</td>" in shown
    said = model.ask(video, "What color is the <circle>?")._repr_html_()
    assert "What color is the &lt;circle&gt;?" in said
    assert "FLOPs, total" in said


def test_it_says_what_it_is(model):
    assert repr(model) == "VideoModel(nano: keep ratio 0.5, scorer learned; at most 64 frames; cpu, float32)"
    assert "real videos" in DEMONSTRATION
