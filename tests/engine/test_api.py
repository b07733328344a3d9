"""The Python door: load, encode, ask, on the embedded model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import stts_cli
from stts_cli.config.presets import demo_video, presets_folder
from stts_cli.errors import InputError
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest, Source
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


def test_a_part_of_a_file_is_what_the_flags_of_the_command_say(model, tmp_path):
    part = model.encode(demo_video(), start=2, end=np.float32(4), frames=3)
    clip = read_source(ReadRequest(Source(Path(demo_video()), 2.0, 4.0), 3, 2.0, (96, 96)))
    assert part.timestamps_s == clip.timestamps_s == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(part.clip.frames, clip.frames)
    assert model.encode(demo_video(), at=[3, 1.5, 3]).timestamps_s == [1.5, 3.0]
    assert model.encode(demo_video(), at=(1,), keep_ratio=1).timestamps_s == [1.0]
    for index in range(4):
        Image.new("RGB", (32, 32), (50 * index,) * 3).save(tmp_path / f"{index}.png")
    assert model.encode(tmp_path, fps=4, max_fps=4, end=0.5).timestamps_s == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": 3, "end": 2}, "^--end 2: must be behind --start 3"),
        ({"start": -1}, "^--start -1: must be seconds from 0 on"),
        ({"end": "0:03"}, "^--end 0:03: must be seconds from 0 on"),
        ({"at": [1, np.nan]}, "^--at nan: must be seconds from 0 on"),
        ({"at": []}, "^--at: is empty; must be at least one time"),
        ({"at": [1], "start": 1}, "^--at: says which frames; it cannot stand with --start or --end"),
        ({"at": [1], "max_fps": 3}, "^at: says which frames; it cannot stand with max_fps"),
        ({"fps": 3}, "^--fps 3: is for pictures; a video has times of its own"),
        ({"fps": 0}, "^--fps 0: must be greater than 0"),
    ],
)
def test_a_part_that_is_none_is_refused(model, given, message):
    with pytest.raises(InputError, match=message):
        model.encode(demo_video(), **given)


@pytest.mark.parametrize("name", ["start", "end", "at", "fps", "frames"])
def test_of_frames_in_memory_all_are_used(model, video, name):
    with pytest.raises(InputError, match=f"^{name}: is for files; of frames in memory all are used"):
        model.encode(video.clip, **{name: 1})


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


def test_one_picture_is_said_to_be_a_video_of_one_frame(model, tmp_path):
    Image.new("RGB", (96, 96), "red").save(tmp_path / "one.png")
    with pytest.warns(
        UserWarning, match="one picture: it is asked as a video of one frame, of which nothing is dropped"
    ):
        seen = model.encode(str(tmp_path / "one.png"))
    assert bool(seen.keep_mask.all())
    assert len(seen.notes) == 1, "not also how much more than asked was kept"
    Image.new("RGB", (96, 96), "blue").save(tmp_path / "two.png")
    assert not any("one picture" in note for note in model.encode(str(tmp_path)).notes)
