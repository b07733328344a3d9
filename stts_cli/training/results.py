"""What a training run leaves behind: a folder that `stts ask --model FOLDER` takes, and the way back into a model.

A full training writes a whole checkpoint; training the scorer or a LoRA writes what was trained and the base's name.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from stts_cli.data.rows import first_line
from stts_cli.errors import InputError
from stts_cli.families.base import Family
from stts_cli.families.checkpoints import ADAPTER_FILE, Checkpoint, base_chain
from stts_cli.families.settings import FORMAT, SETTINGS_FILE, is_in_old_order, read_settings, write_json
from stts_cli.families.weights import local_names, write_tensors
from stts_cli.settings import Pruning
from stts_cli.training.adapters import ADAPTER
from stts_cli.training.run_folder import Document

SCORER_FILE = "scorer.safetensors"
PEFT_PREFIX = "base_model.model."  # of every name in an adapter's file
COPIED = (  # what a processor is made of; the tokenizer writes its own files
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def write_checkpoint(
    folder: str | Path,
    family: Family,
    *,
    train: str,
    base_model: str,
    training: Document,
    dtype: torch.dtype | None = None,
    state_dict: dict[str, Tensor] | None = None,
) -> None:
    """Write what was trained, and the family's pruning settings, as a checkpoint that `families.load_family` reads.

    Args:
        folder: made if needed; files of the same names are replaced.
        family: the trained model; not changed.
        train: what was trained, "scorer", "lora" or "full".
        base_model: the folder or hub id that the run started from; an InputError where it is not there.
        training: summary for `stts.json`, written as JSON.
        dtype: of the weights in the files; None to leave them as they are.
        state_dict: the weights, named "stock.…" and "scorer.…"; None to take them from the family.
    """
    folder = Path(folder)
    base_model = os.path.abspath(base_model) if Path(base_model).is_dir() else base_model
    chain = family.chain if family.chain and family.chain[0].model == base_model else base_chain(base_model)
    folder.mkdir(parents=True, exist_ok=True)
    weights = _named(family) if state_dict is None else state_dict
    stock, scorer = (_cast(_part(weights, part), dtype) for part in ("stock.", "scorer."))
    if train == "full":
        base = chain[0]
        _write_whole(folder, family, chain[-1], stock)
        stands_on = {"trained_from": Path(base.model).name if base.is_local else base.model}
    else:
        base = next(checkpoint for checkpoint in chain if checkpoint.document.get("train") != "scorer")
        stands_on = {"base_model": base.model}
    if train == "lora":
        _write_adapter(folder, family, base, stock)
    document = {
        "format": FORMAT,
        "family": family.model.config.model_type,
        "train": train,
        **stands_on,
        "base_revision": base.revision,
        "demonstration": family.is_demonstration,
        **family.settings.to_dict(),
    }
    if scorer:
        document |= {"scorer": "learned", "scorer_file": SCORER_FILE}
        write_tensors(folder / SCORER_FILE, scorer)
    elif document["scorer"] == "learned":
        document["scorer"] = Pruning.scorer
    write_json(folder / SETTINGS_FILE, {k: v for k, v in document.items() if v is not None} | {"training": training})


def read_weights(folder: str | Path, family: Family, train: str) -> dict[str, Tensor]:
    """Read the weights of a folder that `write_checkpoint` wrote, onto the CPU, by the training module's names.

    These are "scorer.…" and, but for `train` "scorer", "stock.…" (for "lora" the adapters only).

    Raises:
        InputError: a file is missing or broken, or a learned scorer is of format 1.
    """
    folder = Path(folder)
    weights: dict[str, Tensor] = {}
    if family.scorer is not None:
        path = folder / SETTINGS_FILE
        if path.is_file() and is_in_old_order(read_settings(path)[1]):
            raise InputError(
                f"{path}: format 1, whose scorer reads the current frame first; a run of that format cannot go on. "
                f"Start a new run with --model {folder}."
            )
        weights |= {f"scorer.{name}": value for name, value in _read(folder / SCORER_FILE).items()}
    if train == "lora":
        # peft leaves the adapter's name out of its file
        names = {PEFT_PREFIX + name.replace(f".{ADAPTER}.", "."): name for name in family.model.state_dict()}
        saved = _read(folder / ADAPTER_FILE)
        weights |= {f"stock.{names.get(name, name)}": value for name, value in saved.items()}
    if train == "full":
        weights |= {f"stock.{name}": value for name, value in _read_whole(folder, family).items()}
    return weights


def load_weights(folder: str | Path, family: Family, train: str) -> None:
    """Put what was trained back into a model of the same sizes, in place, from a folder of `write_checkpoint`.

    `train` is "scorer", "lora" (whose adapters the model must have) or "full"; the rest is left alone.

    Raises:
        InputError: a file is missing or broken, or does not fit the model to the last weight.
    """
    weights, targets = read_weights(folder, family, train), _named(family)
    if train != "full":
        targets = {
            k: v for k, v in targets.items() if k.startswith("scorer.") or (train == "lora" and f".{ADAPTER}." in k)
        }
    wrong = sorted(targets.keys() ^ weights.keys())
    wrong += sorted(k for k in targets.keys() & weights.keys() if targets[k].shape != weights[k].shape)
    if wrong:
        raise InputError(
            f"{folder}: does not fit {family.model_name} ({len(wrong)} weights, such as {wrong[0]}); use the model "
            "that it was trained from, and the same settings."
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(weights[name])


def _named(family: Family) -> dict[str, Tensor]:
    """Return a family's weights by the names of the training module."""
    scorer = {} if family.scorer is None else family.scorer.state_dict()
    named = {f"stock.{name}": value for name, value in family.model.state_dict().items()}
    return named | {f"scorer.{name}": value for name, value in scorer.items()}


