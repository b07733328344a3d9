"""The README.md of a trained model, with what was measured before and after, and the way to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts_cli.errors import EnvironmentFailure, InputError, install_command
from stts_cli.families.checkpoints import base_chain
from stts_cli.families.settings import SETTINGS_FILE, read_settings

TRAINED = {
    "scorer": "the token scorer alone; every other weight is the base model's",
    "lora": "LoRA adapters and the token scorer; the base model's weights are frozen",
    "full": "every weight, the token scorer's included",
}
LIBRARY = {"scorer": "stts", "lora": "peft", "full": "transformers"}
NOT_UPLOADED = ("checkpoints/*", "stages/*", "runs/*", "run.json", "log.jsonl", ".*", "*/.*")


def model_card(document: dict[str, Any]) -> str:
    """Describe a finetuning run for people and for the hub.

    Args:
        document: of `finetune.finetune`: "model" (the base), "train", "data", "steps", "seconds", "settings",
            "before" and "after" (name of an arm -> accuracy, loss, flops_ratio, kept, answers), "is_demonstration".
            What is missing is left out.

    Returns:
        Markdown with the hub's front matter. Of paths on this machine only the last part is named.
    """
    base, train = str(document.get("model", "")), document.get("train", "full")
    demonstration = bool(document.get("is_demonstration"))
    without_scorer = document.get("settings", {}).get("scorer") == "none"
    sections = [
        _front_matter(base, train, demonstration),
        f"# {_short(base)}, trained {'dense' if without_scorer else 'to be pruned'} with stts\n",
    ]
    if demonstration:
        sections.append(
            "**A demonstration.** The base model knows a procedural world of moving coloured shapes and nothing else: "
            "no real video, no objects, no people.\n"
        )
    what = "every weight of the vision encoder, the connector and the language model" if without_scorer else ""
    sections += [
        "A learned scorer inside the vision encoder drops the windows of a video that matter least, and the language "
        "model never sees them (arXiv 2603.18004).\n"
        if not without_scorer
        else "No scorer was trained: windows are chosen without training, or all kept.\n",
        f"Trained: {what if what and train == 'full' else TRAINED[train]}. Base model: {_link(base)}.\n",
        *_results(document),
        *_training(document),
        _use(train, base),
        _limits(document, demonstration),
    ]
    return "\n".join(sections)


def check_push(repo: str, base_model: str, train: str) -> None:
    """Find out before training what would keep its result from the hub; nothing is sent.

    Args:
        repo: OWNER/NAME on the hub.
        base_model: what the run starts from.
        train: "scorer", "lora" or "full".

    Raises:
        InputError: not a name of a repository, or a small folder whose base model is on this machine only.
        EnvironmentFailure: nobody is logged in.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"'{repo}' is no name of a hub repository -> OWNER/NAME -> change it") from error
    if repo.count("/") != 1:
        raise InputError(f"'{repo}' is no name of a hub repository -> OWNER/NAME -> change it")
    if train != "full" and any(checkpoint.is_local for checkpoint in base_chain(base_model)):
        raise InputError(
            f"the base model '{base_model}' is on this machine only, and what --train {train} writes is of no use "
            "without it -> push the base first and start from its hub id, or use --train full"
        )
    if get_token() is None:
        raise EnvironmentFailure(f"nobody is logged in to the hub, '{repo}' cannot be written -> hf auth login")


def push_to_hub(folder: str | Path, repo: str, private: bool = True) -> str:
    """Upload a result folder, without its training checkpoints and logs.

    Args:
        folder: what a run wrote.
        repo: OWNER/NAME on the hub; made if needed.
        private: for a repository that is made now.

    Returns:
        The repository's address.

    Raises:
        InputError: see `check_push`.
        EnvironmentFailure: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    _, document = read_settings(Path(folder) / SETTINGS_FILE)
    check_push(repo, str(document.get("base_model") or folder), document.get("train", "full"))
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            ignore_patterns=list(NOT_UPLOADED),
            commit_message="Upload a model trained with stts finetune",
        )
    except Exception as error:  # of the network's many kinds; all mean the same to a user
        line = " ".join(str(error).split())[:160] or type(error).__name__
        raise EnvironmentFailure(
            f"'{repo}' cannot be written ({line}) -> the result is whole in {folder} -> check the network and the "
            "token, then `hf upload` it"
        ) from error
    return str(address)


def _is_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and not Path(model).exists()


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]


def _link(model: str) -> str:
    return f"[{model}](https://huggingface.co/{model})" if _is_hub_id(model) else f"`{_short(model)}`"


def _front_matter(base: str, train: str, demonstration: bool) -> str:
    import yaml

    fields: dict[str, Any] = {"license": license_of(base), "library_name": LIBRARY[train]}
    fields["pipeline_tag"] = "video-text-to-text"
    if _is_hub_id(base):  # the hub refuses a card that names any other base
        fields |= {"base_model": base, "base_model_relation": "adapter" if train == "lora" else "finetune"}
    fields["tags"] = ["stts", "token-pruning", "video", *(["lora"] if train == "lora" else [])]
    fields["tags"] += ["demonstration"] if demonstration else []
    known = {name: value for name, value in fields.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, default_flow_style=None)}---\n"


def license_of(model: str) -> str | None:
    """Return the license that a model's own card names, else that of the model it stands on; None if unknown."""
    import yaml
    from huggingface_hub import HfApi

    try:
        seen = {""}
        while model not in seen and Path(model).is_dir():
            seen.add(model)
            card = Path(model) / "README.md"
            parts = card.read_text(encoding="utf-8").split("---\n", 2) if card.is_file() else []
            fields = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
            if isinstance(fields, dict) and isinstance(fields.get("license"), str):
                return str(fields["license"])
            settings = Path(model) / SETTINGS_FILE
            model = str(read_settings(settings if settings.is_file() else None)[1].get("base_model", ""))
        card_data = HfApi().model_info(model, timeout=10).card_data if _is_hub_id(model) else None
        return getattr(card_data, "license", None)
    except Exception:  # a card without a license is better than none
        return None


