"""Training clips: read as the evaluation reads them, given back by the cache."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from stts_cli.data.conversations import Conversation
from stts_cli.data.items import Cue
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.media.reader import read_source
from stts_cli.media.source import ReadRequest, Source
from stts_cli.media.video import read_clip
from stts_cli.toy.clips import write_clip
from stts_cli.toy.world import make_scene
from stts_cli.toy.world_clips import sample_clip
from stts_cli.training import clips as clips_module
from stts_cli.training.clips import TrainingClip, UnreadableVideo, VideoClips, collate
from stts_cli.training.samples import VideoSample

SIZE = (48, 48)
ASKED = (Conversation((("Q?", "A"),)),)


@pytest.fixture(scope="module")
def shape_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return [write_clip(make_scene("train", k), folder / f"{k}.mp4") for k in range(4)]


def samples_of(paths, start=None, end=None):
    return [VideoSample(str(path), start, end, ASKED) for path in paths]


def video_clips(samples, **settings):
    return VideoClips(samples, **{"num_frames": 6, "max_fps": 2.0, "frame_size": SIZE, **settings})


def same(one: TrainingClip, other: TrainingClip) -> bool:
    return (
        torch.equal(one.frames, other.frames)
        and (one.timestamps_s, one.duration_s, one.conversations, one.name)
        == (other.timestamps_s, other.duration_s, other.conversations, other.name)
    )  # fmt: skip


# files


def test_frames_are_those_that_a_question_looks_at(shape_files):
    (clip,) = video_clips(samples_of(shape_files))[1]
    wanted = read_clip(shape_files[1], num_frames=6, max_fps=2.0, size=SIZE)
    assert clip.frames.dtype == torch.uint8
    assert clip.frames.shape == (6, *SIZE, 3)
    assert np.array_equal(clip.frames.numpy(), wanted.frames)
    assert clip.timestamps_s == tuple(wanted.timestamps_s)
    assert (
        clip.duration_s
        == wanted.duration_s
        == pytest.approx(sample_clip(make_scene("train", 1), 6).drawn(48).duration_s, abs=1e-4)
    )
    assert (clip.name, clip.conversations) == (str(shape_files[1]), ASKED)


def test_a_cut_is_timed_as_the_evaluation_times_it(shape_files):
    (clip,) = video_clips(samples_of(shape_files[:1], 1.0, 3.0))[0]
    wanted = read_source(ReadRequest(Source(shape_files[0], 1.0, 3.0), 6, 2.0, SIZE))
    assert clip.timestamps_s == tuple(wanted.timestamps_s)
    assert (clip.timestamps_s[0], clip.duration_s) == (0.0, 2.0)
    assert np.array_equal(clip.frames.numpy(), wanted.frames)


def test_cues_around_the_frames_read_are_subtitles(shape_files):
    cues = (Cue(0.0, 0.5, "first"), Cue(900.0, 901.0, "never"))
    asked = dataclasses.replace(ASKED[0], cues=cues)
    (clip,) = video_clips([VideoSample(str(shape_files[0]), None, None, (asked,))])[0]
    assert clip.conversations[0].subtitles == "subtitle\n0.0 - 0.5 first\n"
    assert clip.conversations[0].turns == asked.turns


@pytest.fixture
def decoded(monkeypatch):
    """Return the list of files that were really decoded."""
    names = []

    def read(request):
        names.append(request.source.path.name)
        return read_source(request)

    monkeypatch.setattr(clips_module, "read_source", read)
    return names


def test_the_cache_gives_identical_frames_without_decoding(shape_files, tmp_path, decoded):
    samples = samples_of(shape_files[:2])
    plain = [video_clips(samples)[k][0] for k in range(2)]
    decoded.clear()
    for _ in range(2):  # in a second run it is there from the start
        dataset = video_clips(samples, cache_dir=tmp_path / "cache")
        for _ in range(2):
            assert all(same(dataset[k][0], plain[k]) for k in range(2))
    assert decoded == ["0.mp4", "1.mp4"]
    assert not list(tmp_path.rglob("*.part"))


def test_questions_are_not_a_part_of_what_is_kept(shape_files, tmp_path, decoded):
    dataset = video_clips(samples_of(shape_files[:1]), cache_dir=tmp_path)
    dataset[0]
    dataset.samples[0] = dataclasses.replace(dataset.samples[0], conversations=ASKED * 2)
    assert len(dataset[0][0].conversations) == 2
    assert len(decoded) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": 5},
        {"max_fps": 1.0},
        {"frame_size": (32, 32)},
        {"resample": "decoder"},
        {"start": 0.5},
        {"end": 2.0},
        {"touch": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_budget_cut_or_file_is_decoded_anew(shape_files, tmp_path, decoded, change):
    path = tmp_path / "a.mp4"
    path.write_bytes(shape_files[0].read_bytes())
    cache = tmp_path / "cache"
    video_clips(samples_of([path]), cache_dir=cache)[0]
    cut = {key: change[key] for key in ("start", "end") if key in change}
    if "touch" in change:
        os.utime(path, ns=(1, 1))
    budget = {key: value for key, value in change.items() if key not in ("start", "end", "touch")}
    found = video_clips(samples_of([path], **cut), cache_dir=cache, **budget)[0][0]
    assert len(decoded) == 2
    assert same(found, video_clips(samples_of([path], **cut), **budget)[0][0])


@pytest.mark.parametrize("damage", ["short", "empty", "flipped", "text", "pickle"])
def test_a_damaged_entry_is_decoded_again_and_mended(shape_files, tmp_path, decoded, damage):
    dataset = video_clips(samples_of(shape_files[:1]), cache_dir=tmp_path)
    (good,) = dataset[0]
    (entry,) = tmp_path.rglob("*.npz")
    data = bytearray(entry.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    if damage == "pickle":
        np.savez(entry, frames=np.array([{}], dtype=object), timestamps_s=np.zeros(1))
        data = bytearray(entry.read_bytes())
    entry.write_bytes({"short": data[:-1000], "empty": b"", "text": b"hello"}.get(damage, bytes(data)))
    assert same(dataset[0][0], good)
    assert len(decoded) == 2
    assert same(dataset[0][0], good)
    assert len(decoded) == 2


def test_an_entry_of_another_shape_is_decoded_again(shape_files, tmp_path, decoded):
    dataset = video_clips(samples_of(shape_files[:1]), cache_dir=tmp_path)
    (good,) = dataset[0]
    (entry,) = tmp_path.rglob("*.npz")
    np.savez(entry, frames=good.frames.numpy()[:, :8], timestamps_s=np.array(good.timestamps_s), duration_s=1.0)
    assert same(dataset[0][0], good)
    assert len(decoded) == 2


def test_a_write_that_breaks_off_leaves_nothing_and_says_so(shape_files, tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clips_module.np, "savez", full)
    batches = iter(DataLoader(video_clips(samples_of(shape_files[:1]), cache_dir=tmp_path), num_workers=1))
    with pytest.raises(EnvironmentFailure) as caught:
        next(batches)
    batches._shutdown_workers()
    assert str(caught.value) == (
        f"--cache {tmp_path}: frames cannot be kept there (No space left on device); free some space, choose another "
        "folder, or train without a cache."
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_fails_in_training_is_named_in_one_line(shape_files, tmp_path, cached, workers):
    broken = tmp_path / "gone.mp4"
    samples = samples_of([shape_files[0], broken])
    dataset = video_clips(samples, cache_dir=tmp_path / "cache" if cached else None)
    batches = iter(DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=collate))
    with pytest.raises(UnreadableVideo) as caught:
        list(batches)
    if workers:
        batches._shutdown_workers()  # the error holds on to it; left to the garbage collector, this takes ten seconds
    assert isinstance(caught.value, InputError)
    assert str(caught.value).startswith(f"{broken}: ")
    assert "\n" not in str(caught.value)


def test_an_error_of_the_decoder_itself_is_one_line(shape_files, monkeypatch):
    def fail(request):
        raise RuntimeError("decoder broke\nat line 3")

    monkeypatch.setattr(clips_module, "read_source", fail)
    with pytest.raises(UnreadableVideo) as caught:
        video_clips(samples_of(shape_files[:1]))[0]
    assert str(caught.value) == f"{shape_files[0]}: cannot be read (decoder broke); check the file."


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_what_one_process_gives(shape_files, tmp_path, workers):
    """Also after this process has decoded by itself, as it does for held-out videos."""
    samples = samples_of(shape_files)
    alone = [video_clips(samples)[k][0] for k in range(4)]
    dataset = video_clips(samples, cache_dir=tmp_path)
    for _ in range(2):
        batches = list(DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=collate))
        assert [len(batch["clips"]) for batch in batches] == [2, 2]
        assert all(same(a, b) for a, b in zip([c for b in batches for c in b["clips"]], alone, strict=True))
    assert len(list(tmp_path.rglob("*.npz"))) == 4
