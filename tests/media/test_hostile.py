"""Broken and malicious files: each gives an answer or one line, in 20 s and 2 GB, and no other file is looked at."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stts_cli import cli
from tests.media.children import MOST_BYTES, Outcome, read_each
from tests.media.files import KINDS, numbered, write_kind

STILLS = ("jpg", "tif", "bmp", "ppm", "webp")  # the last one moves
EITHER = "frames or a line"
BOMB = 16_000  # pixels each way


def flip(data: bytes, first: float, last: float, number: int) -> bytes:
    """Flip single bits between two parts of the data."""
    chance, changed = random.Random(number), bytearray(data)
    begin, end = int(first * len(data)), max(int(last * len(data)), int(first * len(data)) + 1)
    for _ in range(number):
        changed[chance.randrange(begin, end)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def blank(data: bytes, first: float, last: float) -> bytes:
    begin, end = int(first * len(data)), int(last * len(data))
    return data[:begin] + bytes(end - begin) + data[end:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped header": lambda data: flip(data, 0, 0.06, 8),
    "flipped first bytes": lambda data: flip(data, 0, 64 / len(data), 3),
    "flipped middle": lambda data: flip(data, 0.3, 0.7, 8),
    "badly flipped middle": lambda data: flip(data, 0.3, 0.7, 60),
    "flipped tail": lambda data: flip(data, 0.9, 1, 8),
    "cut to 3 bytes": lambda data: data[:3],
    "cut to 48 bytes": lambda data: data[:48],
    "cut to a tenth": lambda data: data[: len(data) // 10],
    "cut to a half": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data[:-1],
    "blank middle": lambda data: blank(data, 0.25, 0.75),
    "blank tail": lambda data: blank(data, 0.9, 1),
}


def check(name: str | Path, outcome: Outcome) -> None:
    """Hold what any file may come to."""
    assert not outcome.bug
    assert not outcome.said, "only the command writes"
    assert outcome.peak_bytes < MOST_BYTES
    assert bool(outcome.clips) != bool(outcome.error)
    if outcome.error:
        assert str(name) in outcome.error
        assert "\n" not in outcome.error.replace(str(name), "")
        assert outcome.error.endswith(".")
    for shape, times, duration_s, _, _ in outcome.clips:
        assert shape == (len(times), 24, 32, 3)
        assert np.isfinite([*times, duration_s]).all()
        assert times == sorted(set(times))


def write_still(folder: Path, kind: str) -> Path:
    path = folder / f"a.{kind}"
    frames = [Image.fromarray(numbered(index, (48, 64))) for index in range(6)]
    frames[0].save(path, **({"save_all": True, "append_images": frames[1:]} if kind == "webp" else {}))
    return path


@pytest.mark.hostile
@pytest.mark.parametrize("kind", [*KINDS, *STILLS])
def test_a_damaged_file_gives_an_answer_or_one_line(tmp_path, kind):
    whole = write_still(tmp_path, kind) if kind in STILLS else write_kind(tmp_path, kind, num_frames=20)
    data, paths = whole.read_bytes(), []
    for name, damage in DAMAGE.items():
        paths.append(tmp_path / f"{name}.{kind}")
        paths[-1].write_bytes(damage(data))
    outcomes = read_each([whole, *paths])
    for path, outcome in zip([whole, *paths], outcomes, strict=True):
        check(path, outcome)
    assert outcomes[0].clips
    assert not outcomes[0].clips[0][4]
    assert any(outcome.error for outcome in outcomes)


def playlists(target: str) -> dict[str, str]:
    """Return files that name another one, by their usual ending."""
    return {
        "m3u8": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"a=control:{target}\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        f"<AdaptationSet mimeType='video/mp4'><Representation id='0' bandwidth='1'><BaseURL>{target}</BaseURL>"
        "</Representation></AdaptationSet></Period></MPD>\n",
        "asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>\n',
        "pls": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
        "svg": '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="64" height="48">'
        f'<image href="{target}" width="64" height="48"/></svg>\n',
    }


@pytest.mark.slow
def test_a_file_that_names_another_opens_nothing(tmp_path, connections):
    """The other file is a FIFO that nobody writes to: a reader that opens it hangs."""
    port, found = connections
    os.mkfifo(tmp_path / "other.mp4")
    targets = ["other.mp4", str(tmp_path / "other.mp4"), f"file:{tmp_path}/other.mp4"]
    targets += [f"http://127.0.0.1:{port}/a.mp4", f"tcp://127.0.0.1:{port}", f"concat:{tmp_path}/other.mp4"]
    paths = []
    for place, target in enumerate(targets):
        for ending, text in playlists(target).items():
            for name in (f"{place}.{ending}", f"{place}.{ending}.mp4"):
                paths.append(tmp_path / name)
                paths[-1].write_text(text)
    for path, outcome in zip(paths, read_each(paths), strict=True):
        check(path, outcome)
        assert re.search(": (holds a playlist|cannot be read as a video|holds only sound or data)", outcome.error)
    assert found == []


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png_bomb(path: Path) -> None:
    """Write a picture of 12,000 x 12,000 black pixels in 0.4 MB."""
    packed = zlib.compressobj(9)
    pixels = b"".join(packed.compress(bytes(1 + 3 * 12_000)) for _ in range(12_000)) + packed.flush()
    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def write_bombs(folder: Path) -> None:
    """Write small files whose headers, or frames, declare 256 million pixels."""
    both = struct.pack("<HH", BOMB, BOMB)
    data = bytearray(write_kind(folder, "gif", num_frames=4).read_bytes())
    data[6:10] = both
    (folder / "bomb.gif").write_bytes(data)
    data = bytearray(write_kind(folder, "mjpeg.avi", num_frames=4).read_bytes())
    for found in re.finditer(rb"\xff\xc0", bytes(data)):
        data[found.start() + 5 : found.start() + 9] = struct.pack(">HH", BOMB, BOMB)
    (folder / "bomb.avi").write_bytes(data)
    for kind in ("ivf", "vp8.webm"):
        data = bytearray(write_kind(folder, kind, num_frames=4).read_bytes())
        place = data.find(b"\x9d\x01\x2a") + 3
        data[place : place + 4] = both
        (folder / f"bomb.{kind}").write_bytes(data)
    for kind in ("apng", "png"):
        data = bytearray(write_kind(folder, kind, num_frames=4).read_bytes())
        data[8:33] = chunk(b"IHDR", struct.pack(">II", BOMB, BOMB) + bytes(data[24:29]))
        (folder / f"bomb.{kind}").write_bytes(data)
    text = write_kind(folder, "y4m", num_frames=4).read_bytes()
    (folder / "bomb.y4m").write_bytes(text.replace(b"W64 H48", b"W16000 H16000"))
    write_png_bomb(folder / "true.png")
    (folder / "true.png.mp4").write_bytes((folder / "true.png").read_bytes())
    (folder / "bomb.ppm").write_bytes(b"P6 12000 12000 255\n" + bytes(999))
    header = struct.pack("<IHHIIiiHHIIiiII", 999, 0, 0, 54, 40, 12_000, 12_000, 1, 24, 0, 0, 0, 0, 0, 0)
    (folder / "bomb.bmp").write_bytes(b"BM" + header + bytes(999))


@pytest.mark.hostile
def test_photographs_of_50_megapixels_are_read(tmp_path):
    large = Image.radial_gradient("L").resize((8192, 6144)).convert("RGB")
    large.save(tmp_path / "a.jpg")
    large.save(tmp_path / "progressive.jpg", progressive=True)
    large.save(tmp_path / "a.png", compress_level=1)
    large.convert("RGBA").save(tmp_path / "a.webp", method=0)
    large.save(tmp_path / "a.jp2", irreversible=True)
    large.save(tmp_path / "a.tif", compression="tiff_deflate")
    paths = sorted(tmp_path.iterdir())
    for path, outcome in zip(paths, read_each(paths), strict=True):
        check(path, outcome)
        assert not outcome.error, outcome.error
        assert outcome.clips[0][0] == (1, 24, 32, 3)
        assert outcome.peak_bytes < (600e6 if path.suffix == ".jpg" else 1.5e9), f"{path.name}: {outcome.peak_bytes:,}"


TOO_LARGE = r": (has frames of 1\d000 x 1\d000 pixels; must be at most (40|64) million each|.*far too large)"
BOMBS = {
    **dict.fromkeys(("gif", "apng", "png", "y4m", "ppm", "bmp"), TOO_LARGE),
    **dict.fromkeys(("avi", "ivf", "vp8.webm"), ": none of the 2 frames wanted can be decoded"),
}


@pytest.mark.slow
def test_a_frame_of_gigabytes_is_refused(tmp_path):
    write_bombs(tmp_path)
    wanted = {f"bomb.{kind}": words for kind, words in BOMBS.items()} | dict.fromkeys(
        ("true.png", "true.png.mp4"), TOO_LARGE
    )
    paths = [tmp_path / name for name in wanted]
    for path, outcome in zip(paths, read_each(paths), strict=True):
        check(path, outcome)
        assert re.search(wanted[path.name], outcome.error), outcome.error
        most = 500e6 if path.name == "true.png.mp4" else 100e6  # FFmpeg decodes a picture to see what the file is
        assert outcome.peak_bytes < most, "the frame was made before it was refused"


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder of files of odd names, kinds and contents; for each what its error says, empty where frames come."""
    import av

    folder = tmp_path_factory.mktemp("odd")
    whole = write_kind(folder, "mp4", num_frames=20).read_bytes()
    wanted = {}

    def add(name: str, data: bytes, error: str = "") -> None:
        (folder / name).write_bytes(data)
        wanted[name] = error

    for name in ("with spaces.mp4", "'quotes\".mp4", "two\nlines.mp4", "fi\u00e9vre \u6620\u753b \U0001f3ac.mp4",
                 "a\x1b[31m.mp4", "-v", "no ending", "100%d.mp4", "a*?[b].mp4", "file:a.mp4", "video.txt"):  # fmt: skip
        add(name, whole)
    add("empty.mp4", b"", r": is empty \(0 bytes\)")
    add("text.mp4", b"What is it?\n" * 99, "no video")
    add("blank.mp4", bytes(9999), "no video")
    add("noise.mkv", random.Random(0).randbytes(9999), "no video")
    add("html.mp4", b"<!DOCTYPE html><html><body>404</body></html>\n" * 9, "no video")
    add("archive.mp4", b"PK\3\4" + random.Random(1).randbytes(9999), "no video")
    for kind in ("mp4", "mkv", "avi", "ts"):
        add(f"twice.{kind}", 2 * (folder / write_kind(folder, kind, num_frames=20)).read_bytes())
    add("other.avi", whole)  # the name says one kind, the content another
    place = whole.find(b"mdat") - 4
    add("endless.mp4", whole[:place] + b"\xff\xff\xff\xff" + whole[place + 4 :], EITHER)
    add("size64.mp4", whole[:place] + b"\0\0\0\1mdat\x7f" + b"\xff" * 7 + whole[place + 16 :], EITHER)
    mkv = write_kind(folder, "mkv", num_frames=20).read_bytes()
    segment = mkv.find(b"\x18\x53\x80\x67") + 4
    add("endless.mkv", mkv[:segment] + b"\x01" + b"\xfe" * 7 + mkv[segment + 8 :])
    stts = whole.find(b"stts") + 8
    add("many samples.mp4", whole[:stts] + b"\x7f\xff\xff\xff" + whole[stts + 4 :], EITHER)
    stsz = whole.find(b"stsz") + 12
    add("many sizes.mp4", whole[:stsz] + b"\x0f\xff\xff\xff" + whole[stsz + 4 :], EITHER)
    h264 = [write_kind(folder, "h264", num_frames=10, size=size).read_bytes() for size in ((48, 64), (96, 32))]
    add("two sizes.h264", b"".join(h264))
    ts = [write_kind(folder, "ts", num_frames=10, size=size).read_bytes() for size in ((48, 64), (96, 32))]
    add("two sizes.ts", b"".join(ts))
    for name, options in {
        "wide": {"size": (16, 8192), "num_frames": 2}, "high": {"size": (8192, 16), "num_frames": 2},
        "one": {"num_frames": 1}, "fast": {"rate": 1000}, "slow": {"rate": 1, "num_frames": 3},
        "late": {"pts": [10_000_000 + 40 * index for index in range(50)]},
        "hole": {"pts": [40 * index + 3_600_000 * (index > 25) for index in range(50)]},
        "negative": {"pts": [40 * index - 1000 for index in range(50)]},
    }.items():  # fmt: skip
        add(f"{name}.mkv", write_kind(folder, "mkv", **options).read_bytes())
        add(f"{name}.mp4", write_kind(folder, "mp4", **options).read_bytes())
    for kind in ("mp4", "mkv", "avi"):
        with av.open(str(folder / f"none.{kind}"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
        wanted[f"none.{kind}"] = "(holds no frame|no video|holds only sound)"
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket.mp4"))
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "link.mp4").symlink_to(folder / "back.mp4")
    (folder / "back.mp4").symlink_to(folder / "link.mp4")
    (folder / "lost.mp4").symlink_to(folder / "gone.mp4")
    (folder / "zero.mp4").symlink_to("/dev/zero")
    (folder / "folder.mp4").mkdir()
    (folder / "frames").mkdir()
    os.mkfifo(folder / "frames" / "1.png")
    wanted |= dict.fromkeys(("pipe.mp4", "socket.mp4", "zero.mp4"), ": is a pipe, a socket or a device")
    wanted |= dict.fromkeys(("loop.mp4", "link.mp4"), ": cannot be opened ")
    wanted["frames"] = "1.png: is a pipe, a socket or a device"
    wanted |= {"lost.mp4": ": does not exist", "folder.mp4": ": holds neither pictures nor videos"}
    wanted |= {"a\0b.mp4": ": is no name of a file", "x" * 5000: ": cannot be opened "}
    return folder, wanted


@pytest.mark.slow
def test_odd_files_give_frames_or_one_line(odd):
    folder, wanted = odd
    paths = [f"{folder}/{name}" for name in wanted]
    for path, (name, words), outcome in zip(paths, wanted.items(), read_each(paths), strict=True):
        check(path, outcome)
        if words != EITHER:
            assert bool(outcome.error) == bool(words), (name, outcome)
            assert re.search(words, outcome.error), (name, outcome)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "code"),
    [
        *(([name], 2) for name in ("empty.mp4", "text.mp4", "none.mp4", "pipe.mp4", "loop.mp4", "zero.mp4")),
        (["two\nlines.mp4", "a\x1b[31m.mp4", "wide.mp4", "negative.mkv", "two sizes.ts"], 0),
    ],
)
def test_the_command_answers_or_says_one_line(odd, capfd, names, code):
    folder, _ = odd
    ended = 0
    try:
        cli.main(["ask", *(f"{folder}/{name}" for name in names), "What color is the circle?", "-q"])
    except SystemExit as end:
        ended = end.code
    said = capfd.readouterr()
    assert ended == code, said
    assert not re.search(r"\x1b|Traceback", said.out + said.err)
    if code:
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert said.err.startswith("stts: ")
    else:
        assert len(said.out.splitlines()) >= len(names)
