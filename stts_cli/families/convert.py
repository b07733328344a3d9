"""Turn a checkpoint of Molmo2's training code into a Hugging Face folder with its scorer.

    python -m stts_cli.families.convert SOURCE FOLDER [--base allenai/Molmo2-4B] [--dtype bfloat16]

SOURCE is a folder (or a hub id) with `config.yaml` and `model_and_optim/`, which torch.distributed.checkpoint wrote. A
base model of the same sizes supplies tokenizer, processor and config, which everything is compared with before a weight
is read. `model_and_optim/.metadata` is a pickle: only plain classes are made from it.

Names follow the authors' public code and converter. Tested on tiny checkpoints of that layout only. Not confirmed on a
real one: whether ViT blocks deeper than those that run are stored (they are written if so), and where the config holds
the scorer's settings (they are looked for at any depth).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata

from stts_cli.errors import InputError, SttsError, writing
from stts_cli.families.base import scorer_sizes
from stts_cli.families.checkpoints import EXAMPLE, TRAINING_CONFIG_FILE, TRAINING_WEIGHTS_FILE, base_chain, parse
from stts_cli.families.molmo2 import Molmo2Family
from stts_cli.families.released import FRAME_TOKENS, frame_tokens, is_pruned_config, released_settings
from stts_cli.families.settings import FORMAT, SETTINGS_FILE, build_scorer, write_json
from stts_cli.families.weights import INDEX_FILE, check_loaded, write_tensors
from stts_cli.pruning import is_scorer_weight

SCORER_FILE = "scorer.safetensors"
GROUP_BYTES = 1 << 30  # weights held at once, as they are stored; the peak is two to three times that
_DTYPES = ("bfloat16", "float16", "float32")
_EMBEDDING = "transformer.wte.embedding"
_COPIED = ("*.json", "*.jinja", "*.txt", "*.model")
_NOT_COPIED = {INDEX_FILE, SETTINGS_FILE, "adapter_config.json"}
_PLAIN = {
    ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"), ("pathlib._local", "PosixPath"),
}  # fmt: skip


def convert(
    source: str, target: str | Path, *, base: str = EXAMPLE, dtype: str | None = None, group_bytes: int = GROUP_BYTES
) -> list[str]:
    """Write a checkpoint of the training code, a folder or a hub id, as a Hugging Face folder.

    Args:
        source: with `config.yaml` and `model_and_optim`.
        target: must not be there, or be empty.
        base: a folder or a hub id of the same model without scorer.
        dtype: of the weights written; None as they are stored.
        group_bytes: about how much of the stored weights is held at once.

    Returns:
        Notes for the user.

    Raises:
        InputError: it is no such checkpoint, or not one of a model of the base's sizes.
    """
    from transformers import AutoConfig

    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: must be a folder that is not there yet, or empty.")
    folder = _fetch(source)
    config = _read_config(folder / TRAINING_CONFIG_FILE)
    reader = _Reader(folder / PurePath(TRAINING_WEIGHTS_FILE).parent)
    stored = reader.tensors()
    configs = {TRAINING_CONFIG_FILE: config}
    base_folder = _base_folder(base)
    base_config = AutoConfig.from_pretrained(base_folder, trust_remote_code=False)
    _check_config(config, base_config)
    names = _hub_names(stored, tied=bool(_at(config, "llm.weight_tying")))
    notes = _check_sizes(source, names, stored, base_config)
    scorer = {name: stored[name] for name in stored if is_scorer_weight(name)}
    document = None
    if scorer:
        settings, more = released_settings(configs)
        document = {"format": FORMAT, "family": base_config.model_type, **settings.to_dict()}
        notes += more
    elif is_pruned_config(configs):
        raise InputError(f"{folder / TRAINING_CONFIG_FILE}: prune_method is scorer; the weights hold no scorer.")
    special, more = frame_tokens({}, configs)
    notes += more
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        written = _write_weights(reader, names, stored, partial, dtype, group_bytes)
        _copy_base(base_folder, partial, written, special)
        if document is not None:
            _write_scorer(reader, scorer, base_config, partial, str(folder), dtype)
            document |= {"scorer_file": SCORER_FILE, "converted_from": Path(source).name}
            write_json(partial / SETTINGS_FILE, document)
        if target.exists():
            target.rmdir()
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return notes


def hub_name(name: str) -> str:
    """Return what a weight of the training code is called in a Hugging Face folder."""
    if name == "transformer.ff_out.weight":
        return "lm_head.weight"
    name = re.sub(r"^(transformer\.blocks\.\d+)\.(att_proj|attn_out|q_norm|k_norm)\.", r"\1.self_attn.\2.", name)
    return "model." + re.sub(r"^(transformer\.blocks\.\d+)\.(ff_proj|ff_out)\.", r"\1.mlp.\2.", name)


class _Unpickler(pickle.Unpickler):
    """Reads `.metadata`, and makes no object that could do anything."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that such a file may hold; the training code has its own `_StorageInfo`, equal to torch's."""
        if name in ("_StorageInfo", "_StoragePrefix"):
            return getattr(filesystem, name)
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_metadata = module == metadata.__name__ and isinstance(getattr(metadata, name, None), type)
        if is_dtype or is_metadata or (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which no such file needs")


class _Reader(filesystem.FileSystemReader):
    """Reads single tensors of a folder that torch.distributed.checkpoint wrote."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        """Read what is stored where, without running anything that the file brings."""
        path = Path(self.path) / ".metadata"
        try:
            with path.open("rb") as file:
                found = _Unpickler(file).load()
            places = found.storage_data.values()
            strangers = [
                place.relative_path for place in places if PurePath(place.relative_path).name != place.relative_path
            ]
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from error
        if strangers:
            raise InputError(f"{path}: names {strangers[0]!r}; must be a file of its own folder.")
        found.storage_meta = found.storage_meta or metadata.StorageMeta()
        return found

    def tensors(self) -> dict[str, metadata.TensorStorageMetadata]:
        """Return the model's tensors, at least one, by the training code's names without the leading "model."."""
        entries = self.read_metadata().state_dict_metadata
        model = {
            name.removeprefix("model."): entry
            for name, entry in entries.items()
            if name.startswith("model.") and isinstance(entry, metadata.TensorStorageMetadata)
        }
        if not model:
            raise InputError(f"{self.path}: holds no tensor whose name starts with model.")
        return model

    def read(self, stored: Mapping[str, metadata.TensorStorageMetadata]) -> dict[str, Tensor]:
        """Read tensors, put together from all files that hold a part of them."""
        import torch.distributed.checkpoint as dcp

        state = {f"model.{name}": torch.empty(tuple(e.size), dtype=e.properties.dtype) for name, e in stored.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is ")  # one process is meant
            try:
                dcp.load(state, storage_reader=self, no_dist=True)
            except (OSError, RuntimeError, KeyError, pickle.UnpicklingError, dcp.CheckpointException) as error:
                raise InputError(f"{self.path}: cannot be read ({' '.join(str(error).split())[:200]}).") from error
        return {name.removeprefix("model."): value for name, value in state.items()}


def _fetch(source: str) -> Path:
    """Return the folder of a checkpoint of the training code."""
    folder = Path(source).expanduser()
    if not folder.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        from huggingface_hub import snapshot_download

        parts = [TRAINING_CONFIG_FILE, f"{PurePath(TRAINING_WEIGHTS_FILE).parent}/*"]
        folder = Path(snapshot_download(source, allow_patterns=parts))
    if (folder / "model.pt").is_file():
        raise InputError(f"{source}: holds model.pt, a pickled file; the sharded form of the training code is read.")
    for part in (TRAINING_CONFIG_FILE, TRAINING_WEIGHTS_FILE):
        if not (folder / part).is_file():
            steps = sorted(each.name for each in folder.glob("step*") if each.is_dir())
            hint = f"; its checkpoints are {', '.join(steps)}: name one of them" if steps else ""
            raise InputError(f"{source}: holds no {part}, so it is no checkpoint of the training code{hint}.")
    return folder


def _read_config(path: Path) -> Mapping[str, Any]:
    """Return the model's part of the training code's config."""
    config = parse(path, yaml.safe_load)
    model = config.get("model", config) if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise InputError(f"{path}: must be a mapping of the training code's settings.")
    return model


def _base_folder(base: str) -> Path:
    """Return the folder with the base's config, tokenizer and processor."""
    root = base_chain(base)[-1]
    if root.is_local:
        return Path(root.model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(root.model, revision=root.revision, allow_patterns=list(_COPIED)))


def _at(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _check_config(config: Mapping[str, Any], base: Any) -> None:
    """Check what the weights' shapes do not show."""
    text, vision = base.text_config, base.vision_config
    ours = {
        "llm.n_heads": text.num_attention_heads,
        "llm.n_kv_heads": text.num_key_value_heads,
        "llm.rope_theta": (text.rope_parameters or {}).get("rope_theta"),
        "llm.norm_after": text.norm_after,
        "vision_backbone.vit.image_num_heads": vision.num_attention_heads,
        "vision_backbone.vit_layers": list(base.adapter_config.vision_feature_layer),
    }
    depth = _at(config, "vision_backbone.vit.image_num_layers")
    for name, value in ours.items():
        theirs = _at(config, name)
        if isinstance(theirs, list) and depth:
            theirs = [layer % depth for layer in theirs]
        if theirs is not None and theirs != value:
            raise InputError(f"{TRAINING_CONFIG_FILE}: {name} is {theirs}, {value} in the base. Name its own --base.")


def _hub_names(stored: Mapping[str, Any], *, tied: bool) -> dict[str, str]:
    """Return the training code's name of each tensor by its name in the Hugging Face folder, without the scorer."""
    names = {hub_name(name): name for name in stored if not is_scorer_weight(name)}
    return names | ({"lm_head.weight": _EMBEDDING} if tied else {})


def _on_meta(names: Mapping[str, str], stored: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: torch.empty(tuple(stored[old].size), dtype=stored[old].properties.dtype, device="meta")
        for name, old in names.items()
    }


def _check_sizes(source: str, names: Mapping[str, str], stored: Mapping[str, Any], config: Any) -> list[str]:
    """Compare names and shapes with the base's config, before any weight is read."""
    from transformers import Molmo2ForConditionalGeneration
    from transformers.utils import logging

    if config.model_type != "molmo2":
        raise InputError(f"--base: is of type {config.model_type}; must be a molmo2.")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, info = Molmo2ForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=_on_meta(names, stored),
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        logging.set_verbosity(verbosity)
    return check_loaded(source, info, model, Molmo2Family.part_names["vit"])


def _write_weights(
    reader: _Reader, names: Mapping[str, str], stored: Mapping[str, Any], folder: Path, dtype: str | None, limit: int
) -> str:
    """Write the model's weights, about `limit` stored bytes at once, and an index; return their dtype's name."""
    from huggingface_hub import split_torch_state_dict_into_shards

    kept = getattr(torch, dtype) if dtype else None
    weights = _on_meta(names, stored)
    split = split_torch_state_dict_into_shards(weights, max_shard_size=limit)
    for file, group in split.filename_to_tensors.items():
        read = reader.read({names[name]: stored[names[name]] for name in group})
        # a head tied to the embedding is a copy: a file of safetensors shares nothing
        tensors = {name: read[names[name]].to(kept, copy=names[name] == _EMBEDDING) for name in group}
        with writing(folder / file):
            write_tensors(folder / file, tensors)
    if split.is_sharded:
        metadata = {"total_size": sum(weight.to(kept).nbytes for weight in weights.values())}
        write_json(folder / INDEX_FILE, {"metadata": metadata, "weight_map": split.tensor_to_filename})
    sizes: Counter[torch.dtype] = Counter()
    for weight in weights.values():
        sizes[weight.dtype] += weight.numel()
    return dtype or str(sizes.most_common(1)[0][0]).removeprefix("torch.")


def _write_scorer(
    reader: _Reader, stored: Mapping[str, Any], config: Any, folder: Path, where: str, dtype: str | None
) -> None:
    weights = reader.read(stored)
    kept = getattr(torch, dtype) if dtype else next(iter(weights.values())).dtype
    scorer = build_scorer(weights, scorer_sizes(config.vision_config), where)
    tensors = {name: value.to(kept) for name, value in scorer.state_dict().items()}
    with writing(folder / SCORER_FILE):
        write_tensors(folder / SCORER_FILE, tensors)


def _copy_base(base: Path, folder: Path, dtype: str, special: bool) -> None:
    """Copy tokenizer, processor and config; write down the dtype and how frames are marked."""
    for path in sorted(path for pattern in _COPIED for path in base.glob(pattern)):
        if path.name not in _NOT_COPIED:
            shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        part |= {key: dtype for key in ("dtype", "torch_dtype") if key in part}
    write_json(folder / "config.json", config | {"dtype": dtype, FRAME_TOKENS: special})
    processor = folder / "processor_config.json"
    marks = json.loads(processor.read_text(encoding="utf-8")) if processor.is_file() else {}
    write_json(processor, marks | {FRAME_TOKENS: special})


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert, and say what a user should know on stderr; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m stts_cli.families.convert",
        description="Turn a checkpoint of Molmo2's training code into a Hugging Face folder with its scorer.",
    )
    parser.add_argument("source", help="a folder or a hub id with config.yaml and model_and_optim")
    parser.add_argument("folder", help="the folder to write")
    parser.add_argument("--base", default=EXAMPLE, help=f"supplies tokenizer, processor and config ({EXAMPLE})")
    parser.add_argument("--dtype", choices=_DTYPES, help="of the weights written; else as they are stored")
    given = parser.parse_args(arguments)
    try:
        notes = convert(given.source, given.folder, base=given.base, dtype=given.dtype)
    except SttsError as error:
        sys.stderr.write(f"stts: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"stts: a file cannot be fetched, read or written: {' '.join(str(error).split())}\n")
        return 3
    for note in notes:
        sys.stderr.write(f"stts: {note}\n")
    print(given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
