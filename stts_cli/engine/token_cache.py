"""Kept tokens on disk: a video that a model has looked at before is neither read nor encoded again.

An entry is one .safetensors file. Its name is a hash over everything that its tokens depend on: the content of the
video, which of its frames, how they are resized and pruned, the weights, the device and the versions. Entries are
written beside their place and moved there, and read whole, so that two processes may use one folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stts_cli import __version__
from stts_cli.engine.device import PeakMemory
from stts_cli.engine.results import Video
from stts_cli.errors import InputError, writing
from stts_cli.media.clip import Clip
from stts_cli.media.pictures import is_picture, list_folder
from stts_cli.media.source import Source
from stts_cli.pruning.stopwatch import clock
from stts_cli.settings import Layout
from stts_cli.text import to_json
from stts_cli.versions import installed

if TYPE_CHECKING:
    from stts_cli.engine.model import VideoModel
    from stts_cli.families.base import Family

FORMAT = 1  # to be raised when the same key would stand for other tokens
SAMPLED = 4096  # numbers of each weight that enter the hash
STAGES = ("preprocess", "vit_dense", "score_select_pack", "vit_packed", "connector")
_PACKAGES = ("torch", "transformers", "numpy", "av", "decord2", "pillow", "flash-attn")
_LEFT_OVER_S = 3600.0  # a file half written for so long belongs to a process that was stopped


class TokenCache:
    """A folder of encoded videos.

    Args:
        folder: made if needed.
        most_bytes: of all entries together; those used longest ago go first.
        with_frames: the frames themselves are wanted too, so that a video is read all the same.
        note: called with each line that a user should know.

    Raises:
        EnvironmentFailure: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, most_bytes: int, *, with_frames: bool = False, note: Callable[[str], None]
    ) -> None:
        self.folder, self.most_bytes, self.with_frames, self.note = folder, most_bytes, with_frames, note
        self._weights: dict[int, str] = {}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()

    def key(self, model: VideoModel, source: Source) -> str | None:
        """Return the name of a video's entry; None of one that none is kept of, which a note says.

        Raises:
            InputError: the video cannot be opened.
        """
        if ":" in model.pruning.scorer:
            self.note(f"--cache: nothing is kept of --scorer {model.pruning.scorer}, whose code may change.")
            return None
        family, request = model.family, model.request(source)
        if id(family) not in self._weights:
            self._weights[id(family)] = weights_hash(family)
        part = [getattr(source, name) for name in ("start_s", "end_s", "end_frame", "fps", "at_s")]
        frames = [request.num_frames, request.max_fps, repr(request.size), request.resample]
        how = [repr(model.pruning), repr(family.frames), family.model.config._attn_implementation, str(model.device)]
        made_with = {"stts": __version__, **installed(*_PACKAGES)}
        parts = [
            FORMAT,
            _contents(source),
            part,
            frames,
            how,
            type(family).__name__,
            self._weights[id(family)],
            made_with,
        ]
        return hashlib.sha256(to_json(parts).encode()).hexdigest()

    def load(self, key: str, model: VideoModel) -> Video | None:
        """Return an encoded video without its frames, or None where there is no sound entry."""
        path, memory, started = self._path(key), PeakMemory(model.device), clock(model.device)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.note(f"{path}: cannot be read ({error.strerror}); the video is encoded anew.")
            return None
        try:
            clip, tokens = _unpack(content, model.device)
        except Exception as error:  # whatever stands in a damaged file
            self.note(f"{path}: is damaged ({type(error).__name__}); the video is encoded anew.")
            return None
        with suppress(OSError):
            os.utime(path)
        seconds = dict.fromkeys(STAGES, 0.0)
        video = model.seen(clip, tokens, seconds, clock(model.device) - started, memory)
        video.notes.append(f"its tokens come from {self.folder}: times leave out reading and encoding")
        return video

    def save(self, key: str, video: Video) -> None:
        """Keep an encoded video, and let go what was used longest ago."""
        content = _pack(video)
        if len(content) > self.most_bytes:
            self.note(f"--cache-size: is too little for this video's {len(content):,} bytes; it is not kept.")
            return
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", suffix=".part", delete=False) as file:
                try:
                    file.write(content)
                    file.close()
                    os.replace(file.name, self._path(key))
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            self._shrink(key)
        except OSError as error:
            self.note(f"--cache {self.folder}: takes no more ({error.strerror}); the video is not kept.")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _shrink(self, key: str) -> None:
        """Remove what was used longest ago until the rest fits, but not the entry just written."""
        entries, newest = [], 0.0
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process may remove it
                found = path.stat()
                newest = max(newest, found.st_mtime)
                if path.suffix in (".safetensors", ".part"):
                    entries.append((found.st_mtime, found.st_size, path))
        for used, _, path in entries:
            if path.suffix == ".part" and used < newest - _LEFT_OVER_S:
                path.unlink(missing_ok=True)
        kept = sorted(entry for entry in entries if entry[2].suffix == ".safetensors")
        total = sum(size for _, size, _ in kept)
        for _, size, path in kept:
            if total <= self.most_bytes:
                return
            if path.stem != key:
                path.unlink(missing_ok=True)
                total -= size


