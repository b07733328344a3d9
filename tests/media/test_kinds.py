"""Files of every kind: the frames that are read are those of their times, also where a file is broken."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from stts_cli.errors import InputError
from stts_cli.media import packets, video
from stts_cli.media.source import ReadRequest, Source
from stts_cli.settings import Layout
from tests.media.files import KINDS, number, write_kind

RAW = ("h264", "hevc")


def numbers(clip, rate=25.0):
    """Return the numbers of the frames that were read, by what they show, and by their times."""
    return [number(frame) for frame in clip.frames], [round(time * rate) for time in clip.timestamps_s]


@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_read_are_those_of_their_times(tmp_path, kind):
    clip = video.read_clip(write_kind(tmp_path, kind), num_frames=5)
    shown, by_time = numbers(clip)
    assert shown == by_time == [0, 13, 25, 38, 49]
    assert clip.num_source_frames == 50
    assert clip.duration_s == pytest.approx(2.0)
    assert clip.backend == "pyav"
    assert clip.damage == ()
    assumed = ("the file does not say when its frames are shown; 25 a second are assumed",)
    assert clip.notes == (assumed if kind in RAW else ())


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "avi", "mpg", "vp9.webm"])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 7])
def test_jumps_land_on_the_frame_that_was_asked_for(tmp_path, monkeypatch, kind, num_frames):
    """Key frames every 4, frames built on later ones between them, and every gap jumped over."""
    monkeypatch.setattr(packets, "JUMP_BEYOND", 1)
    path = write_kind(tmp_path, kind, options={"g": "4", "bf": "2", "keyint_min": "4"})
    for start in (0.0, 0.3, 1.1):
        clip = video.read_clip(path, num_frames=num_frames, max_fps=50, start=start)
        shown, by_time = numbers(clip)
        assert shown == by_time
        assert clip.damage == ()


def test_no_more_is_decoded_than_the_wanted_frames_need(tmp_path, monkeypatch):
    path = write_kind(tmp_path, "mkv", options={"g": "10", "bf": "0", "keyint_min": "10", "sc_threshold": "0"})
    given = []
    decoded = packets._decoded

    def count(decoder, packet, alive):
        given.append(packet is not None)
        return decoded(decoder, packet, alive)

    monkeypatch.setattr(packets, "_decoded", count)
    clip = video.read_clip(path, num_frames=2)
    assert numbers(clip)[0] == [0, 49]
    assert sum(given) == 1 + 10, "the first frame, and the last ten from their key frame on"


def test_a_jump_that_lands_elsewhere_is_noticed(tmp_path, monkeypatch):
    path = write_kind(tmp_path, "mp4", options={"g": "5", "bf": "0", "keyint_min": "5"})
    monkeypatch.setattr(packets, "JUMP_BEYOND", 1)
    opened = packets.open_file

    class Elsewhere:
        """A container whose jumps go to the end."""

        def __init__(self, container):
            self.container = container

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.container.close()

        def __getattr__(self, name):
            return getattr(self.container, name)

        def seek(self, pts, stream):
            self.container.seek(pts if pts <= 0 else 10**6, stream=stream)

    monkeypatch.setattr(packets, "open_file", lambda path: Elsewhere(opened(path)))
    shown, by_time = numbers(video.read_clip(path, num_frames=4))
    assert shown == by_time == [0, 16, 33, 49]


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_times_that_vary_or_begin_late_are_the_files_own(tmp_path, kind):
    gaps = np.cumsum([0, *([40, 40, 400] * 20)])[:50]
    clip = video.read_clip(write_kind(tmp_path, kind, pts=gaps), num_frames=5)
    shown, _ = numbers(clip)
    assert clip.timestamps_s == pytest.approx(gaps[shown] / 1000, abs=0.002)
    late = video.read_clip(write_kind(tmp_path, kind, pts=np.arange(50) * 40 + 5000), num_frames=5)
    assert numbers(late) == ([0, 13, 25, 38, 49], [0, 13, 25, 38, 49])


def test_a_size_is_decided_by_what_is_seen_not_by_what_is_coded(tmp_path):
    """Pixels twice as wide as high: a rule that keeps the aspect ratio sees 48 x 128."""
    seen = []

    def rule(height, width, num_frames):
        seen.append((height, width))
        return Layout(frame_size=(24, 64), grid=(2, 2), window=(1, 1))

    path = write_kind(tmp_path, "mp4", num_frames=3, aspect=Fraction(2, 1))
    clip = video.read_file(ReadRequest(Source(path), 2, 2.0, rule))
    assert seen == [(48, 128)]
    assert clip.frames.shape == (2, 24, 64, 3)


def test_a_size_that_changes_is_noted(tmp_path):
    parts = [
        write_kind(tmp_path, "ts", num_frames=10, size=size, pts=range(start, start + 400, 40)).read_bytes()
        for size, start in (((48, 64), 0), ((96, 128), 400))
    ]
    path = tmp_path / "b.ts"
    path.write_bytes(b"".join(parts))
    clip = video.read_clip(path, num_frames=8, max_fps=50)
    assert clip.frames.shape[1:] == (48, 64, 3)
    assert "the frames are of 2 sizes; all were made as large as the first" in clip.notes
    (tmp_path / "c.ts").write_bytes(parts[0])
    assert video.read_clip(tmp_path / "c.ts", num_frames=8, max_fps=50).notes == ()


def test_a_size_that_is_seen_is_at_least_a_pixel(tmp_path):
    """Pixels a million times as high as wide: a rule divides by the width."""
    path = write_kind(tmp_path, "mp4", num_frames=3, aspect=Fraction(2, 1))
    data = path.read_bytes()
    place = data.find(b"pasp") + 4
    path.write_bytes(data[:place] + (1).to_bytes(4, "big") + (10**6).to_bytes(4, "big") + data[place + 8 :])

    def rule(height, width, num_frames):
        raise InputError(f"frames of {width}x{height} px: must be wider by {height // width}.")

    for avoid in ("", "x"):
        with pytest.raises(InputError, match=r"a\.mp4: frames of 1x48 px: must be wider by 48\.$"):
            video.read_file(ReadRequest(Source(path), 2, 2.0, rule, avoid_pyav=avoid))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"gif", "apng", "png", "y4m"}))
def test_of_a_cut_file_what_is_there_is_read_and_the_rest_is_noted(tmp_path, kind):
    path = write_kind(tmp_path, kind, options={"g": "10"})
    whole = path.read_bytes()
    for part in (0.9, 0.5, 0.2):
        path.write_bytes(whole[: int(part * len(whole))])
        try:
            clip = video.read_clip(path, num_frames=4)
        except InputError:  # too little is left
            continue
        shown, by_time = numbers(clip)
        if not any("damaged" in line for line in clip.damage):
            off = np.abs(np.subtract(shown, by_time)).max()
            assert off <= (kind in RAW), "no frame of another time; frames without times are counted as they come"


def test_a_cut_file_says_up_to_where_it_was_read(tmp_path):
    path = write_kind(tmp_path, "mkv", num_frames=100, options={"g": "10"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = video.read_clip(path, num_frames=4)
    assert len(clip.damage) == 1
    assert clip.damage[0].startswith("the file is truncated: ")
    assert clip.damage[0].endswith(" of the 4.0 s that it declares can be read")
    assert 1.0 < clip.timestamps_s[-1] < 3.0


def test_one_damaged_frame_at_the_end_costs_one_frame(tmp_path):
    import av

    path = write_kind(tmp_path, "mjpeg.avi", num_frames=20)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    place, size = places[-1]
    data = bytearray(path.read_bytes())
    data[place + 16 : place + size] = bytes(size - 16)
    path.write_bytes(data)
    clip = video.read_clip(path, num_frames=3, max_fps=50)
    assert clip.damage == ("1 of 3 frames cannot be decoded, the first at 0.8 s",)
    assert numbers(clip)[0] == [0, 10]


def test_where_nothing_can_be_decoded_it_is_tried_from_the_first_packet_on(tmp_path, monkeypatch):
    """A file that calls each packet a place where decoding can begin, though the first alone is."""
    path, scan = write_kind(tmp_path, "vp8.webm", options={"g": "50"}), video.scan

    def mislead(*args):
        index = scan(*args)
        return dataclasses.replace(index, is_key=np.ones_like(index.is_key))

    monkeypatch.setattr(video, "scan", mislead)
    clip = video.read_clip(path, num_frames=2, start=1.0)
    assert numbers(clip) == ([25, 49], [25, 49])
    assert clip.backend == "pyav"
