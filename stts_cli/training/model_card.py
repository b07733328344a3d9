"""The README.md of a trained model, with what was measured before and after, and the way to the Hugging Face hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stts_cli.data.rows import first_line
from stts_cli.errors import EnvironmentFailure, InputError, install_command
from stts_cli.families.checkpoints import base_chain
from stts_cli.families.settings import SETTINGS_FILE, read_settings
from stts_cli.training.run_folder import Document

TRAINED = {
    "scorer": "the token scorer alone; every other weight is the base model's",
    "lora": "LoRA adapters and the token scorer; the base model's weights are frozen",
    "full": "every weight, the token scorer's included",
    "dense": "every weight of the vision encoder, the connector and the language model",
}
LIBRARY = {"scorer": "stts", "lora": "peft", "full": "transformers"}
NOT_UPLOADED = ("checkpoints/*", "stages/*", "runs/*", "run.json", "log.jsonl", ".*", "*/.*")
FIGURES = {  # measured value: (heading, how it is written)
    "accuracy": ("accuracy", "{:.1%}"),
    "loss": ("loss (nats a token)", "{:.3f}"),
    "kept": ("windows kept", "{:.0%}"),
    "flops_ratio": ("FLOPs, dense = 1", "{:.3f}"),
}
DEMONSTRATION = (
    "**A demonstration.** The base model knows a procedural world of moving coloured shapes and nothing else: no real "
    "video, no objects, no people.\n\n"
)
PRUNED = (
    "A learned scorer inside the vision encoder drops the windows of a video that matter least, and the language model "
    "never sees them (arXiv 2603.18004)."
)
NEEDS = "\nThe weights that were not trained are those of {base}, which is loaded with it.\n"
DENSE = "No scorer was trained: windows are chosen without training, or all kept."


def model_card(document: Document) -> str:
    """Describe a finetuning run in Markdown with the hub's front matter; paths are named by their last part only.

    The document is that of `finetune.finetune`: "model" (the base), "train", "data", "steps", "seconds", "settings",
    "before" and "after" (by arm: accuracy, loss, flops_ratio, kept, answers), "is_demonstration". What is missing is
    left out.
    """
    base, train = str(document.get("model", "")), document.get("train", "full")
    settings, demonstration = document.get("settings", {}), bool(document.get("is_demonstration"))
    dense, seconds = settings.get("scorer") == "none", document.get("seconds") or 0
    took = f", {seconds / 60:.0f} min" if seconds >= 120 else f", {seconds:.0f} s" if seconds else ""
    rows = [(name, _path_free(value)) for name, value in settings.items() if value not in (None, "", False)]
    return f"""---
{_front_matter(base, train, demonstration)}
---

# {_short(base)}, trained {"dense" if dense else "to be pruned"} with stts

{DEMONSTRATION if demonstration else ""}{DENSE if dense else PRUNED}

Trained: {TRAINED["dense" if dense and train == "full" else train]}. Base model: {_link(base)}.

## Results

{_results(document)}

## Training

Data: {_path_free(document.get("data", "")) or "unknown"}. {document.get("steps", 0):,} steps{took}.

{_table(("setting", "value"), rows)}## Use

In a clone of stts:

```
{install_command("train" if train == "lora" else "")}
stts ask video.mp4 "What happens?" --model FOLDER
```

FOLDER is this folder, or its name on the hub.
{"" if train == "full" else NEEDS.format(base=_link(base))}
## Limits

{_limits(settings, demonstration)}
"""


def check_push(repo: str, base_model: str, train: str) -> None:
    """Refuse, before training, a hub repository OWNER/NAME that its result cannot be pushed to; nothing is sent."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    is_name = False
    with contextlib.suppress(HFValidationError):
        validate_repo_id(repo)
        is_name = repo.count("/") == 1
    if not is_name:
        raise InputError(f"--push-to-hub {repo}: is no name of a hub repository; must be OWNER/NAME.")
    if train != "full" and any(checkpoint.is_local for checkpoint in base_chain(base_model)):
        raise InputError(
            f"--push-to-hub {repo}: the base model {base_model} is on this machine only, and what --train {train} "
            "writes is of no use without it; push the base first and start from its hub id, or use --train full."
        )
    if get_token() is None:
        raise EnvironmentFailure(f"--push-to-hub {repo}: nobody is logged in to the hub; run hf auth login.")


