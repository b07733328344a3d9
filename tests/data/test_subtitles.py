"""Subtitle files as they are found: every form is read rightly, put right with a note, or refused with its line."""

import pytest

from stts_cli.data.items import Cue
from stts_cli.data.subtitles import cut, read_embedded, read_published, read_subtitles
from stts_cli.errors import InputError

HI = [(1.0, 2.0, "hi"), (3.0, 4.0, "yo")]
SRT = "1\n00:00:01,000 --> 00:00:02,000\nhi\n\n2\n00:00:03,000 --> 00:00:04,000\nyo\n"
READ = {
    "srt": (SRT, HI),
    "windows line ends": (SRT.replace("\n", "\r\n"), HI),
    "old line ends": (SRT.replace("\n", "\r"), HI),
    "without hours": ("1\n00:01,000 --> 00:02,000\nhi\n\n2\n00:03.0 --> 00:04\nyo\n", HI),
    "no blank lines": (SRT.replace("\n\n", "\n"), HI),
    "blank lines with spaces": (SRT.replace("\n\n", "\n \n"), HI),
    "no numbers": ("00:01.000 --> 00:02.000\nhi\n\n00:03.000 --> 00:04.000\nyo", HI),
    "no last line end": (SRT.rstrip(), HI),
    "numbers in the text": ("1\n0:01 --> 0:02\nhi\n7\n2\n0:03 --> 0:04\n8\n", [(1, 2, "hi 7"), (3, 4, "8")]),
    "numbers are text where cues have none": ("0:01 --> 0:02\nhi\n7\n0:03 --> 0:04\n8", [(1, 2, "hi 7"), (3, 4, "8")]),
    "blank line within a cue": (SRT.replace("hi", "hi\n\nyou"), [(1, 2, "hi you"), HI[1]]),
    "empty cues": (SRT + "\n3\n00:00:05,000 --> 00:00:06,000\n\n", HI),
    "hours": ("1\n99:00:01,5 --> 99:00:02,25\nhi\n", [(356401.5, 356402.25, "hi")]),
    "tags": (
        '1\n0:01 --> 0:02\n{\\an8}<i>one</i> <font color="white" size=".72c">two</FONT>\n<b>three</b><br>four\n',
        [(1, 2, "one two three four")],
    ),
    "no tags": (
        "1\n0:01 --> 0:02\nif a < b and c > d, {x} <you> a --> b\n",
        [(1, 2, "if a < b and c > d, {x} <you> a --> b")],
    ),
    "entities": ("1\n0:01 --> 0:02\nyou &amp; me &lt;3\n", [(1, 2, "you & me <3")]),
    "vtt": (
        "WEBVTT\n1:00 -> title\nKind: captions\n\nNOTE\n0:01 -> what\nis this\n\nSTYLE\n::cue { color: red }\n\n"
        "00:01.000 --> 00:02.000 align:start position:0%\n<v Bob>h<00:01.500><c.red>i</c>\n\n"
        "intro-2\n00:00:03.000 --> 00:00:04.000\nyo\n\nNOTE the end\n",
        HI,
    ),
}


@pytest.fixture
def read(tmp_path):
    """Read a file of this text or these bytes; return its cues and the notes without the path."""

    def read(text, encoding="utf-8", reader=read_subtitles):
        path, notes = tmp_path / "a.srt", []
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        cues = [(cue.start_s, cue.end_s, cue.text) for cue in reader(path, notes)]
        return cues, [note.removeprefix(f"{path}") for note in notes]

    return read


@pytest.mark.parametrize("name", READ)
def test_a_form_is_read(read, name):
    text, cues = READ[name]
    assert read(text) == (cues, [])


