"""The picture of kept windows: every pixel belongs to the window of its patch, and what was dropped is dark."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.pruning.windows import window_index
from stts_cli.report import pictures, plots


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