def _write_whole(folder: Path, family: Family, root: Checkpoint, state_dict: dict[str, Tensor]) -> None:
    family.model.save_pretrained(folder, state_dict=state_dict)
    family.tokenizer.save_pretrained(folder)
    for name in COPIED:
        path = root.find_file(name)
        if path is not None and path.resolve() != (folder / name).resolve():
            shutil.copyfile(path, folder / name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtypes = {str(value.dtype).removeprefix("torch.") for value in state_dict.values() if value.is_floating_point()}
    if len(dtypes) == 1:
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            part |= {"dtype": next(iter(dtypes))} if "dtype" in part else {}
        write_json(folder / "config.json", config)


def _write_adapter(folder: Path, family: Family, base: Checkpoint, state_dict: dict[str, Tensor]) -> None:
    from peft import get_peft_model_state_dict

    config = copy.copy(family.model.peft_config[ADAPTER])
    config.base_model_name_or_path, config.revision, config.inference_mode = base.model, base.revision, True
    config.save_pretrained(folder)
    state = get_peft_model_state_dict(family.model, state_dict, ADAPTER, save_embedding_layers=False)
    write_tensors(folder / ADAPTER_FILE, {f"{PEFT_PREFIX}{name}": value for name, value in state.items()})


def _read_whole(folder: Path, family: Family) -> dict[str, Tensor]:
    """Read a whole stock model by its module names, which are not those in the files."""
    import transformers
    from safetensors import SafetensorError

    dtypes = {parameter.dtype for parameter in family.model.parameters()}
    dtype = torch.float32 if torch.float32 in dtypes else family.model.dtype
    cls = getattr(transformers, type(family.model).__name__.removeprefix("FSDP"))
    local_names(folder, ignored=[SCORER_FILE])  # its index names nothing but files of the folder
    try:
        model, info = cls.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder}: holds no whole model ({first_line(error)}); use another checkpoint.") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"]]
    if wrong:
        raise InputError(f"{folder}: lacks weights or has too many, such as {wrong[0]}; use another checkpoint.")
    state: dict[str, Tensor] = model.state_dict()
    return state


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); use another checkpoint.") from error
    return weights


def _part(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}


def _cast(state_dict: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return a copy of the dict in another dtype; weights that share their memory go on sharing it."""
    if dtype is None:
        return dict(state_dict)
    done: dict[tuple[int, torch.Size], Tensor] = {}
    for value in state_dict.values():
        done.setdefault((value.data_ptr(), value.shape), value.to(dtype) if value.is_floating_point() else value)
    return {name: done[value.data_ptr(), value.shape] for name, value in state_dict.items()}