def push_to_hub(folder: str | Path, repo: str) -> str:
    """Upload a run's result, without its checkpoints and logs; return the address of the repository, private if new."""
    from huggingface_hub import HfApi

    _, document = read_settings(Path(folder) / SETTINGS_FILE)
    check_push(repo, str(document.get("base_model") or folder), document.get("train", "full"))
    api, message = HfApi(), "Upload a model trained with stts finetune"
    try:
        address = api.create_repo(repo, private=True, exist_ok=True)
        ignored = list(NOT_UPLOADED)
        api.upload_folder(repo_id=repo, folder_path=str(folder), ignore_patterns=ignored, commit_message=message)
    except Exception as error:  # of the network's many kinds; all mean the same to a user
        raise EnvironmentFailure(
            f"--push-to-hub {repo}: cannot be written ({first_line(error)}), the result is whole in {folder}; check "
            "the network and the token, then `hf upload` it."
        ) from error
    return str(address)


def _is_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and not Path(model).exists()


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]


def _link(model: str) -> str:
    return f"[{model}](https://huggingface.co/{model})" if _is_hub_id(model) else f"`{_short(model)}`"


def _front_matter(base: str, train: str, demonstration: bool) -> str:
    from huggingface_hub import ModelCardData

    lora = train == "lora"
    # the hub refuses a card that names a base model which is not there
    base_fields: Document = {"base_model": base, "base_model_relation": "adapter" if lora else "finetune"}
    fields = ModelCardData(
        license=license_of(base),
        library_name=LIBRARY[train],
        pipeline_tag="video-text-to-text",
        tags=["stts", "token-pruning", "video", *["lora"] * lora, *["demonstration"] * demonstration],
        **(base_fields if _is_hub_id(base) else {}),
    )
    return str(fields.to_yaml())


def license_of(model: str) -> str | None:
    """Return the license that a model's own card names, else that of the model it stands on; None if unknown."""
    from huggingface_hub import HfApi, metadata_load

    try:
        seen = {""}
        while model not in seen and Path(model).is_dir():
            seen.add(model)
            card, settings = Path(model) / "README.md", Path(model) / SETTINGS_FILE
            named = ((metadata_load(card) if card.is_file() else None) or {}).get("license")
            if isinstance(named, str):
                return named
            model = str(read_settings(settings if settings.is_file() else None)[1].get("base_model", ""))
        card_data = HfApi().model_info(model, timeout=10).card_data if _is_hub_id(model) else None
        return getattr(card_data, "license", None)
    except Exception:  # a card without a license is better than none
        return None


def _results(document: Document) -> str:
    arms = [(arm, when, figures) for when in ("before", "after") for arm, figures in document.get(when, {}).items()]
    if not arms:
        return "Nothing was measured: the run had no held-out questions."
    rows = [
        (f"{'pruned by the temporal scorer' if arm == 'temporal' else arm}, {when}",
         *(form.format(figures[key]) for key, (_, form) in FIGURES.items()))
        for arm, when, figures in arms
    ]  # fmt: skip
    table = _table((" ", *(heading for heading, _ in FIGURES.values())), rows, "---:")
    asked = f"{int(arms[0][2]['answers']):,} held-out answers"
    return f"{table}{asked}; an answer is right when greedy decoding gives it word for word."


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], align: str = "---") -> str:
    """Return a Markdown table and an empty line; nothing where there are no rows."""
    head = (headings, ["---", *[align] * (len(headings) - 1)])
    lines = [f"| {' | '.join(row)} |".replace("|   |", "| |") for row in (*head, *rows)]
    return "\n".join([*lines, "", ""]) if len(lines) > len(head) else ""


def _path_free(value: Any) -> str:
    """Return a value as text, a path on this machine by its last part only."""
    text = str(value)
    is_path = text.startswith(("/", "~", "./", "../")) or (len(text) < 256 and "/" in text and Path(text).exists())
    return (_short(text) if is_path else text).replace("|", "\\|")


def _limits(settings: Document, demonstration: bool) -> str:
    lines = ["It has the base model's limits, and was measured on the questions above only."]
    if demonstration:
        lines.append("Asked about a real video, it gives a confident wrong answer.")
    if settings.get("keep_ratio") and settings.get("scorer") != "none":
        lines.append(f"Other keep ratios than those of its training ({settings['keep_ratio']}) were not measured.")
    if settings.get("frames"):
        lines.append(f"It was trained on at most {settings['frames']} frames of a video.")
    return "\n".join(lines)
