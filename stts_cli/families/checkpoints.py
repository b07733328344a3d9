"""A checkpoint and those it stands on: what was trained lies in a small folder, the rest in its base model.

Such a folder's `stts.json` names the base model; it holds the scorer's weights and, for LoRA, peft's own adapter.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from stts_cli.errors import EnvironmentFailure, InputError, install_hint
from stts_cli.families.released import FRAME_TOKENS, frame_tokens, is_pruned_config, released_settings
from stts_cli.families.settings import SETTINGS_FILE, build_scorer, is_in_old_order, read_settings
from stts_cli.families.weights import (
    INDEX_FILE,
    check_files,
    check_loaded,
    hub_names,
    is_own_file,
    local_names,
    read_names,
    read_tensors,
)
from stts_cli.pruning import SCORER_PART, TokenScorer, is_scorer_weight
from stts_cli.settings import Pruning

EXAMPLE = "allenai/Molmo2-4B"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
TRAINING_CONFIG_FILE = "config.yaml"
TRAINING_WEIGHTS_FILE = "model_and_optim/.metadata"


@dataclass(frozen=True)
class Checkpoint:
    """A folder or a hub repository, whole or standing on another one."""

    model: str  # the folder's absolute path, or the hub id
    revision: str | None  # the hub's commit; None for a folder, and where the hub could not be asked
    settings: Pruning = field(default_factory=Pruning)  # how it was trained to be pruned
    document: Mapping[str, Any] = field(default_factory=dict)  # its `stts.json`; empty where there is none
    # tensors of a scorer that lies beside the model's own -> the file that holds each
    stored_scorer: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what a user should know about its settings

    @property
    def is_local(self) -> bool:
        """Whether it is a folder here."""
        return Path(self.model).is_dir()

    @property
    def name(self) -> str:
        """What to call it in reports."""
        return self.document.get("name") or Path(self.model).name if self.is_local else self.model

    @property
    def has_prune_layer(self) -> bool:
        """Whether it says after which block windows are scored; else `settings` hold Molmo2's."""
        return "prune_layer" in self.document or bool(self.stored_scorer)

    def find_file(self, name: str) -> Path | None:
        """Return where one of its files is; None where there is none, or the hub cannot be reached."""
        from transformers.utils import cached_file

        found = cached_file(
            self.model,
            name,
            revision=self.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return Path(found) if found else None


def base_chain(model: str, revision: str | None = None) -> list[Checkpoint]:
    """Follow a checkpoint, a folder or a hub id, down to the whole model that it stands on, which comes last.

    Raises:
        InputError: no such folder, a revision of one, no model in it, a base that is not there, checkpoints that stand
            on each other, or a whole model of other files than safetensors in its own folder.
    """
    model = str(Path(model).expanduser()) if model.startswith("~") else model
    if model.startswith((".", "/")) and not Path(model).is_dir():
        raise InputError(f"--model {model}: is no folder; must be a checkpoint folder or a hub id such as {EXAMPLE}.")
    if revision is not None and Path(model).is_dir():
        raise InputError(f"--revision {revision}: is for a hub id, and {model} is a folder; leave it out.")
    chain: list[Checkpoint] = []
    while True:
        model, revision = (os.path.abspath(model), None) if Path(model).is_dir() else (model, _commit(model, revision))
        found = Checkpoint(model, revision)
        settings, document = read_settings(found.find_file(SETTINGS_FILE))
        chain.append(replace(found, settings=settings, document=document))
        base = document.get("base_model")
        if base is None:
            break
        where = f"{model}/{SETTINGS_FILE}"
        if not isinstance(base, str) or not base:
            raise InputError(f"{where}: base_model {base!r}; must be a folder or a hub id.")
        if base.startswith(("./", "../")) and Path(model).is_dir():
            base = os.path.abspath(Path(model) / base)
        if Path(base).is_absolute() and not Path(base).is_dir():
            raise InputError(f"{where}: base_model {base}; is not there. Put it back, or write its new place there.")
        if any(base == seen.model for seen in chain):
            raise InputError(f"{where}: base_model {base}; stands on this one itself. Name a whole model there.")
        model, revision = base, document.get("base_revision")
    root = chain[-1]
    if root.find_file("config.json"):
        return [*chain[:-1], _with_stored_scorer(root)]
    asked = root.is_local or root.revision is not None  # else the hub was out of reach, and stays so
    if asked and root.find_file(TRAINING_CONFIG_FILE) and root.find_file(TRAINING_WEIGHTS_FILE):
        raise InputError(
            f"--model {model}: is in the training code's own format ({TRAINING_CONFIG_FILE} and model_and_optim). "
            f"Convert it: python -m stts_cli.families.convert {model} FOLDER"
        )
    if root.is_local:
        whose = f"--model {model}" if len(chain) == 1 else f"{chain[-2].model}/{SETTINGS_FILE}: base_model {model}"
        raise InputError(f"{whose}: holds no config.json; must be a checkpoint or a hub id such as {EXAMPLE}.")
    return chain


def read_config(chain: Sequence[Checkpoint]) -> Mapping[str, Any]:
    """Read config.json of the whole model at the end of a chain.

    Raises:
        InputError: it names weights elsewhere.
        EnvironmentFailure: a base model on the hub that cannot be reached.
    """
    from transformers import PretrainedConfig

    root = chain[-1]
    try:
        config: dict[str, Any] = PretrainedConfig.get_config_dict(root.model, revision=root.revision or "main")[0]
    except OSError as error:
        if len(chain) == 1 or root.is_local:
            raise
        raise EnvironmentFailure(
            f"base_model {root.model}: cannot be loaded; it holds the weights of {chain[-2].model} that were not "
            "trained. Check the network, or the name in its stts.json."
        ) from error
    if "transformers_weights" in config:  # it names another file of weights, which would go unchecked
        raise InputError(f"{root.model}/config.json: transformers_weights; must not be there: rename the file instead.")
    return config


def load_stock(
    chain: Sequence[Checkpoint], model_class: str, vit: str, options: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """Load the stock model at the end of a chain, the LoRAs of the others merged into it.

    A LoRA is put beside quantized weights instead: merged, it would be rounded with them.

    Args:
        chain: from the checkpoint down to the whole model.
        model_class: the name of its class in transformers.
        vit: what the names of the ViT's weights hold.
        options: of `from_pretrained`, such as "dtype".

    Returns:
        The model, on the CPU if `options` do not say otherwise, and notes on what was passed over without harm, and on
        a LoRA that is not merged.

    Raises:
        InputError: weights that are not safetensors, incomplete, or that do not fit the config.
    """
    import transformers
    from safetensors import SafetensorError

    root = chain[-1]
    if root.is_local:
        check_files(Path(root.model))
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # its report of the weights is read below
    try:
        stock, info = getattr(transformers, model_class).from_pretrained(
            root.model,
            revision=root.revision or "main",
            **options,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # checked below, with names
        )
    except ValueError as error:
        if "device_map" not in options:
            raise
        raise InputError(f"--device-map: {' '.join(str(error).split())[:300]}") from error
    except SafetensorError as error:
        raise InputError(f"the weights of model '{root.model}' are broken ({error}). Restore the files.") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    ends = [name[name.index(SCORER_PART) :] for name in root.stored_scorer]
    notes = check_loaded(root.model, info, stock, vit, ends)
    is_spread = any(weight.is_meta for weight in stock.parameters())
    loras = [checkpoint for checkpoint in reversed(chain) if checkpoint.document.get("train") == "lora"]
    if loras and is_spread:
        raise InputError(f"--device-map: the LoRA of {loras[0].model} cannot be put into weights that are not loaded.")
    if "quantization_config" not in options:
        for checkpoint in loras:
            add_lora(stock, checkpoint).merge_and_unload()
    elif len(loras) > 1:
        raise InputError(f"--model {chain[0].model}: stands on {len(loras)} LoRAs; must be one with --quantize.")
    elif loras:
        add_lora(stock, loras[0])
        notes.append(
            f"{loras[0].model}: the LoRA stays beside the 4-bit weights, not merged, so that it is not rounded"
        )
    return stock, notes


def load_scorer(chain: Sequence[Checkpoint], sizes: dict[str, int]) -> TokenScorer | None:
    """Load the scorer that a checkpoint carries: the file that its `stts.json` names, else one beside the model.

    `sizes` are the arguments of `TokenScorer`. It comes in float32, one of format 1 put into today's order; None where
    the checkpoint has none.

    Raises:
        InputError: the file is missing, is no safetensors file, or does not fit the model.
    """
    top = chain[0]
    name, is_learned = top.document.get("scorer_file"), top.settings.scorer == "learned"
    if is_learned and name is None and top is chain[-1] and top.stored_scorer:
        files = {tensor: path for tensor, file in top.stored_scorer.items() if (path := top.find_file(file))}
        return build_scorer(read_tensors(files), sizes, top.model)
    if not is_learned or name is None:
        return None
    if not is_own_file(name):
        raise InputError(
            f"{SETTINGS_FILE}: scorer_file {name!r}; must be a .safetensors file of the checkpoint's own folder."
        )
    path = top.find_file(name)
    if path is None:
        raise InputError(f"{top.model}: the scorer's file {name} is missing. Restore it.")
    weights = read_tensors(dict.fromkeys(read_names(path), path))
    if is_in_old_order(top.document) and (first := "mlp.fc1.weight") in weights:
        weights[first] = torch.cat(weights[first].chunk(2, dim=1)[::-1], 1)
    return build_scorer(weights, sizes, str(path))


def read_configs(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the content of the configs that are there, config.json first, by file name.

    A hub repository is asked for the training code's only where its weights are that code's.
    """
    parsers: dict[str, Callable[[str], Any]] = {"config.json": json.loads, TRAINING_CONFIG_FILE: yaml.safe_load}
    if not checkpoint.is_local and not checkpoint.stored_scorer:
        del parsers[TRAINING_CONFIG_FILE]
    paths = {name: checkpoint.find_file(name) for name in parsers}
    return {name: parse(path, parsers[name]) for name, path in paths.items() if path}


def read_processor(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], list[str]]:
    """Read processor_config.json of a whole model, `FRAME_TOKENS` decided where it says nothing.

    Notes come with it where the weights are the training code's.
    """
    path = checkpoint.find_file("processor_config.json")
    processor = parse(path, json.loads) if path else {}
    chosen, notes = frame_tokens(processor, read_configs(checkpoint))
    return {**processor, FRAME_TOKENS: chosen}, notes if checkpoint.stored_scorer else []


def parse(path: Path, parser: Callable[[str], Any]) -> Any:
    """Return a file's content as `parser` reads it; an InputError names a file that cannot be read."""
    try:
        return parser(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be parsed ({' '.join(str(error).split())}).") from error


def _with_stored_scorer(root: Checkpoint) -> Checkpoint:
    """Check the files of a whole model, and find the scorer beside it (released weights carry no stts.json)."""
    if root.find_file(ADAPTER_CONFIG_FILE):  # transformers would load the model and the weights that it names
        raise InputError(
            f"model '{root.model}' holds {ADAPTER_CONFIG_FILE} beside a whole model. Move the adapter into a folder of "
            f"its own, whose {SETTINGS_FILE} names this one as base_model."
        )
    own = root.document.get("scorer_file")
    if root.is_local:
        names = local_names(Path(root.model), ignored=[ADAPTER_FILE, *([own] if isinstance(own, str) else [])])
    else:
        names = hub_names(root.model, root.revision, root.find_file(INDEX_FILE))
    stored = {name: file for name, file in names.items() if is_scorer_weight(name)}
    root = replace(root, stored_scorer=stored)
    if root.document:
        if not stored or own is None:
            return root
        note = f"{root.model}: the scorer is {own}, as {SETTINGS_FILE} says; the one beside the model is not used"
        return replace(root, notes=(note,))
    configs = read_configs(root)
    if stored:
        settings, notes = released_settings(configs)
        return replace(root, settings=settings, notes=tuple(notes))
    if names and is_pruned_config(configs):
        raise InputError(
            f"model '{root.model}': its config says prune_method: scorer, and none of its files holds a tensor of "
            f"{SCORER_PART}*. Restore the files, or say in {SETTINGS_FILE} how it prunes."
        )
    return root


def _commit(model: str, revision: str | None) -> str | None:
    """Return the commit that a hub id stands for, in the cache if the hub cannot be asked, else `revision`."""
    from transformers.utils.hub import resolve_revision

    for only_here in (False, True):
        resolved = resolve_revision(model, revision, local_files_only=only_here)
        if hasattr(resolved, "resolved"):
            return str(resolved.resolved)
    return revision


def add_lora(model: Any, checkpoint: Checkpoint) -> Any:
    """Put a checkpoint's LoRA, in peft's format, beside the weights it was trained on; the model is changed in place.

    Returns:
        peft's wrapping of the model.

    Raises:
        InputError: the adapter is missing, no safetensors file, or does not fit the model.
        EnvironmentFailure: peft is not installed.
    """
    config_path, weights_path = checkpoint.find_file(ADAPTER_CONFIG_FILE), checkpoint.find_file(ADAPTER_FILE)
    if config_path is None or weights_path is None:
        missing = ADAPTER_CONFIG_FILE if config_path is None else ADAPTER_FILE
        raise InputError(f"{checkpoint.model}/{missing}: is missing; it holds the LoRA. Restore it.")
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise EnvironmentFailure(
            f"--model {checkpoint.model}: was trained with LoRA, which needs peft; {install_hint('train')}."
        ) from error
    config = LoraConfig.from_pretrained(str(config_path.parent))
    config.base_model_name_or_path = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for an attribute by its old name
        wrapped = get_peft_model(model, config)
    put_lora(wrapped, weights_path)
    return wrapped


def put_lora(model: Any, path: Path) -> None:
    """Read a LoRA's safetensors into a model that has its adapter layers already, peft's or injected.

    Raises:
        InputError: the file is broken, or does not fit the adapter layers to the last weight.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        result: Any = set_peft_model_state_dict(model, load_file(path))
        wrong = [*result.unexpected_keys, *(name for name in result.missing_keys if ".lora_" in name)]
        detail = f"{len(wrong)} weights, such as {wrong[0]}" if wrong else ""
    except (RuntimeError, SafetensorError) as error:
        detail = " ".join(str(error).split())[:160]
    if detail:
        raise InputError(f"{path}: does not fit the model ({detail}). Name the base that it was trained on.")
