from __future__ import annotations

import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stts_cli.errors import InputError
from stts_cli.media import container, decord_reader, packets, video
from stts_cli.media.container import probe
from stts_cli.media.resize import DECODER, Resizer
from stts_cli.media.source import ReadRequest, Source
from tests.conftest import frame_value

# files that name others, under any name
PLAYLISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.0,\nwhole.mp4\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile whole.mp4\n",
    "description.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}
READERS = pytest.mark.parametrize("reader", ["pyav", "decord"])


def read_by(reader, path, *, num_frames, size=None, resample="bilinear", max_fps=2.0):
    """Read with one of the two decoders."""
    avoid = "x" if reader == "decord" else ""
    clip = video.read_file(ReadRequest(Source(Path(path)), num_frames, max_fps, size, resample, avoid))
    assert clip.backend == reader
    return clip


def test_the_frames_read_are_the_frames_of_their_times(clip_file):
    clip = video.read_clip(clip_file, num_frames=8, max_fps=1.0)
    assert clip.backend == "pyav"
    assert clip.notes == clip.damage == ()
    assert clip.frames.shape == (6, 96, 128, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.timestamps_s == pytest.approx([0, 1, 2, 3, 4, 4.9])
    assert clip.duration_s == pytest.approx(5.0)
    assert clip.source_fps == pytest.approx(10.0)
    assert clip.num_source_frames == 50
    for time, frame in zip(clip.timestamps_s, clip.frames, strict=True):
        assert int(frame[48, 100, 0]) == pytest.approx(frame_value(round(time * 10)), abs=2)
        assert int(frame[48, 20, 0]) > 250


@READERS
@pytest.mark.parametrize("size", [(96, 96), (144, 144), (64, 64), (378, 378), (30, 50), (96, 20)])
def test_resizing_works_at_every_width(clip_file, size, reader):
    """Decord pads rows to 64 pixels; without care narrow frames come back torn or not at all."""
    clip = read_by(reader, clip_file, num_frames=3, size=size)
    assert clip.frames.shape == (3, *size, 3)
    middle = clip.frames[1].astype(int)
    edge = 2 + size[1] // 16  # interpolation rings there
    left, right = middle[:, : size[1] // 2 - edge], middle[:, size[1] // 2 + edge :]
    assert left.min() > 245
    assert np.abs(right - frame_value(round(clip.timestamps_s[1] * 10))).max() <= 3


@READERS
def test_a_video_with_a_narrow_frame_of_its_own_is_read(write_video, reader):
    clip = read_by(reader, write_video("narrow.mp4", size=(64, 48), num_frames=5), num_frames=2)
    assert clip.frames.shape == (2, 64, 48, 3)


def test_start_and_end_cut_and_times_stay_absolute(clip_file):
    clip = video.read_clip(clip_file, num_frames=8, max_fps=1.0, start=2.0, end=4.0)
    assert clip.timestamps_s == pytest.approx([2, 3, 4])
    with pytest.raises(InputError, match=r": has no frame behind 9 s; its last is at 4\.9 s\.$"):
        video.read_clip(clip_file, num_frames=8, start=9.0)


def test_one_frame_is_a_video(write_video):
    clip = video.read_clip(write_video("one.mp4", num_frames=1), num_frames=8)
    assert clip.timestamps_s == [0.0]
    assert clip.frames.shape[0] == 1


def test_decord_reads_what_pyav_cannot_and_says_why(clip_file, monkeypatch):
    wanted = video.read_clip(clip_file, num_frames=5, size=(60, 80))

    def fail(*_):
        raise ValueError("no such thing")

    monkeypatch.setattr(video, "decode", fail)
    clip = video.read_clip(clip_file, num_frames=5, size=(60, 80))
    assert clip.backend == "decord"
    assert clip.notes == ("read with decord: PyAV: no such thing",)
    assert clip.timestamps_s == wanted.timestamps_s
    np.testing.assert_array_equal(clip.frames, wanted.frames)


def test_a_decoder_that_hangs_is_left_behind(clip_file, monkeypatch):
    released = threading.Event()

    def hang(*_):
        released.wait(20)
        yield

    monkeypatch.setattr(decord_reader, "_steps", hang)
    monkeypatch.setattr(decord_reader, "STALL_S", 0.1)
    with pytest.raises(InputError, match=r"\(x; decord delivered nothing for 0\.1 s\); it is damaged"):
        read_by("decord", clip_file, num_frames=2)
    released.set()


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory, write_video) -> dict[str, Path]:
    import av

    folder = tmp_path_factory.mktemp("bad")
    names = ("missing", "empty", "text", "noise", "cut", "cut_faststart", "cut_mkv", "sound", "scrambled", "folder")
    files = {name: folder / f"{name}.mp4" for name in names}
    files |= {name: folder / name for name in ("cover.mp3", "a.png", "a.webp", *PLAYLISTS, "pictures%d.png")}
    for name, text in PLAYLISTS.items():
        files[name].write_text(text)
    picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8), format="rgb24")
    for name, codec, pixels in (("a.png", "png", "rgb24"), ("a.webp", "libwebp", "yuv420p")):
        with av.open(str(files[name]), "w", format="image2") as container:
            still = container.add_stream(codec, rate=1)
            still.width, still.height, still.pix_fmt = 64, 48, pixels
            for packet in [*still.encode(picture.reformat(format=pixels)), *still.encode()]:
                container.mux(packet)
    files["pictures%d.png"].write_bytes(files["a.png"].read_bytes())
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
    for name, codec in (("sound", "aac"), ("cover.mp3", "libmp3lame")):
        with av.open(str(files[name]), "w", options={"id3v2_version": "0"} if name == "cover.mp3" else {}) as container:
            stream = container.add_stream(codec, rate=16_000, layout="mono")
            samples = 1024 if codec == "aac" else 576
            for _ in range(8):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), format="fltp", layout="mono")
                frame.rate = 16_000
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    cover = b"\0image/png\0\3\0" + files["a.png"].read_bytes()
    frame = b"APIC" + len(cover).to_bytes(4, "big") + b"\0\0" + cover
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    files["cover.mp3"].write_bytes(b"ID3\3\0\0" + size + frame + files["cover.mp3"].read_bytes())
    return files


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", r": does not exist; must be a video file\.$"),
        ("empty", r": is empty \(0 bytes\); "),
        ("folder", ": is a folder; must be"),
        ("text", "no video"),
        ("noise", "no video"),
        ("cut", "truncated"),
        ("sound", r": holds only sound or data; must hold a video\.$"),
        ("cover.mp3", r": holds sound and a cover picture only; must hold a video\.$"),
        *((name, "holds a playlist, or another kind of file that refers to others") for name in PLAYLISTS),
        ("pictures%d.png", "holds a playlist, or another kind of file that refers to others"),
    ],
)
def test_a_bad_file_gives_one_clear_line(bad_files, name, words, capfd):
    with pytest.raises(InputError, match=words) as caught:
        video.read_clip(bad_files[name], num_frames=8, size=(96, 96))
    message = str(caught.value)
    assert str(bad_files[name]) in message
    assert "\n" not in message
    out, err = capfd.readouterr()
    assert out == ""
    assert not re.findall(r"^\[.*", err, re.MULTILINE), "a decoder's own words: [mov @ 0x…] moov atom not found"


