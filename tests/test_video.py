from __future__ import annotations

import itertools
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from stts_cli import video
from stts_cli.errors import InputError
from tests.conftest import frame_value

FIVE_SECONDS = np.arange(50) / 10


@pytest.mark.parametrize(
    ("num_frames", "max_fps", "expected"),
    [
        (8, 1.0, [0, 10, 20, 30, 40, 49]),  # fits the budget: every second, and the last frame
        (6, 1.0, [0, 10, 20, 30, 40, 49]),
        (5, 1.0, [0, 12, 25, 37, 49]),  # does not: spread evenly
        (2, 1.0, [0, 49]),
        (1, 1.0, [0]),
        (200, 1000.0, list(range(50))),  # never more than there are
    ],
)
def test_sampling_is_uniform_and_takes_the_last_frame(num_frames, max_fps, expected):
    chosen = video.sample_indices(FIVE_SECONDS, num_frames, max_fps)
    assert np.abs(np.array(chosen) - np.array(expected)).max() <= (1 if num_frames == 5 else 0)
    assert len(chosen) == len(expected)


def test_sampling_follows_time_not_index():
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 5.0, 10.0]  # a variable frame rate: most frames at the start
    assert video.sample_indices(times, 3, 2.0) == [0, 5, 6]


@pytest.mark.parametrize(("num_frames", "max_fps"), list(itertools.product([1, 2, 3, 7, 64], [0.3, 1.0, 2.0, 7.5])))
def test_sampling_keeps_both_promises(num_frames, max_fps):
    for length in (1, 2, 3, 29, 300):
        times = np.arange(length) / 29.97
        chosen = video.sample_indices(times, num_frames, max_fps)
        assert 1 <= len(chosen) <= num_frames
        assert chosen[0] == 0
        assert chosen == sorted(set(chosen))
        if num_frames > 1:
            assert chosen[-1] == length - 1
        gaps = np.diff(times[chosen])[:-1]  # the last frame may follow sooner
        assert (gaps > 1 / max_fps - 1 / 29.97).all()


@pytest.mark.parametrize(("num_frames", "max_fps"), [(0, 1.0), (-3, 1.0), (4, 0.0), (4, -1.0), (4, float("nan"))])
def test_sampling_refuses_a_budget_out_of_range(num_frames, max_fps):
    with pytest.raises(InputError):
        video.sample_indices(FIVE_SECONDS, num_frames, max_fps)


