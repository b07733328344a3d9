"""Read rows of a dataset of the Hugging Face hub, and fetch the videos that they name.

In: "hf:OWNER/NAME[:split]". Out: rows as dicts whose "video" is the path of a file in the hub's cache, or in ours where
the video was stored within its row.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stts_cli.data.files import cache_folder
from stts_cli.data.rows import NumberedRow, Row, first_line
from stts_cli.errors import EnvironmentFailure, InputError, install_hint

_DOWNLOADS_AT_ONCE = 8


def hub_rows(source: str, video_root: str | None) -> tuple[list[NumberedRow], Path]:
    """Read a dataset, and fetch its videos unless they are on this machine, or refuse one that is not there.

    OWNER/NAME of `source` may be a folder's path, and the split is "train" where none is given. `video_root` holds the
    videos; None to fetch them. Return the rows, and the folder that their relative paths start from.
    """
    name, _, split = source.removeprefix("hf:").partition(":")
    if not name:
        raise InputError(f"--data {source}: names no dataset; must be hf:OWNER/NAME or hf:OWNER/NAME:SPLIT.")
    rows = _load(name, split or "train")
    if video_root is not None or Path(name).is_dir():
        folder = Path(video_root if video_root is not None else name)
    else:
        folder = Path()
        wanted = [row["video"] for row in rows if isinstance(row.get("video"), str)]
        fetched = _fetch(name, list(dict.fromkeys(wanted)))
        rows = [{**row, "video": fetched.get(row["video"], row["video"])} if "video" in row else row for row in rows]
    return [NumberedRow(f"{source}, row {number}", number, row) for number, row in enumerate(rows, start=1)], folder


def _load(name: str, split: str) -> list[Row]:
    try:
        import datasets
    except ImportError as error:
        raise EnvironmentFailure(
            f"--data hf:{name}: needs the datasets package, which is not installed; {install_hint('train')}"
        ) from error
    try:
        table = datasets.load_dataset(name, split=split)
        for column, feature in (table.features or {}).items():
            if isinstance(feature, datasets.Video):  # the path or the bytes; frames are read later, and few of them
                table = table.cast_column(column, datasets.Video(decode=False))
        return [_with_file(row) for row in table]
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ValueError) as error:
        raise InputError(
            f"--data hf:{name}, split '{split}': cannot be loaded ({first_line(error)}); check the name and the split."
        ) from error
    except OSError as error:  # every failure of the network is one
        raise EnvironmentFailure(
            f"--data hf:{name}: cannot be fetched ({first_line(error)}); go online without HF_HUB_OFFLINE, or give a "
            ".jsonl."
        ) from error


def _with_file(row: Row) -> Row:
    """Replace a video that is stored in its row by the path of a file."""
    video = row.get("video")
    if not isinstance(video, dict) or not {"path", "bytes"} & set(video):
        return row
    if video.get("bytes") is None:
        return {**row, "video": video.get("path")}
    suffix = Path(video.get("path") or "video.mp4").suffix
    cache = cache_folder("videos")
    path = cache / (hashlib.sha256(video["bytes"]).hexdigest()[:32] + suffix)
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.{os.getpid()}{suffix}")
        part.write_bytes(video["bytes"])
        part.replace(path)
    return {**row, "video": str(path)}


def _fetch(repo: str, names: list[str]) -> dict[str, str]:
    """Download files of a dataset's repository, as far as they are not in the cache; return where each is."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def fetch(name: str) -> str:
        try:
            return hf_hub_download(repo, name, repo_type="dataset")
        except RemoteEntryNotFoundError as error:
            raise InputError(
                f"--data hf:{repo}: has no file {name}; unpack its archives, and name the folder with --video-root."
            ) from error
        except OSError as error:  # the network's failures, and the disk's
            raise EnvironmentFailure(
                f"--data hf:{repo}: {name} cannot be fetched ({first_line(error)}); go online without HF_HUB_OFFLINE, "
                "or name a folder that holds it with --video-root."
            ) from error

    names = [name for name in names if not Path(name).is_absolute()]
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        return dict(zip(names, pool.map(fetch, names), strict=True))
