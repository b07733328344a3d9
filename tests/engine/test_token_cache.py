"""Encoded videos on disk: the same answers without reading or encoding, and never those of something else."""

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from stts_cli.engine import ask as engine
from stts_cli.engine.token_cache import TokenCache
from stts_cli.errors import EnvironmentFailure
from stts_cli.media.inputs import Named
from stts_cli.media.source import Source
from stts_cli.settings import Arm
from tests.families.registry import EVERY, TINY

QUESTION = engine.Question("What color is it?")
PLENTY = 10**9


@pytest.fixture
def asking(tiny_checkpoint, clip_file, tmp_path):
    """Return what asks about the clip behind a cache, with the stages that it went through and the notes."""

    class Asking:
        folder = tmp_path / "cache"

        def __call__(self, *, source=None, most=PLENTY, with_frames=False, **given):
            self.stages, self.notes = [], []
            cache = TokenCache(self.folder, most, with_frames=with_frames, note=self.notes.append)
            arm = Arm("pruned", str(tiny_checkpoint), frames=4, keep_ratio=0.5).override(**given)
            source = source or Source(clip_file)
            asked = engine.Asked([QUESTION], 6, cache=cache)
            (run,) = engine.ask(
                [arm], [Named("clip", source)], asked, device="cpu", progress=self.stages.append, workers=0
            )
            return run

        @property
        def was_cached(self):
            return not any(stage.startswith("looking at the video") for stage in self.stages)

        @property
        def entries(self):
            return sorted(self.folder.glob("*.safetensors"))

    return Asking()


def same(one, other):
    """Return whether two runs say the same, but for their times and notes."""
    documents = []
    for run in (one, other):
        document = run.to_dict()
        for part in (document, *document["arms"], *document["arms"][0]["answers"]):
            for name in ("seconds", "notes", "ttft_s", "prefix_s", "peak_bytes"):
                part.pop(name, None)
        documents.append(document)
    return documents[0] == documents[1]


def test_what_is_kept_answers_as_what_was_encoded(asking):
    first = asking()
    assert not asking.was_cached
    again = asking()
    assert asking.was_cached
    assert same(first, again)
    tokens = [run.arms[0].video.tokens for run in (first, again)]
    for name in ("visual_tokens", "keep_mask", "scores"):
        assert torch.equal(*(getattr(each, name) for each in tokens))
    assert again.seconds["read"] == 0
    assert again.arms[0].video.encode_s > 0, "reading it from the disk takes time"
    assert again.notes[-1] == f"its tokens come from {asking.folder}: times leave out reading and encoding"
    assert asking(with_frames=True).arms[0].video.clip.frames.shape[0] == 4, "where they are drawn"
    assert asking.was_cached


@pytest.mark.parametrize(
    "given",
    [
        {"keep_ratio": 0.6}, {"frames": 3}, {"scorer": "temporal"}, {"prune_layer": 2}, {"max_fps": 0.5},
        {"resize": "decoder"}, {"dtype": "bfloat16"}, {"scorer": "none"},
    ],
)  # fmt: skip
def test_another_setting_is_another_entry(asking, given):
    asking()
    asking(**given)
    assert not asking.was_cached
    assert len(asking.entries) == 2
    asking()
    assert asking.was_cached


def test_another_part_of_a_video_is_another_entry(asking, clip_file):
    asking()
    for part in ({"start_s": 1.0}, {"end_s": 3.0}, {"at_s": (1.0, 2.0)}):
        asking(source=Source(clip_file, **part))
        assert not asking.was_cached, part


def test_content_counts_not_the_name(asking, clip_file, tmp_path):
    asking()
    copy = tmp_path / "copy.mp4"
    content = bytearray(clip_file.read_bytes())
    copy.write_bytes(content)
    asking(source=Source(copy))
    assert asking.was_cached
    content[-1] ^= 1
    copy.write_bytes(content)
    asking(source=Source(copy))
    assert not asking.was_cached


def test_the_pictures_of_a_folder_count(asking, tmp_path):
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(np.full((20, 20, 3), 60 * k, np.uint8)).save(folder / f"{k}.png")
    asking(source=Source(folder))
    asking(source=Source(folder))
    assert asking.was_cached
    Image.fromarray(np.full((20, 20, 3), 5, np.uint8)).save(folder / "1.png")
    asking(source=Source(folder))
    assert not asking.was_cached


