"""What a command's words name: videos, or questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from stts_cli.errors import InputError
from stts_cli.media.inputs import split_words


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with files of several kinds, the current one."""
    for name in (
        "a.mp4", "b.mp4", "odd name?.mkv", "one.jpg", "two.png", "films/10.mkv", "films/9.mp4", "films/notes.txt",
        "frames/2.jpg", "frames/10.jpg", "both/a.mp4", "both/a.jpg", "text/a.txt", "What?",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)


def parts(*words):
    videos, questions = split_words(words)
    return [video.name for video in videos], questions


@pytest.mark.parametrize(
    ("words", "videos", "questions"),
    [
        (["a.mp4", "Why?"], ["a.mp4"], ["Why?"]),
        (["a.mp4", "b.mp4", "Why?", "How?"], ["a.mp4", "b.mp4"], ["Why?", "How?"]),
        (["a.mp4", "Why?", "b.mp4"], ["a.mp4", "b.mp4"], ["Why?"]),
        (["?.mp4", "Why?"], ["a.mp4", "b.mp4"], ["Why?"]),
        (["a.mp4", "Is it a [b] or a *?"], ["a.mp4"], ["Is it a [b] or a *?"]),
        (["odd name?.mkv", "Why?"], ["odd name?.mkv"], ["Why?"]),
        (["films", "Why?"], ["films/9.mp4", "films/10.mkv"], ["Why?"]),
        (["frames", "Why?"], ["frames"], ["Why?"]),
        (["one.jpg", "two.png", "Why?"], ["one.jpg and 1 more picture"], ["Why?"]),
        (["one.jpg", "a.mp4", "two.png", "Why?"], ["one.jpg", "a.mp4", "two.png"], ["Why?"]),
        (["frames/*", "Why?"], ["frames/2.jpg and 1 more picture"], ["Why?"]),
        (["./a.mp4", "Why is it in a.mp4?", "nor there.mp4"], ["a.mp4"], ["Why is it in a.mp4?", "nor there.mp4"]),
        (["https://a.b/c.mp4", "Why?"], ["https://a.b/c.mp4"], ["Why?"]),
        (["-", "Why?"], ["standard input"], ["Why?"]),
        (["a.mp4", "x" * 5000, "\0"], ["a.mp4"], ["x" * 5000, "\0"]),
        (["a.mp4", ""], ["a.mp4"], [""]),
    ],
)
def test_what_exists_is_a_video_and_the_rest_are_questions(here, words, videos, questions):
    assert parts(*words) == (videos, questions)


def test_a_question_that_names_a_file_is_a_video(here):
    assert parts("a.mp4", "What?") == (["a.mp4", "What?"], [])


def test_pictures_and_addresses_keep_what_is_read(here):
    (pictures,), _ = split_words(["two.png", "one.jpg"])
    assert pictures.source.pictures == (Path("two.png"), Path("one.jpg"))
    (address,), _ = split_words(["http://a.b/c"])
    assert (address.address, str(address.source.path)) == ("http://a.b/c", "-")


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (
            "both",
            r"^both: holds videos \(1\) and pictures \(1\); must be one kind; name the files, .* 'both/\*\.mp4'\.$",
        ),
        ("text", r"^text: holds neither pictures nor videos; must hold frames or video files\.$"),
    ],
)
def test_a_folder_of_two_kinds_or_none_is_refused(here, folder, words):
    with pytest.raises(InputError, match=words):
        split_words([folder, "Why?"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4", "Why?"], "nowhere.mp4: does not exist; must be a video file."),
        (["Why?", "a.mp4"], "Why?: does not exist; must be a video file."),
        (["a.mp4", "nope.mp4", "Why?"], "nope.mp4: does not exist; must be a video file."),
        (["a.mp4", "films/*.webm", "Why?"], "films/*.webm: does not exist; must be a video file."),
        (["", "Why?"], "the video's name is empty; give a video file."),
        (["rtsp://x/y", "Why?"], "rtsp://x/y: is no file; must be a file or an http(s) address."),
        (["-", "-", "Why?"], "-: is named twice; standard input holds one video."),
    ],
)
def test_a_word_that_should_be_a_video_and_is_none_is_refused(here, words, message):
    with pytest.raises(InputError) as caught:
        split_words(words)
    assert str(caught.value) == message


def test_what_a_folder_or_a_pattern_named_is_known(here):
    assert [video.is_expanded for video in split_words(["./a.mp4", "b.mp4", "films", "?.mp4", "Why?"])[0]] == [
        False, False, True, True, True, True
    ]  # fmt: skip
