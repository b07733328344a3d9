"""Which tensors a checkpoint's safetensors hold, read from their headers, and that nothing else can be opened.

A sharded checkpoint's index names its files; transformers opens what it names, pickled files and files elsewhere on the
machine too. So it is checked here first, before any library sees the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stts_cli.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
SUFFIX = ".safetensors"


def is_own_file(name: object) -> bool:
    """Return whether a name out of a checkpoint's JSON is a safetensors file of the checkpoint's own folder."""
    if not isinstance(name, str) or not name.endswith(SUFFIX) or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def read_index(path: Path) -> dict[str, str]:
    """Return the file of each tensor that the index of a sharded checkpoint names.

    Raises:
        InputError: no such JSON, or an entry that names another kind of file, or one outside the folder.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = list(document["weight_map"].items())
        document["metadata"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: must be a JSON object with metadata and a weight_map of tensor names to files."
        ) from error
    for tensor, name in entries:
        if not is_own_file(name):
            raise InputError(
                f"{path}: weight_map['{tensor}'] is {name!r}; must be a {SUFFIX} file of the checkpoint's own folder."
            )
    return dict(entries)


def read_names(path: Path) -> list[str]:
    """Return the names of a safetensors file's tensors, from its header; a broken file is an InputError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is broken ({error}). Restore the file.") from error


def read_tensors(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read single tensors, given the file that holds each, onto the CPU."""
    from safetensors import safe_open

    tensors: dict[str, Tensor] = {}
    for path in sorted(set(files.values())):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name, where in files.items() if where == path}
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that transformers and peft read."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})


def local_names(folder: Path, ignored: Iterable[str] = ()) -> dict[str, str]:
    """Return the file of each tensor of a model's folder, as the index says, and as the files say that are there.

    Raises:
        InputError: a file is broken, or the index names what must not be opened.
    """
    index = folder / INDEX_FILE
    names = read_index(index) if index.is_file() else {}
    files = {*names.values(), *(path.name for path in folder.glob(f"*{SUFFIX}"))} - set(ignored)
    for file in sorted(files):
        if (folder / file).is_file():
            names |= dict.fromkeys(read_names(folder / file), file)
    return names


def check_files(folder: Path) -> None:
    """Refuse the folder of a whole model that has no weights, or not all that its index names."""
    if (folder / WEIGHTS_FILE).is_file():
        return
    index = folder / INDEX_FILE
    if not index.is_file():
        raise InputError(f"model '{folder}': holds no {SUFFIX} weights; only that format is loaded.")
    for file in sorted(set(read_index(index).values())):
        if not (folder / file).is_file():
            raise InputError(f"{index}: names {file}, which is not in the folder. Restore it.")


def hub_names(model: str, revision: str | None, index: Path | None) -> dict[str, str]:
    """Return the file of each tensor of a hub repository, without fetching any, from its index where it has one.

    It is empty where the hub cannot be asked and the cache has no such file.

    Raises:
        InputError: the index names what must not be opened.
    """
    if index is not None:
        return read_index(index)
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(model, WEIGHTS_FILE, revision=revision)
    if isinstance(cached, str):
        return dict.fromkeys(read_names(Path(cached)), WEIGHTS_FILE)
    try:
        header = HfApi().parse_safetensors_file_metadata(model, WEIGHTS_FILE, revision=revision)
    except Exception:  # no network, no such file: whatever its HTTP library raises; loading then names what it finds
        return {}
    return dict.fromkeys(header.tensors, WEIGHTS_FILE)


def check_loaded(model: str, info: Mapping[str, Any], stock: Any, vit: str, elsewhere: Sequence[str] = ()) -> list[str]:
    """Check that a model took all that its files hold, and that they hold all of it; note what was passed over.

    Args:
        model: its name, for the complaint.
        info: from_pretrained's loading info, with `ignore_mismatched_sizes`.
        stock: what was loaded.
        vit: what the names of the ViT's weights hold; checkpoints may hold deeper blocks than were built, unread.
        elsewhere: ends of the names of tensors that are loaded in another way.

    Raises:
        InputError: weights are missing, of another shape, or not known; some are named.
    """
    if info["missing_keys"]:
        missing = info["missing_keys"]
        raise InputError(f"model '{model}': lacks {len(missing)} weights, such as {_few(missing)}.")
    if info["mismatched_keys"]:
        wrong = [f"{name} is {_shape(theirs)}, not {_shape(ours)}" for name, theirs, ours in info["mismatched_keys"]]
        raise InputError(f"model '{model}': {len(wrong)} weights do not fit its config, such as {_few(wrong)}.")
    block_of = re.compile(rf"{re.escape(vit)}\D*\.(\d+)\.")
    num_blocks = 1 + max(int(found[1]) for found in map(block_of.search, stock.state_dict()) if found)
    unknown: list[str] = []
    idle: list[str] = []
    for name in info["unexpected_keys"]:
        block = block_of.search(name)
        if block and int(block[1]) >= num_blocks:
            idle.append(name)
        elif not any(name.endswith(end) for end in elsewhere):
            unknown.append(name)
    if unknown:
        count = f"{len(unknown)} tensors that it has no place for"
        raise InputError(f"model '{model}': holds {count}, such as {_few(unknown)}.")
    return [f"{len(idle)} tensors of ViT blocks from {num_blocks} on are not read by this model"] if idle else []


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
