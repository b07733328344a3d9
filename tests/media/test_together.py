"""Several files as one clip: a share of the frames from each, and times that go on."""

import json

import numpy as np
import pytest

from stts_cli import cli
from stts_cli.errors import InputError
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest, Source
from stts_cli.settings import FixedLayout, Layout


@pytest.fixture
def files(write_video):
    """Two files of 5 s, the second larger."""
    return write_video("one.mp4"), write_video("two.mp4", size=(96, 80))


def test_each_file_gives_its_share_and_times_go_on(files):
    one, two = files
    whole = read_source(ReadRequest(Source(one, joined=(two,)), 5, 30.0, (32, 32)))
    parts = [read_source(ReadRequest(Source(path), n, 30.0, (32, 32))) for path, n in ((one, 3), (two, 2))]
    assert np.array_equal(whole.frames, np.concatenate([part.frames for part in parts]))
    shift = parts[0].duration_s
    assert whole.timestamps_s == [*parts[0].timestamps_s, *(round(shift + t, 4) for t in parts[1].timestamps_s)]
    assert whole.duration_s == sum(part.duration_s for part in parts)
    assert whole.num_source_frames == sum(part.num_source_frames for part in parts)


def test_frames_are_as_large_as_those_of_one_clip_of_so_many(files):
    asked = []

    def rule(height, width, num_frames):
        asked.append((height, width, num_frames))
        return Layout((24, 48), (1, 1), (1, 1))

    clip = read_source(ReadRequest(Source(files[0], joined=files[1:]), 6, 30.0, rule))
    assert {number for _, _, number in asked} == {6}
    assert clip.frames.shape == (6, 24, 48, 3)


def test_there_must_be_a_frame_for_each(files):
    request = ReadRequest(Source(files[0], joined=files[1:]), 1, 30.0, FixedLayout(Layout((8, 8), (1, 1), (1, 1))))
    with pytest.raises(InputError, match=r"^--frames 1: must be at least 2, one for each video\.$"):
        read_source(request)


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask", *words])
    return (ended.value.code, *capsys.readouterr())


def test_the_command(files, tiny_checkpoint, capsys):
    one, two = map(str, files)
    own = ["--model", str(tiny_checkpoint), "--frames", "4", "--device", "cpu", "--together"]
    code, out, _ = run(capsys, one, two, "What is it?", *own, "--json")
    assert code == 0
    video = json.loads(out)["video"]
    assert video["path"] == f"{one} and {two}"
    assert video["num_frames"] == 4
    assert video["timestamps_s"][2] >= 5
    for words, line in (
        ([one, "What?"], "--together: joins several videos; name at least two."),
        ([one, two, "What?", "--start", "1"], "--together: cannot stand with --start, --end, --at or --subtitles"),
    ):
        code, _, err = run(capsys, *words, *own)
        assert code == 2
        assert f"stts: {line}" in err