@READERS
def test_a_file_is_a_file_whatever_its_name(clip_file, connections, tmp_path, monkeypatch, reader):
    port, found = connections
    monkeypatch.chdir(tmp_path)
    for name in (f"http:/127.0.0.1:{port}/x.mp4", f"tcp:127.0.0.1:{port}", "12:30 party.mp4", "file:a.mp4", "-v.mp4"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(clip_file.read_bytes())
        clip = read_by(reader, name, num_frames=2, size=(24, 32))
        assert clip.timestamps_s == [0.0, 4.9]
    assert found == []


def test_decord_is_not_given_what_may_name_other_files(clip_file, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(clip_file.read_bytes() + (16).to_bytes(4, "big") + b"free#EXTM3U\n")
    assert read_by("pyav", path, num_frames=2).damage == ()
    with pytest.raises(InputError, match=r"\(x; it holds what may name other files, which decord would open\); it is"):
        read_by("decord", path, num_frames=2)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_url_is_refused_before_anything_is_opened(connections, kind):
    port, found = connections
    with pytest.raises(InputError, match=r"x\.mp4: is no file; must be a file or an http\(s\) address\.$"):
        probe(kind(f"http://127.0.0.1:{port}/x.mp4"))
    assert found == []


@pytest.mark.parametrize("size", [(719, 1279), (50, 66), (51, 65), (48, 18), (30, 33)])
def test_both_readers_give_the_same_pixels_at_any_size(tmp_path, size):
    path = write_pattern(tmp_path / "a.mp4", size)
    by_decord, by_pyav = (read_by(reader, path, num_frames=2) for reader in ("decord", "pyav"))
    assert by_decord.frames.shape == (2, *size, 3)
    np.testing.assert_array_equal(by_decord.frames, by_pyav.frames)


@READERS
@pytest.mark.parametrize(("matrix", "quarters"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
@pytest.mark.parametrize("resample", ["bilinear", DECODER])
def test_a_video_filmed_sideways_is_turned_upright(tmp_path, reader, matrix, quarters, resample):
    path = write_pattern(tmp_path / "a.mp4", (48, 80))
    plain = video.read_clip(path, num_frames=1).frames[0]
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44  # of the matrix, in a header of version 0
    for index, value in zip((0, 1, 3, 4), matrix, strict=True):
        data[place + 4 * index : place + 4 * index + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    wanted = np.rot90(plain, quarters)
    np.testing.assert_array_equal(read_by(reader, path, num_frames=1).frames[0], wanted)
    assert video.shown_size(path) == wanted.shape[:2]
    small = read_by(reader, path, num_frames=1, size=(24, 24), resample=resample).frames[0]
    by_model = Resizer((24, 24), "bilinear")(wanted)
    assert np.abs(small.astype(int) - by_model).mean() < (1e-9 if resample == "bilinear" else 10)


def write_pattern(path, size, num_frames=2):
    """Write frames whose every part differs, at any size, odd ones too."""
    import av

    height, width = size
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv444p"
        for index in range(num_frames):
            pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 40 + 90 * index)], -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


class Closing:
    """A container of PyAV whose streams know that it was closed: PyAV's read freed memory then."""

    def __init__(self, container):
        self.container, self.closed = container, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.container.close()
        self.closed = True

    def __getattr__(self, name):
        assert not self.closed, f"{name} of a file that is closed"
        found = getattr(self.container, name)
        if name == "streams":
            return SimpleNamespace(best=lambda kind: Stream(found.best(kind), self))
        if name in ("demux", "decode"):
            return lambda *streams: found(*(one.stream for one in streams))
        return found


class Stream:
    def __init__(self, stream, container):
        self.stream, self.container = stream, container

    def __getattr__(self, name):
        assert not self.container.closed, f"{name} of a stream of a file that is closed"
        return getattr(self.stream, name)


def test_nothing_is_asked_of_a_file_that_is_closed(clip_file, monkeypatch):
    opened = container.open_file
    for module in (container, packets, video):
        monkeypatch.setattr(module, "open_file", lambda path: Closing(opened(path)))
    assert video.read_clip(clip_file, num_frames=2).backend == "pyav"
