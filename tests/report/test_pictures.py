"""The picture of kept windows: every pixel belongs to the window of its patch, and what was dropped is dark."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.pruning.windows import window_index
from stts_cli.report import pictures, plots
from stts_cli.settings import Layout
from tests.report.browser import Browser


def test_a_pixel_belongs_to_the_window_of_its_patch():
    table = window_index(5, 4, 2, 2).numpy()  # five rows: the border's windows hold fewer patches
    regions = pictures.window_regions(pictures.patch_owner(table, (5, 4)), (50, 40))
    for row in range(50):
        for column in range(40):
            patch = row // 10 * 4 + column // 10
            assert patch in table[regions[row, column]]


def test_what_was_dropped_is_dark_and_what_was_kept_is_as_it_was():
    frames = np.random.default_rng(0).integers(1, 255, (2, 8, 8, 3), dtype=np.uint8)
    regions = np.repeat(np.repeat(np.arange(4).reshape(2, 2), 4, 0), 4, 1)
    keep = np.array([[True, True, True, True], [False, True, False, False]])
    dark = pictures.darken(frames, keep, regions)
    assert (dark[0] == frames[0]).all()
    assert (dark[1][:4, 4:] == frames[1][:4, 4:]).all()
    assert (dark[1][4:] <= frames[1][4:] * pictures.DIM).all()


@pytest.mark.parametrize("num_frames", [1, 3, 6])
def test_a_sheet_and_its_indices_are_written(num_frames, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_FRAMES", 4)
    frames = np.full((num_frames, 12, 12, 3), 200, np.uint8)
    keep = np.arange(num_frames * 4).reshape(num_frames, 4) % 3 == 0
    times, target = [0.5 * k for k in range(num_frames)], tmp_path / "kept.png"
    owner = pictures.patch_owner(window_index(4, 4, 2, 2).numpy(), (4, 4))
    kept = pictures.Kept(frames, times, keep, None, owner)
    pictures.save_kept(str(target), pictures.kept_picture(kept, "a title"), kept)
    assert target.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    document = json.loads((tmp_path / "kept.json").read_text())
    assert document["windows_per_frame"] == 4
    assert [frame["kept"] for frame in document["frames"]] == [np.flatnonzero(mask).tolist() for mask in keep]
    assert document["frames"][-1]["time_s"] == 0.5 * (num_frames - 1)


def test_the_strip_of_scores_is_drawn_where_there_are_any():
    frames, keep = np.full((5, 12, 12, 3), 200, np.uint8), np.ones((5, 4), bool)
    owner = pictures.patch_owner(window_index(4, 4, 2, 2).numpy(), (4, 4))
    sizes = []
    for scores in (None, np.random.default_rng(0).random((5, 4), np.float32), np.zeros((5, 4), np.float32)):
        picture = pictures.kept_picture(pictures.Kept(frames, [0.5 * k for k in range(5)], keep, scores, owner), "")
        sizes.append(Image.open(io.BytesIO(picture)).size)
    assert sizes[1] == sizes[2] == (sizes[0][0], sizes[0][1] + 100 * pictures.STRIP_INCHES)


@pytest.mark.parametrize(("step_s", "seconds"), [(0.5, 2.0), (60.0, 4.0)])
def test_a_video_of_what_was_kept(step_s, seconds, tmp_path):
    import av

    frames = np.full((4, 33, 65, 3), 200, np.uint8)  # odd sizes
    keep = np.ones((4, 4), bool)
    keep[2] = [False, True, True, True]
    owner = pictures.patch_owner(window_index(4, 4, 2, 2).numpy(), (4, 4))
    target = tmp_path / "kept.mp4"
    pictures.save_kept_video(str(target), pictures.Kept(frames, [step_s * k for k in range(4)], keep, None, owner))
    with av.open(str(target)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == pytest.approx(seconds)
        written = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert np.shape(written) == (4, 34, 66, 3)
    assert written[2][:14, :28].max() < 60
    assert written[2][20:, 40:].min() > 180
    assert written[1].min() > 180
    document = json.loads((tmp_path / "kept.json").read_text())
    assert document["frames"][2] == {"time_s": 2 * step_s, "kept": [1, 2, 3]}


def test_ask_draws_over_frames_of_the_files_own_shape(tmp_path, clip_file):
    import av

    from stts_cli import cli

    target = tmp_path / "kept.MP4"
    words = ["ask", str(clip_file), "Is it?", "-q", "--keep-ratio", "0.5", "--save-kept", str(target)]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code in (0, None)
    with av.open(str(target)) as container:
        assert (container.streams[0].width, container.streams[0].height) == (128, 96)
        number = sum(1 for _ in container.decode(video=0))
    assert len(json.loads(target.with_suffix(".json").read_text())["frames"]) == number


def test_frames_that_cannot_be_read_again_are_those_that_the_model_saw(clip_file):
    from stts_cli.engine.original import read_original
    from stts_cli.media.reader import read_source
    from stts_cli.media.source import ReadRequest, Source

    request = ReadRequest(Source(clip_file), 4, 2.0, (32, 32))
    clip = read_source(request)
    assert read_original(clip, request, 64).shape == (4, 48, 64, 3)
    gone = ReadRequest(Source(clip_file.with_name("gone.mp4")), 4, 2.0, (32, 32))
    assert read_original(clip, gone, 64) is clip.frames


def test_frames_that_are_one_unit_share_its_windows():
    mask, scores = torch.tensor([[True, True], [False, True]]), torch.tensor([[0.5, 0.25], [0.125, 1.0]])
    layout = Layout((4, 8), (2, 4), (2, 2), frames_per_unit=2)
    table = window_index(2, 4, 2, 2)
    video = SimpleNamespace(
        tokens=SimpleNamespace(layout=layout, scores=scores, keep_mask=mask),
        family=SimpleNamespace(window_index=lambda layout: table),
        clip=SimpleNamespace(frames=np.zeros((3, 4, 8, 3), np.uint8), timestamps_s=[0.0, 0.5, 1.0]),
    )
    kept = pictures.Kept.of(video)
    assert kept.keep_mask.tolist() == [[True, True], [True, True], [False, True]]
    assert kept.scores.tolist() == [[0.5, 0.25], [0.5, 0.25], [0.125, 1.0]]
    assert kept.owner.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.browser
def test_a_browser_plays_the_video(tmp_path):
    frames, owner = np.full((4, 33, 65, 3), 200, np.uint8), np.zeros((1, 1), int)
    kept = pictures.Kept(frames, [0.0, 0.5, 1.0, 1.5], np.ones((4, 1), bool), None, owner)
    pictures.save_kept_video(str(tmp_path / "kept.mp4"), kept)
    (tmp_path / "page.html").write_text("<video src='kept.mp4' muted></video>")
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "page.html")
        played = "document.querySelector('video').play().then(() => document.querySelector('video').videoWidth)"
        assert browser.run(played) == 66


def test_a_place_that_cannot_be_written_is_named_with_its_flag(tmp_path):
    with pytest.raises(InputError, match=r"--save-kept kept\.jpg: must be a file that ends in \.png"):
        plots.check_target("kept.jpg", "--save-kept")
    with pytest.raises(EnvironmentFailure, match=r"--save-kept .* its folder does not exist"):
        plots.check_target(str(tmp_path / "nowhere" / "kept.png"), "--save-kept")


def test_ask_draws_what_it_kept(tmp_path, clip_file):
    from stts_cli import cli

    target = tmp_path / "kept.png"
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "ask",
                str(clip_file),
                "How many objects are there?",
                "-q",
                "--keep-ratio",
                "0.5",
                "--save-kept",
                str(target),
            ]
        )
    assert ended.value.code in (0, None)
    document = json.loads(target.with_suffix(".json").read_text())
    kept = [len(frame["kept"]) for frame in document["frames"]]
    assert kept[0] == document["windows_per_frame"], "the first frame stays whole"
    assert sum(kept) == pytest.approx(0.5 * len(kept) * document["windows_per_frame"], abs=1)