def _results(document: dict[str, Any]) -> list[str]:
    rows = [
        (f"{'pruned by the temporal scorer' if arm == 'temporal' else arm}, {when}", values)
        for when in ("before", "after")
        for arm, values in (document.get(when) or {}).items()
        if isinstance(values, dict)
    ]
    if not rows:
        return ["## Results\n\nNothing was measured: the run had no held-out questions.\n"]
    formats = {  # measured value -> (heading, how it is written)
        "accuracy": ("accuracy", "{:.1%}"),
        "loss": ("loss (nats a token)", "{:.3f}"),
        "kept": ("windows kept", "{:.0%}"),
        "flops_ratio": ("FLOPs, dense = 1", "{:.3f}"),
    }
    known = [key for key in formats if any(key in values for _, values in rows)]
    lines = [
        "## Results",
        "",
        "| | " + " | ".join(formats[key][0] for key in known) + " |",
        "| --- |" + " ---: |" * len(known),
    ]
    for name, values in rows:
        cells = [formats[key][1].format(values[key]) if values.get(key) is not None else "" for key in known]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    counts = {int(values["answers"]) for _, values in rows if "answers" in values}
    asked = f"{max(counts):,} held-out answers" if counts else "Held-out answers"
    lines += ["", f"{asked}; an answer is right when greedy decoding gives it word for word.", ""]
    return ["\n".join(lines)]


def _training(document: dict[str, Any]) -> list[str]:
    settings = {k: v for k, v in document.get("settings", {}).items() if v not in (None, "", False)}
    lines = ["## Training", ""]
    data = _path_free(document.get("data", "")) or "unknown"
    seconds = document.get("seconds") or 0
    took = f", {seconds / 60:.0f} min" if seconds >= 120 else f", {seconds:.0f} s" if seconds else ""
    lines.append(f"Data: {data}. {document.get('steps', 0):,} steps{took}.")
    if settings:
        lines += ["", "| setting | value |", "| --- | --- |"]
        lines += [f"| {name} | {_path_free(value)} |" for name, value in settings.items()]
    return ["\n".join([*lines, ""])]


def _path_free(value: Any) -> str:
    """Return a value as text, a path on this machine by its last part only."""
    text = str(value)
    is_path = text.startswith(("/", "~", "./", "../")) or (len(text) < 256 and "/" in text and Path(text).exists())
    return (_short(text) if is_path else text).replace("|", "\\|")


def _use(train: str, base: str) -> str:
    needs = f"\nThe weights that were not trained are those of {_link(base)}, which is loaded with it.\n"
    needs = "" if train == "full" else needs
    install = install_command("train" if train == "lora" else "")
    return (
        f'## Use\n\nIn a clone of stts:\n\n```\n{install}\nstts ask video.mp4 "What happens?" --model FOLDER\n```\n\n'
        f"FOLDER is this folder, or its name on the hub.\n{needs}"
    )


def _limits(document: dict[str, Any], demonstration: bool) -> str:
    settings = document.get("settings", {})
    lines = ["## Limits", ""]
    lines.append("It has the base model's limits, and was measured on the questions above only.")
    if demonstration:
        lines.append("Asked about a real video, it gives a confident wrong answer.")
    if settings.get("keep_ratio") and settings.get("scorer") != "none":
        lines.append(f"Other keep ratios than those of its training ({settings['keep_ratio']}) were not measured.")
    if settings.get("frames"):
        lines.append(f"It was trained on at most {settings['frames']} frames of a video.")
    return "\n".join([*lines, ""])