def weights_hash(family: Family) -> str:
    """Return 16 hex digits of a hash over name, shape and evenly spread numbers of every weight, scorer included.

    Numbers of weights that are read when they are needed do not enter it.
    """
    digest = hashlib.sha256()
    modules = [family.model, *([family.scorer] if family.scorer is not None else [])]
    with torch.inference_mode():
        for module in modules:
            for name, weight in module.state_dict().items():
                numbers = weight.detach().reshape(-1)[:: max(1, weight.numel() // SAMPLED)]
                digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
                if not weight.is_meta:
                    digest.update(numbers.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _contents(source: Source) -> list[str]:
    """Return a hash of each file that the frames come from, in their order."""
    files: Iterable[Path] = source.pictures
    if not files:
        is_folder = source.path.is_dir()
        files = (
            [path for path in list_folder(source.path) if is_picture(path)]
            if is_folder
            else [source.path, *source.joined]
        )
    found = []
    for path in files:
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
        found.append(digest.hexdigest())
    return found


def _pack(video: Video) -> bytes:
    from safetensors.torch import save

    tokens, clip = video.tokens, video.clip
    tensors = {"visual_tokens": tokens.visual_tokens, "keep_mask": tokens.keep_mask}
    if tokens.scores is not None:
        tensors["scores"] = tokens.scores
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about: dict[str, Any] = {
        "clip": {f.name: getattr(clip, f.name) for f in dataclasses.fields(clip) if f.name != "frames"},
        "frame_size": list(clip.frames.shape[1:3]),
        "layout": dataclasses.asdict(tokens.layout),
        "tokens": {name: getattr(tokens, name) for name in ("scorer", "kernel", "kernel_reason", "packed_patches")},
        "digest": _digest(tensors),
    }
    return bytes(save(tensors, {"stts": to_json(about)}))


def _unpack(content: bytes, device: torch.device) -> tuple[Clip, Any]:
    """Return the clip, without frames, and the `EncodedVideo` of an entry; any error where it is damaged."""
    from safetensors.torch import load

    from stts_cli.families.base import EncodedVideo

    length = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["stts"])
    tensors = load(content)
    if _digest(tensors) != about["digest"]:
        raise ValueError("its tensors are not those that were written")
    given = {**about["clip"], **{name: tuple(about["clip"][name]) for name in ("notes", "damage")}}
    clip = Clip(np.empty((0, *about["frame_size"], 3), np.uint8), **given)
    layout: dict[str, Any] = about["layout"]
    layout |= {name: tuple(value) for name, value in layout.items() if isinstance(value, list)}
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    shared = {"layout": Layout(**layout), "seconds": {}, "scores": tensors.get("scores"), **about["tokens"]}
    return clip, EncodedVideo(tensors["visual_tokens"], tensors["keep_mask"], **shared)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