def test_other_weights_are_another_entry(asking, tiny_checkpoint, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    asking()
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    (scorer,) = other.glob("scorer*.safetensors")
    weights = load_file(scorer)
    weights["mlp.fc3.bias"] += 0.5
    save_file(weights, scorer)
    asking(model=str(other))
    assert not asking.was_cached


@pytest.mark.parametrize("damage", ["cut", "flip", "header", "empty", "other"])
def test_a_damaged_entry_is_made_again(asking, damage):
    first = asking()
    (entry,) = asking.entries
    content = bytearray(entry.read_bytes())
    if damage == "flip":
        content[-5] ^= 4
    elif damage == "header":
        content[20] ^= 255
    entry.write_bytes({"cut": content[:-40], "empty": b"", "other": b"{}" * 50}.get(damage, bytes(content)))
    again = asking()
    assert not asking.was_cached
    assert same(first, again)
    assert len(asking.notes) == 1
    assert asking.notes[0].startswith(f"{entry}: is damaged (")
    asking()
    assert asking.was_cached
    assert not asking.notes


def test_what_was_used_longest_ago_goes(asking, clip_file):
    import os

    sources = [Source(clip_file, start_s=k / 2) for k in range(4)]
    for k, source in enumerate(sources[:3]):
        asking(source=source)
        newest = max(asking.entries, key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (k, k))
    asking(source=sources[0])  # was the oldest
    size = max(path.stat().st_size for path in asking.entries)
    asking(source=sources[3], most=3 * size)
    assert len(asking.entries) == 3
    asking(source=sources[0])
    assert asking.was_cached
    asking(source=sources[1])
    assert not asking.was_cached


def test_a_video_too_large_for_the_cache_is_not_kept(asking):
    run = asking(most=100)
    assert run.arms[0].answers
    assert not asking.entries
    assert len(asking.notes) == 1
    assert asking.notes[0].startswith("--cache-size: is too little for this video's ")


def test_nothing_is_kept_of_a_scorer_of_the_users_own(asking, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def score(x, table, lengths):\n    return x.float().mean((1, 2))[:, None] + table.new_zeros(1, len(table))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asking(scorer="mine:score")
    assert not asking.entries
    assert asking.notes == ["--cache: nothing is kept of --scorer mine:score, whose code may change."]


def test_a_folder_that_cannot_be_written_is_said(asking):
    asking.folder.write_text("a file")
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        asking()


def test_a_full_disk_costs_the_entry_not_the_answer(asking, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    run = asking()
    assert run.arms[0].answers
    assert asking.notes == [f"--cache {asking.folder}: takes no more (No space left on device); the video is not kept."]
    assert not list(asking.folder.iterdir()), "nothing is left half written"


def test_several_at_once_never_see_half_an_entry(asking):
    video = asking().arms[0].video
    model = asking().arms[0].model
    notes, found = [], []
    cache = TokenCache(asking.folder, PLENTY, note=notes.append)
    (key,) = (path.stem for path in asking.entries)

    def work():
        for _ in range(20):
            cache.save(key, video)
            found.append(cache.load(key, model))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not notes
    assert len(found) == 80
    assert all(torch.equal(each.tokens.visual_tokens, video.tokens.visual_tokens) for each in found)


@pytest.mark.parametrize("name", EVERY)
def test_every_familys_tokens_come_back(asking, name, tmp_path):
    folder = TINY[name].save(tmp_path, scorer=True)
    first, again = asking(model=str(folder)), asking(model=str(folder))
    assert asking.was_cached
    assert same(first, again)
    one, other = (dataclasses.asdict(run.arms[0].video.tokens.layout) for run in (first, again))
    assert one == other


def test_the_command(tiny_checkpoint, clip_file, tmp_path, capsys):
    from stts_cli import cli

    words = ["ask", str(clip_file), "What is it?", "--model", str(tiny_checkpoint), "--frames", "4", "--device", "cpu"]
    documents = []
    for more in ([], [], ["--save-kept", str(tmp_path / "kept.png")]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--json", "--cache", str(tmp_path / "kept"), "--cache-size", "0.5", *more])
        assert ended.value.code == 0
        documents.append(json.loads(capsys.readouterr().out))
    answers = [document["arms"][0]["answers"][0]["text"] for document in documents]
    assert answers[0] == answers[1] == answers[2]
    assert documents[1]["seconds"]["read"] == 0 < documents[2]["seconds"]["read"]
    assert Path(tmp_path / "kept.png").is_file()
    for more, words_of_it in (
        (["--cache-size", "1"], "--cache-size 1: says how large --cache may be; give --cache too."),
        (["--cache", "c", "--cache-size", "0"], "--cache-size 0: must be greater than 0, and finite."),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *more])
        assert ended.value.code == 2
        assert words_of_it in capsys.readouterr().err
