"""Make the embedded model from nothing: four stages, each resumable, on as many cores as asked for.

    1. language   the language model reads true window labels (nano_language)      } side by side,
    2. vision     ViT and connector tell what stands in each window (nano_vision)   } a core each
    3. dense      the two joined by a closed-form fit, then trained end to end (nano_joint)
    4. stts       the same with the scorer, mostly at keep ratio 0.5 (nano_joint)

A stage leaves its checkpoint in the output folder; the same command goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.errors import InputError


@dataclass(frozen=True)
class NanoRecipe:
    """How long each stage runs, and with what rates.

    Attributes:
        language_steps: stage 1.
        vision_steps: stage 2.
        dense_steps: stage 3.
        stts_steps: stage 4.
        dense_lr: Muon's rate in stage 3.
        stts_lr: Muon's rate in stage 4.
        processes: processes in stages 3 and 4, one core each.
        seed: of weights and data.
    """

    language_steps: int
    vision_steps: int
    dense_steps: int
    stts_steps: int
    dense_lr: float
    stts_lr: float
    processes: int = 2
    seed: int = 0


def read_recipe(path: str | Path) -> NanoRecipe:
    """Read a recipe from YAML.

    Raises:
        InputError: no such file, or a missing or unknown key.
    """
    import yaml

    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"recipe '{path}' cannot be read ({detail}) -> a YAML file -> check --recipe") from error
    try:
        return NanoRecipe(**document)
    except TypeError as error:
        known = ", ".join(f.name for f in dataclasses.fields(NanoRecipe))
        raise InputError(f"{path.name}: {error} -> keys are {known}") from error


def train_nano(recipe: NanoRecipe, output: str | Path) -> Path:
    """Run what is left of the four stages and export the result.

    Args:
        recipe: steps and rates.
        output: folder for checkpoints and logs; a folder that holds another recipe's run is refused.

    Returns:
        The checkpoint folder, `output`/nano.

    Raises:
        InputError: `output` holds a run of another recipe.
    """
    out = Path(output)
    out.mkdir(parents=True, exist_ok=True)
    record = out / "recipe.json"
    if record.exists() and json.loads(record.read_text()) != dataclasses.asdict(recipe):
        raise InputError(
            f"{out} holds a run of another recipe -> the same recipe, or another --output -> choose a new folder"
        )
    record.write_text(json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")
    _spawn([(_language, (recipe, out)), (_vision, (recipe, out))])
    for stage in ("dense", "stts"):
        port = _free_port()
        _spawn([(_joint, (recipe, out, stage, rank, port)) for rank in range(recipe.processes)])
    return export(recipe, out, "stts", out / "nano")


def export(recipe: NanoRecipe, out: Path, stage: str, folder: Path) -> Path:
    """Write the checkpoint of a finished stage ("dense" or "stts") in Hugging Face format."""
    import torch

    from stts_cli.training.nano_export import export_nano
    from stts_cli.training.nano_joint import PRUNE_LAYER, new_scorer

    model, tokenizer = _fresh(recipe)
    saved = torch.load(out / stage / "joint.pt", weights_only=False)
    model.load_state_dict(saved["model"])
    scorer = None
    if "scorer" in saved:
        scorer = new_scorer(model.config.vision_config)
        scorer.load_state_dict(saved["scorer"])
    training = {
        "recipe": dataclasses.asdict(recipe),
        "stage": stage,
        "step": saved["step"],
        "data": "procedural world, training seeds",
    }
    export_nano(model, scorer, tokenizer, folder, keep_ratio=0.5, prune_layer=PRUNE_LAYER, training=training)
    return folder


def _fresh(recipe: NanoRecipe) -> tuple[Any, Any]:
    import torch

    from stts_cli.training.nano_model import build_nano
    from stts_cli.training.nano_tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    return build_nano(tokenizer, recipe.seed).to(torch.bfloat16), tokenizer


def _language(recipe: NanoRecipe, out: Path) -> None:
    from stts_cli.training.nano_language import train_language

    model, tokenizer = _fresh(recipe)
    train_language(model, tokenizer, out / "language", recipe.language_steps, recipe.seed)


def _vision(recipe: NanoRecipe, out: Path) -> None:
    from stts_cli.training.nano_vision import train_vision

    model, _ = _fresh(recipe)
    train_vision(model, out / "vision", recipe.vision_steps, seed=recipe.seed)


def _joint(recipe: NanoRecipe, out: Path, stage: str, rank: int, port: int) -> None:
    import torch
    from torch import distributed as dist

    from stts_cli.training.nano_joint import new_scorer, train_joint

    if recipe.processes > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=recipe.processes)
    model, tokenizer = _fresh(recipe)
    scorer = None
    if stage == "dense":
        _join(model, out, recipe.seed)
        steps, lr = recipe.dense_steps, recipe.dense_lr
    else:
        model.load_state_dict(torch.load(out / "dense" / "joint.pt", weights_only=False)["model"])
        torch.manual_seed(recipe.seed)
        scorer = new_scorer(model.config.vision_config).to(torch.bfloat16)
        steps, lr = recipe.stts_steps, recipe.stts_lr
    seed = recipe.seed + (0 if stage == "dense" else 1)
    train_joint(model, scorer, tokenizer, out / stage, steps, lr=lr, seed=seed)
    if dist.is_initialized():
        dist.destroy_process_group()


def _join(model: Any, out: Path, seed: int) -> None:
    """Put stage 1's language model behind stage 2's ViT."""
    import torch

    from stts_cli.training.nano_language import LabelEmbedding
    from stts_cli.training.nano_vision import fit_connector

    language = torch.load(out / "language" / "language.pt", weights_only=False)
    vision = torch.load(out / "vision" / "vision.pt", weights_only=False)["model"]
    heads = ("model.language_model", "lm_head")
    model.load_state_dict({k: (language["model"] if k.startswith(heads) else vision)[k] for k in vision})
    stand_in = LabelEmbedding(model.config.text_config.hidden_size).to(torch.bfloat16)
    stand_in.load_state_dict(language["stand_in"])
    explained = fit_connector(model, stand_in, seed)
    print(json.dumps({"stage": "join", "variance_explained": round(explained, 4)}), flush=True)


def _spawn(jobs: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    """Run jobs in processes of one thread each and wait; a job that fails fails the run."""
    import torch.multiprocessing as mp

    # glibc gives every large tensor back to the system and faults its pages in again: a third of the time, measured
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**40))
    context = mp.get_context("spawn")
    workers = [context.Process(target=_worker, args=(index, *job)) for index, job in enumerate(jobs)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"a training process ended with {[worker.exitcode for worker in workers]}")


def _worker(index: int, job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # one core each: two small models on one core slow both
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    job(*arguments)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, however it went: an orphan would go on writing checkpoints."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