FRENCH = "Où est-il allé, ce garçon ? Très loin d'ici, à la fenêtre."
CHINESE = "你好，你在做什么？我在看一个关于猫的视频。"  # noqa: RUF001
ENCODED = [
    ("utf-8-sig", FRENCH, ""),
    ("utf-16", FRENCH, ""),
    ("utf-32", FRENCH, ""),
    ("utf-16-le", FRENCH, ": is not UTF-8; it was read as utf_16_le."),
    ("utf-16-be", "hello", ": is not UTF-8; it was read as utf_16_be."),
    ("latin-1", FRENCH, ": is not UTF-8; it was read as cp1252."),
    ("latin-1", "Señor", ": is not UTF-8; it was read as cp1252."),
    ("cp1252", "“Señor” — ¿dónde?", ": is not UTF-8; it was read as cp1252."),
    ("gbk", CHINESE, ": is not UTF-8; it was read as gb18030."),
    ("cp1251", "Сегодня хорошая погода, пойдём гулять.", ": is not UTF-8; it was read as cp1251."),
]


@pytest.mark.parametrize(("encoding", "text", "note"), ENCODED)
def test_an_encoding_is_recognised_and_said(read, encoding, text, note):
    assert read(SRT.replace("hi", text), encoding) == ([(1, 2, text), HI[1]], [note] if note else [])


