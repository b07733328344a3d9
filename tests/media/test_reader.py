"""Videos are read ahead in other processes, in order; one that hangs or kills its process costs only itself."""

import dataclasses
import math
import time

import numpy as np
import pytest

from stts_cli.errors import InputError
from stts_cli.media import reader
from stts_cli.media.reader import read_ahead, read_source
from stts_cli.media.source import ReadRequest, Source
from stts_cli.media.video import read_clip
from stts_cli.settings import Layout
from tests.conftest import frame_value
from tests.media import workers


class HalfSize:
    """A layout rule of videos that keep their aspect ratio; workers get it too."""

    def __call__(self, height, width, num_frames):
        return Layout(frame_size=(height // 2, width // 2), grid=(2, 2), window=(1, 1))


def request(path, **source):
    return ReadRequest(Source(path, **source), 4, 2.0, (24, 32))


@pytest.mark.slow
def test_workers_return_what_reading_here_returns_in_order(write_video, tmp_path):
    paths = [write_video(f"r{count}.mp4", num_frames=count) for count in (10, 20, 30)]
    requests = [request(path) for path in [*paths, tmp_path / "missing.mp4", paths[0]]]
    requests[1] = dataclasses.replace(requests[1], resample="bicubic")
    results = list(read_ahead(requests, workers=2, timeout_s=600))
    for one, path, result in zip(requests, [*paths, None, paths[0]], results, strict=True):
        if path is None:
            assert result.clip is None
            assert "missing.mp4: does not exist" in result.error
            continue
        here = read_clip(path, num_frames=4, size=(24, 32), resample=one.resample)
        np.testing.assert_array_equal(result.clip.frames, here.frames)
        assert result.clip.timestamps_s == here.timestamps_s
        assert result.read_s > 0


def test_a_rule_decides_the_size_in_the_process_that_reads(write_video):
    rule = HalfSize()
    sizes = [(96, 128), (64, 48)]
    wanted = [dataclasses.replace(request(write_video(f"{h}.mp4", size=(h, w))), size=rule) for h, w in sizes]
    found = list(read_ahead(wanted, workers=1, timeout_s=60))
    assert [result.clip.frames.shape[1:3] for result in found] == [(48, 64), (32, 24)]


def test_a_video_cut_at_a_frame_ends_with_the_one_before(write_video, tmp_path):
    path = write_video("cut.mp4", num_frames=30, fps=10)
    clip = read_source(ReadRequest(Source(path, end_frame=16), 4, 10.0, (24, 32)))
    assert clip.timestamps_s[-1] == 1.5
    assert abs(int(clip.frames[-1, :, 24:].mean()) - frame_value(15)) <= 2
    assert read_source(request(path)).timestamps_s[-1] == 2.9


def test_a_hanging_or_dying_decoder_costs_its_own_video_only(monkeypatch, tmp_path):
    monkeypatch.setattr(reader, "_serve", workers.serve_badly)
    workers.late_once_hanging(monkeypatch, tmp_path)
    requests = [request(tmp_path / name) for name in ("a", "hangs", "b", "dies", "dies once")]
    said = [result.error for result in read_ahead(requests, workers=1, timeout_s=0.1)]
    assert said == [
        "read a",
        "the decoder did not finish in 0.1 s",
        "read b",
        "the process that decoded it died; with decord the process that decoded it died",
        "read dies once the process that decoded it died",
    ]


def test_a_decoder_that_shows_no_sign_of_life_is_stopped_and_the_other_one_tried(monkeypatch, tmp_path):
    monkeypatch.setattr(reader, "_serve", workers.serve_in_silence)
    monkeypatch.setattr(reader, "SILENCE_S", 1.0)
    said = [result.error for result in read_ahead([request(tmp_path / "a")], workers=1, timeout_s=math.inf)]
    assert said == ["the decoder gave nothing for 1 s"]


def test_the_next_clip_is_read_while_the_caller_is_busy(monkeypatch, tmp_path):
    monkeypatch.setattr(reader, "_serve", workers.serve_and_tell)
    clips = read_ahead([request(tmp_path / str(number)) for number in range(5)], workers=1, timeout_s=600)
    assert next(clips).error == "0"
    give_up = time.monotonic() + 600
    while "1" not in (tmp_path / "log").read_text():
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert [result.error for result in clips] == ["1", "2", "3", "4"]


@pytest.mark.slow
def test_workers_do_not_run_far_ahead_of_a_slow_clip(monkeypatch, tmp_path):
    monkeypatch.setattr(reader, "_serve", workers.serve_and_tell)
    names = ["slow", *map(str, range(30))]
    clips = read_ahead([request(tmp_path / name) for name in names], workers=2, timeout_s=600)
    assert next(clips).error == "slow"
    assert len((tmp_path / "log").read_text().split()) <= 5, "clips that wait take memory"
    assert [result.error for result in clips] == names[1:]


def test_times_of_a_part_count_from_its_start(write_video):
    path = write_video("part.mp4", num_frames=50, fps=10)
    clip = read_source(request(path, start_s=2.0, end_s=3.0))
    assert clip.timestamps_s == [0.0, 0.5, 1.0]
    lengths = [read_source(request(path, **part)).length_s for part in ({}, {"start_s": 4.0}, {"end_s": 3.0})]
    assert (clip.duration_s, clip.length_s, lengths) == (5.0, 1.0, [5.0, 1.0, 3.0])
    right = clip.frames[:, :, -4:].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(right, [frame_value(index) for index in (20, 25, 30)], atol=4)
    with pytest.raises(InputError, match=r"has no frame between 7 and 8 s"):
        read_source(request(path, start_s=7.0, end_s=8.0))