def test_the_frames_read_are_the_frames_of_their_times(clip_file):
    clip = video.read_clip(clip_file, num_frames=8, max_fps=1.0)
    assert clip.backend == "decord"
    assert clip.fallback_reason is None
    assert clip.frames.shape == (6, 96, 128, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.timestamps_s == pytest.approx([0, 1, 2, 3, 4, 4.9])
    assert clip.duration_s == pytest.approx(5.0)
    assert clip.source_fps == pytest.approx(10.0)
    assert clip.num_source_frames == 50
    for time, frame in zip(clip.timestamps_s, clip.frames, strict=True):
        assert int(frame[48, 100, 0]) == pytest.approx(frame_value(round(time * 10)), abs=2)
        assert int(frame[48, 20, 0]) > 250


@pytest.mark.parametrize("size", [(96, 96), (144, 144), (64, 64), (378, 378), (30, 50), (96, 20)])
def test_resizing_works_at_every_width(clip_file, size):
    """Decord pads rows to 64 pixels; without care narrow frames come back torn or not at all."""
    clip = video.read_clip(clip_file, num_frames=3, size=size)
    assert clip.backend == "decord"
    assert clip.frames.shape == (3, *size, 3)
    middle = clip.frames[1].astype(int)
    edge = 2 + size[1] // 16  # interpolation rings there
    left, right = middle[:, : size[1] // 2 - edge], middle[:, size[1] // 2 + edge :]
    assert left.min() > 245
    assert np.abs(right - frame_value(round(clip.timestamps_s[1] * 10))).max() <= 3


def test_a_video_with_a_narrow_frame_of_its_own_is_read(write_video):
    clip = video.read_clip(write_video("narrow.mp4", size=(64, 48), num_frames=5), num_frames=2)
    assert clip.backend == "decord"
    assert clip.frames.shape == (2, 64, 48, 3)


def test_start_and_end_cut_and_times_stay_absolute(clip_file):
    clip = video.read_clip(clip_file, num_frames=8, max_fps=1.0, start=2.0, end=4.0)
    assert clip.timestamps_s == pytest.approx([2, 3, 4])
    with pytest.raises(InputError, match=r"0 to 4\.9 s"):
        video.read_clip(clip_file, num_frames=8, start=9.0)


def test_one_frame_is_a_video(write_video):
    clip = video.read_clip(write_video("one.mp4", num_frames=1), num_frames=8)
    assert clip.timestamps_s == [0.0]
    assert clip.frames.shape[0] == 1


def test_pyav_takes_over_and_reads_the_same(clip_file, monkeypatch):
    wanted = video.read_clip(clip_file, num_frames=5, size=(60, 80))
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    clip = video.read_clip(clip_file, num_frames=5, size=(60, 80))
    assert clip.backend == "pyav"
    assert "decord" in clip.fallback_reason
    assert clip.timestamps_s == pytest.approx(wanted.timestamps_s)
    assert np.abs(clip.frames.astype(int) - wanted.frames).mean() < 1.5


def test_a_decoder_that_hangs_is_left_behind(clip_file, monkeypatch):
    released = threading.Event()

    def hang(*_):
        released.wait(20)
        yield

    monkeypatch.setattr(video, "_decord_steps", hang)
    monkeypatch.setattr(video, "STALL_S", 0.1)
    clip = video.read_clip(clip_file, num_frames=2)
    released.set()
    assert clip.backend == "pyav"
    assert "nothing for 0.1 s" in clip.fallback_reason


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory, write_video) -> dict[str, Path]:
    import av

    folder = tmp_path_factory.mktemp("bad")
    names = ("missing", "empty", "text", "noise", "cut", "cut_faststart", "cut_mkv", "sound", "scrambled", "folder")
    files = {name: folder / f"{name}.mp4" for name in names}
    files["empty"].touch()
    files["folder"].mkdir()
    files["text"].write_text("this is no video\n" * 50)
    files["noise"].write_bytes(np.random.default_rng(0).bytes(20_000))
    whole = write_video("whole.mp4").read_bytes()
    files["cut"].write_bytes(whole[: len(whole) // 2])
    fast = write_video("fast.mp4", faststart=True).read_bytes()
    files["cut_faststart"].write_bytes(fast[: (len(fast) + fast.find(b"mdat")) // 2])
    start = fast.find(b"mdat") + 4
    files["scrambled"].write_bytes(fast[:start] + bytes((b * 7 + 13) % 256 for b in fast[start:]))
    mkv = write_video("whole.mkv").read_bytes()
    files["cut_mkv"].write_bytes(mkv[: len(mkv) // 2])
    with av.open(str(files["sound"]), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for _ in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return files


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "does not exist"),
        ("empty", "is empty"),
        ("folder", "is a folder"),
        ("text", "not a video"),
        ("noise", "not a video"),
        ("cut", "truncated"),
        ("cut_faststart", "truncated"),
        ("cut_mkv", "truncated"),
        ("sound", "no video stream"),
        ("scrambled", "damaged"),
    ],
)
def test_a_bad_file_gives_one_clear_line(bad_files, name, words, capfd):
    with pytest.raises(InputError, match=words) as caught:
        video.read_clip(bad_files[name], num_frames=8, size=(96, 96))
    message = str(caught.value)
    assert str(bad_files[name]) in message
    assert "->" in message
    assert "\n" not in message
    out, err = capfd.readouterr()
    assert out == ""
    assert not re.findall(r"^\[.*", err, re.MULTILINE), "a decoder's own words: [mov @ 0x…] moov atom not found"