TIMING = "must be START --> END, each [hh:]mm:ss.fff."
TIMES = "must be seconds from 0 on, or a clock time such as 0:01, 1:02.5 or 00:01:02,500."
REFUSED = {
    "end before start": ("1\n0:05 --> 0:02\nhi\n", ":2: '0:05 --> 0:02': the end must not be before the start."),
    "hours beyond 99": (SRT + "\n3\n100:00:00,0 --> 100:00:01,0\nx\n", f":10: '100:00:00,0 --> 100:00:01,0': {TIMES}"),
    "seconds beyond 59": ("1\n0:05 --> 0:61\nhi\n", f":2: '0:05 --> 0:61': {TIMES}"),
    "negative": ("1\n-00:00:01,000 --> 00:00:02,000\nhi\n", f":2: '-00:00:01,000 --> 00:00:02,000': {TIMING}"),
    "negative end": ("1\n00:00:01,000 --> -00:00:02,000\nhi\n", f":2: '00:00:01,000 --> -00:00:02,000': {TIMING}"),
    "frames": ("1\n00:00:01:12 --> 00:00:02:10\nhi\n", f":2: '00:00:01:12 --> 00:00:02:10': {TIMING}"),
    "short arrow in WebVTT": ("WEBVTT\n\nNOTE x\n\n0:01 -> 0:02\nhi\n", f":5: '0:01 -> 0:02': {TIMING}"),
    "short arrow": (SRT.replace("03,000 -->", "03,000 ->"), f":6: '00:00:03,000 -> 00:00:04,000': {TIMING}"),
    "something else": ("<html>404</html>", ": holds no cue with text: must be subtitles in SubRip (.srt) or WebVTT "
                       "(.vtt) form."),
    "no text": ("1\n0:01 --> 0:02\n<i></i>\n", ": holds no cue with text: must be subtitles in SubRip (.srt) or WebVTT "
                "(.vtt) form."),
    "bytes": (bytes(range(256)) * 3, ": its encoding is unknown: must be certain; save the file as UTF-8."),
    "two bytes of Chinese, or of what?": (
        SRT.replace("hi", "你好").encode("gbk"),
        ": its encoding could be big5, cp949, euc_jp, gb18030, cp932, cp1250, cp1252: must be certain; save the file "
        "as UTF-8.",
    ),
    "cut within a character": (SRT.encode("utf-16")[:-1], ": is no utf-16 text (truncated data at byte 142)."),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_line(read, tmp_path, name):
    text, message = REFUSED[name]
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value) == f"{tmp_path}/a.srt{message}"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no\.srt: cannot be read \(No such file"):
        read_subtitles(tmp_path / "no.srt", [])


def test_cues_out_of_order_are_sorted_and_that_is_said(read):
    first, second = SRT.split("\n\n")
    assert read(f"{second}\n{first}\n") == (HI, [": its cues are out of order; they were sorted by their start."])


ROLLING = """WEBVTT
Kind: captions

00:00:00.000 --> 00:00:02.000 align:start position:0%
 
hello<00:00:00.500><c> world</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
hello world
 

00:00:02.010 --> 00:00:04.000 align:start position:0%
hello world
this<00:00:02.500><c> is</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
this is
 

00:00:04.010 --> 00:00:06.000 align:start position:0%
this is
a test
"""
ROLLS = ": its captions roll, each repeating lines of the one before; repeats were left out."


def test_rolling_captions_are_collapsed_and_that_is_said(read):
    assert read(ROLLING) == ([(0.0, 2.01, "hello world"), (2.01, 4.01, "this is"), (4.01, 6.0, "a test")], [ROLLS])
    two_lines = "0:00 --> 0:02\none\ntwo\n\n0:02.1 --> 0:04\ntwo\nthree\n\n0:04 --> 0:06\nthree\nfour\n"
    assert read(two_lines) == ([(0, 2, "one two"), (2.1, 4, "three"), (4, 6, "four")], [ROLLS])


def test_what_is_said_twice_is_kept(read):
    twice = "0:00 --> 0:01\nNo.\n\n0:01 --> 0:02\nNo.\n\n0:02 --> 0:03\nWhy?\n"
    assert read(twice) == ([(0, 1, "No."), (1, 2, "No."), (2, 3, "Why?")], [])
    apart = "0:00 --> 0:01\nNo.\n\n0:01.5 --> 0:02\nNo.\n\n0:02.5 --> 0:03\nNo.\n"
    assert len(read(apart)[0]) == 3


def test_a_benchmarks_own_file_is_kept_as_it_is_but_for_damaged_cues(read):
    damaged = SRT.replace("03,000 -->", "09,000 -->") + "\n3\n-0:05 --> 0:06\nx\n\n4\n0:00 --> 0:01\nfirst\n"
    assert read(damaged, reader=read_published) == (
        [(1, 2, "hi"), (0, 1, "first")],
        [":6: 2 damaged cues were left out."],
    )
    assert len(read(ROLLING, reader=read_published)[0]) == 5


CUTS = [
    (None, None, [(0, 4), (8, 12), (12, 12), (18, 30)]),
    (10, 20, [(0, 2), (2, 2), (8, 10)]),
    (10, None, [(0, 2), (2, 2), (8, 20)]),
    (None, 10, [(0, 4), (8, 10)]),
    (4.5, 7, []),
]


@pytest.mark.parametrize(("start_s", "end_s", "expected"), CUTS)
def test_a_cut_has_its_own_clock_and_keeps_what_reaches_into_it(start_s, end_s, expected):
    cues = [Cue(0, 4, "a"), Cue(8, 12, "b"), Cue(12, 12, "c"), Cue(18, 30, "d")]
    assert [(cue.start_s, cue.end_s) for cue in cut(cues, start_s, end_s)] == expected


def write_with_subtitles(path, text, clip_file):
    """Write a video with subtitles inside."""
    import av

    words_file = path.with_suffix(".srt")
    words_file.write_text(text)
    with av.open(str(clip_file)) as clip, av.open(str(words_file)) as words, av.open(str(path), "w") as out:
        found = [(clip, clip.streams.video[0]), (words, words.streams.subtitles[0])]
        targets = [out.add_stream_from_template(stream) for _, stream in found]  # before the first packet
        for (source, stream), target in zip(found, targets, strict=True):
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = target
                    out.mux(packet)
    return path


def test_subtitles_inside_a_video_are_read_as_a_file_of_them(tmp_path, clip_file):
    text = "1\n00:00:01,000 --> 00:00:02,000\nhello <i>there</i>\n\n2\n00:00:03,000 --> 00:00:04,000\nsecond\nline\n"
    notes: list[str] = []
    found = read_embedded(write_with_subtitles(tmp_path / "a.mkv", text, clip_file), notes)
    assert found == read_subtitles(tmp_path / "a.srt", [])
    assert found == (Cue(1.0, 2.0, "hello there"), Cue(3.0, 4.0, "second line"))
    assert notes == []
    with pytest.raises(InputError, match=r"^--subtitles auto: .*seconds\.mp4 holds no subtitles of text; give a "):
        read_embedded(clip_file, notes)
