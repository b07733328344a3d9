"""Pictures as the frames of a video."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from stts_cli.errors import InputError
from stts_cli.media import container, pictures
from stts_cli.media.inputs import split_words
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest, Source
from stts_cli.settings import Layout
from tests.conftest import frame_value


def request(path, **source):
    return ReadRequest(Source(path, **source), 4, 2.0, None)


def write(path, value, size=(48, 64), **options):
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path, **options)
    return path


def half(height, width, num_frames):
    return Layout(frame_size=(height // 2, width // 2), grid=(2, 2), window=(1, 1))


@pytest.fixture
def folder(tmp_path):
    """Twelve frames whose names sort as people count, and what is none."""
    found = tmp_path / "castle"
    found.mkdir()
    for index in range(12):
        write(found / f"shot-{index + 1}.{'png' if index % 2 else 'JPG'}", frame_value(index))
    (found / "notes.txt").write_text("x")
    (found / "._shot-1.jpg").write_bytes(b"\0")
    return found


def test_a_folder_is_read_in_the_order_people_count_in(folder):
    clip = read_source(request(folder, fps=3.0))
    assert clip.timestamps_s == [0.0, 1.3333, 2.3333, 3.6667]
    np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), [frame_value(i) for i in (0, 4, 7, 11)], atol=1)
    assert (clip.duration_s, clip.source_fps, clip.num_source_frames) == (4.0, 3.0, 12)
    assert clip.notes == ("1 other files of the folder are not looked at, such as notes.txt",)
    part = read_source(request(folder, fps=3.0, start_s=1.0, end_s=3.0))
    assert part.timestamps_s == [0.0, 0.6667, 1.3333, 2.0], "counted from the start of the part"
    by_rule = read_source(dataclasses.replace(request(folder, fps=3.0), size=half))
    assert by_rule.frames.shape == (4, 24, 32, 3)


def test_times_that_are_assumed_are_noted(folder):
    clip = read_source(request(folder))
    assert clip.timestamps_s == [0.0, 4.0, 7.0, 11.0]
    assert clip.notes[1:] == ("pictures have no times; 1 a second is assumed, say how many with --fps",)


def test_a_list_keeps_its_order_and_the_first_size(tmp_path):
    files = (write(tmp_path / "b.png", 200), write(tmp_path / "a.png", 100, size=(30, 30)))
    clip = read_source(request(tmp_path / "b.png", pictures=files, fps=2.0))
    assert clip.frames.shape == (2, 48, 64, 3)
    assert clip.frames[:, 5, 5, 0].tolist() == [200, 100]
    assert clip.notes == ("the pictures are of 2 sizes; all were made as large as the first",)


def test_one_picture_is_one_frame(tmp_path):
    clip = read_source(request(write(tmp_path / "a.webp", 120)))
    assert (clip.timestamps_s, clip.num_source_frames, clip.notes) == ([0.0], 1, ())
    assert abs(int(clip.frames[0, 5, 5, 0]) - 120) <= 2


def test_an_animation_has_times_of_its_own(tmp_path):
    pictures = [Image.new("RGB", (64, 48), (frame_value(5 * i),) * 3) for i in range(10)]
    durations = [100] * 5 + [300] * 5
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=durations, lossless=True)
    clip = read_source(request(tmp_path / "a.webp"))
    assert clip.timestamps_s == [0.0, 0.5, 1.1, 1.7]
    assert clip.duration_s == 2.0
    np.testing.assert_allclose(clip.frames[:, 9, 9, 0], [frame_value(5 * i) for i in (0, 5, 7, 9)], atol=1)


def test_pictures_are_upright_and_opaque(tmp_path):
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[:, :32] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    frame = read_source(request(tmp_path / "a.png")).frames[0]
    assert frame[0, 0].tolist() == [255, 0, 0]
    assert frame[0, 63].tolist() == [255, 255, 255], "what is transparent is white"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels[:, :, :3]).save(tmp_path / "b.jpg", exif=exif, quality=95)
    assert read_source(request(tmp_path / "b.jpg")).frames[0].shape == (64, 48, 3)
    deep = np.full((8, 8), 40_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_source(request(tmp_path / "deep.png")).frames[0, 0, 0].tolist() == [156] * 3


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P", "I;16", "turned"])
def test_a_large_picture_is_halved_strip_by_strip(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_STRIP", 8)
    chance, exif = np.random.default_rng(0), Image.Exif()
    if kind == "I;16":
        picture = Image.fromarray(chance.integers(0, 65536, (37, 53), np.uint16))
    elif kind == "P":
        picture = Image.fromarray(chance.integers(0, 256, (37, 53, 3), np.uint8)).quantize(16)
    else:
        picture = Image.fromarray(chance.integers(0, 256, (37, 53, 4 if kind == "RGBA" else 3), np.uint8))
    if kind == "turned":
        exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    whole = read_source(request(tmp_path / "a.png"))
    monkeypatch.setattr(pictures, "MOST_PIXELS", 37 * 53 - 1)
    half = read_source(request(tmp_path / "a.png"))
    assert half.frames.shape == ((1, 27, 19, 3) if kind == "turned" else (1, 19, 27, 3))
    inside = whole.frames[0][:36, :52] if kind != "turned" else whole.frames[0][:52, -36:]
    wanted = inside.reshape(len(inside) // 2, 2, -1, 2, 3).mean((1, 3))
    found = half.frames[0][:18, :26] if kind != "turned" else half.frames[0][:26, -18:]
    np.testing.assert_allclose(found, wanted, atol=0.51)
    assert whole.notes == ()
    assert half.notes == ("the picture has more than 0 million pixels; read at half the width and height",)


def test_a_large_jpeg_is_halved_while_it_is_decoded(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = 200
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 1000)
    monkeypatch.setattr(pictures, "_opaque", lambda picture: seen.append(picture.size) or picture)
    seen = []
    clip = read_source(request(tmp_path / "a.jpg", pictures=(tmp_path / "a.jpg", tmp_path / "a.jpg"), fps=2.0))
    assert seen == [(24, 32)] * 2
    assert clip.frames[0, :, 5, 0].tolist() == [200] * 16 + [0] * 16
    assert clip.notes == ("2 pictures have more than 0 million pixels; read at half the width and height",)


def test_a_picture_beyond_the_most_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_OF_JPEG", 5_000_000)
    monkeypatch.setattr(pictures, "MOST_OF_OTHERS", 4_000_000)
    large = Image.new("L", (3000, 1500))
    large.save(tmp_path / "a.jpg")
    large.save(tmp_path / "a.png")
    assert read_source(request(tmp_path / "a.jpg")).frames.shape == (1, 1500, 3000, 3)
    with pytest.raises(
        InputError, match=r"a\.png: has frames of 3000 x 1500 pixels; must be at most 4 million each\.$"
    ):
        read_source(request(tmp_path / "a.png"))


def test_the_second_picture_of_a_photograph_is_no_frame(tmp_path):
    """Cameras put a preview, or the view of a second lens, behind the photograph."""
    first, second = (Image.new("RGB", (64, 48), (value,) * 3) for value in (200, 100))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    clip = read_source(request(tmp_path / "a.jpg"))
    assert (clip.num_source_frames, clip.frames[:, 5, 5, 0].tolist()) == (1, [200])


def test_what_is_no_picture_is_one_line(folder, tmp_path):
    (folder / "shot-5.JPG").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"shot-5\.JPG: cannot be read as a picture; it is damaged or none\.$"):
        read_source(request(folder, fps=3.0))
    whole = (folder / "shot-3.JPG").read_bytes()
    (folder / "shot-5.JPG").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"shot-5\.JPG: cannot be read as a picture \(.*\); it is damaged\.$"):
        read_source(request(folder, fps=3.0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no pictures; must hold frames"):
        read_source(request(tmp_path / "empty"))


def test_of_a_cut_animation_what_is_there_is_read_and_the_rest_is_noted(tmp_path):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), np.uint8)
    frames = [Image.fromarray(pixels) for pixels in noise]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=500)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = read_source(request(path))
    assert clip.damage == ("the file is damaged: 3 of its 8 frames can be read",)
    assert clip.timestamps_s == [0.0, 0.5, 1.0]
    np.testing.assert_array_equal(clip.frames, noise[:3])


def test_each_frame_of_an_animation_is_held_to_the_most_pixels(tmp_path, monkeypatch):
    """A GIF, by another name: Pillow makes its screen as large as its largest frame."""
    seen = []
    monkeypatch.setattr(pictures, "check_size", lambda path, *size: seen.append(size))
    path = tmp_path / "a.webp"
    frames = [Image.fromarray(np.full((48, 64, 3), value, np.uint8)) for value in (9, 99, 199)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:], duration=500)
    data = bytearray(path.read_bytes())
    place = data.rfind(b"\x2c\0\0\0\0") + 5
    data[place : place + 4] = (90).to_bytes(2, "little") * 2
    path.write_bytes(data)
    clip = read_source(request(path))
    assert clip.damage == ("the file is damaged: 2 of its 3 frames can be read",)
    assert clip.frames.shape == (2, 48, 64, 3)
    assert (90, 90) in seen


def test_an_animation_of_too_many_pixels_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "check_size", lambda path, *size: container.check_size(path, *size[:2], 3000))
    monkeypatch.setattr(pictures, "_open", Image.open)
    frames = [Image.fromarray(np.full((48, 64, 3), value, np.uint8)) for value in (9, 99)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=500)
    with pytest.raises(InputError, match=r"a\.webp: has frames of 64 x 48 pixels; must be at most 0 million each\.$"):
        read_source(request(tmp_path / "a.webp"))


def test_pillow_says_nothing_of_its_own(tmp_path, capfd, recwarn):
    path = write(tmp_path / "a.tif", 7)
    data = path.read_bytes()
    place = data.find((277).to_bytes(2, "little")) + 5  # how many numbers say how many channels there are
    path.write_bytes(data[:place] + b"\4" + data[place + 1 :])
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_source(request(path))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_folder_that_may_not_be_opened_is_refused(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    for read in (lambda: read_source(request(folder)), lambda: split_words([str(folder)])):
        with pytest.raises(InputError, match=r"castle: cannot be opened \(Permission denied\); must be a folder to"):
            read()
