"""Named settings for a run: a YAML file becomes a frozen `Preset`.

A preset says which model to use and how to look at a video. Those that ship lie in presets/; a path to a file of one's
own works wherever a name does. Which preset a run starts from is decided in this order: the --preset flag, STTS_PRESET
in the environment, `preset:` in the user's config file, and `nano`, the embedded demonstration model. Flags then
override single values. Presets end at the engine: nothing below takes one. No torch.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stts_cli.config import files
from stts_cli.config.files import Layer, Model, Positive, Ratio
from stts_cli.errors import InputError
from stts_cli.settings import SCORERS, Arm, is_scorer

ENVIRONMENT_VARIABLE = "STTS_PRESET"
DEFAULT_PRESET = "nano"
CHOICES = ("auto", *SCORERS)


def _check_scorer(scorer: str) -> str:
    if scorer not in CHOICES and not is_scorer(scorer):
        raise ValueError(f"{', '.join(CHOICES)} or module:function")
    return scorer


Scorer = Annotated[str, AfterValidator(_check_scorer), Field(examples=list(CHOICES))]


class Preset(Model):
    """How to ask a question of a video.

    Attributes:
        model: a checkpoint folder, or a model id on the Hugging Face hub.
        revision: commit, branch or tag of a hub id; null for the newest.
        description: one line for people.
        frames: the most frames to look at.
        max_fps: the most frames a second to look at.
        keep_ratio: fraction of windows kept; null for the checkpoint's own.
        scorer: who scores the windows. "auto" is the learned scorer where the checkpoint has one, else what it was
            trained with, else the training-free temporal scorer; "module:function" is one of your own.
        prune_layer: 0-based ViT block after which windows are scored; null for the checkpoint's own.
        dtype: of the weights; "auto" is bfloat16 on a GPU and float32 on a CPU.
        quantize: "4bit" for the language model's weights in 4 bits; null for all in `dtype`.
        device_map: "auto", or a file of modules and their devices; null for all on one device.
        max_new_tokens: the most tokens of an answer.
    """

    model: str
    revision: str | None = None
    description: str = ""
    frames: Positive = 64
    max_fps: Annotated[float, Field(gt=0)] = 2.0
    keep_ratio: Ratio | None = None
    scorer: Scorer = "auto"
    prune_layer: Layer | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["4bit"] | None = None
    device_map: str | None = None
    max_new_tokens: Positive = 64

    def arm(self, name: str, resize: str = "model") -> Arm:
        """Return what runs are compared by; `resize` is one of `resize.RESIZES`."""
        shared = {field.name for field in dataclasses.fields(Arm)} & set(type(self).model_fields)
        return Arm(name, resize=resize, **{field: getattr(self, field) for field in shared})


class UserConfig(Model):
    """The user's $XDG_CONFIG_HOME/stts/config.yaml, ~/.config by default; `preset` is a preset's name or file."""

    preset: str | None = None


def presets_folder() -> Path:
    """Return the folder of the presets that ship: inside an installed package, or beside it in a clone."""
    installed = Path(__file__).parents[1] / "_presets"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "presets"


def demo_video() -> str:
    """Return the path of the embedded model's demo clip."""
    return str(presets_folder() / "nano" / "demo.mp4")


def preset_names() -> list[str]:
    """Return the names of the presets that ship, sorted."""
    return files.names(presets_folder())


def load_preset(name_or_path: str | Path) -> Preset:
    """Read a shipped preset by its name, or a YAML file; a `model` with "./" or "../" starts from the file's folder.

    Raises:
        InputError: no such preset, or what `files.load` refuses.
    """
    path = files.find("preset", str(name_or_path), presets_folder())
    preset = files.load(path, Preset)
    return preset.override(model=_beside(path, preset.model))


def choose_preset(flag: str | None = None, model: str | None = None) -> Preset:
    """Decide which preset a run starts from: of the flag, the model, the environment, the config file, or `nano`.

    Args:
        flag: what --preset says, or None.
        model: what --model says, or None. Without a --preset flag it starts from `Preset`'s own defaults: another
            model's frame count and keep ratio would not fit it. It is of no revision that a preset says.

    Raises:
        InputError: the source names something that does not exist.
    """
    if flag:
        preset = load_preset(flag)
        return preset if model is None else preset.model_copy(update={"model": model, "revision": None})
    if model:
        return Preset(model=model)
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        try:
            return load_preset(named)
        except InputError as error:
            raise InputError(f"{ENVIRONMENT_VARIABLE}: {error}") from None
    path = config_file()
    configured = files.load(path, UserConfig).preset if path.is_file() else None
    return load_preset(_beside(path, configured) if configured else DEFAULT_PRESET)


def config_file() -> Path:
    """Return where the user's config file is, or would be."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "stts" / "config.yaml"


def _beside(path: Path, named: str) -> str:
    return str((path.parent / named).resolve()) if named.startswith(("./", "../")) else named
