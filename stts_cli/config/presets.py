"""Named settings for a run: a YAML file -> a frozen `Preset`.

A preset says which model to use and how to look at a video. Those that ship lie in presets/; a path to a file of one's
own works wherever a name does. Which preset a run starts from is decided in this order: the --preset flag, STTS_PRESET
in the environment, `preset:` in the user's config file, and `nano`, the embedded demonstration model. Flags then
override single values. Presets end at the engine: nothing below takes one.

Standard library and PyYAML only; no torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.errors import InputError, suggest
from stts_cli.settings import SCORERS, Arm, is_scorer

ENVIRONMENT_VARIABLE = "STTS_PRESET"
DEFAULT_PRESET = "nano"
CHOICES = ("auto", *SCORERS)
DTYPES = ("auto", "float32", "bfloat16", "float16")
# what a suite of `stts eval` may say, each a flag of it
SUITE_KEYS = {
    "bench": "str",
    "videos": "int",
    "limit": "int",
    "split": "str",
    "scoring": "str",
    "preset": "str",
    "model": "str",
    "frames": "int",
    "max_fps": "float",
    "keep_ratio": "float",
    "scorer": "str",
    "prune_layer": "int",
    "compare": "list",
    "paper": "figures",
}


@dataclass(frozen=True)
class Preset:
    """How to ask a question of a video.

    Attributes:
        model: a checkpoint folder, or a model id on the Hugging Face hub.
        description: one line for people.
        frames: the most frames to look at.
        max_fps: the most frames a second to look at.
        keep_ratio: fraction of windows kept, in (0, 1]; None for the checkpoint's own.
        scorer: who scores the windows: one of `CHOICES`. "auto" is the learned scorer where the checkpoint has one,
            else what it was trained with, else the training-free temporal scorer.
        prune_layer: 0-based ViT block after which windows are scored; None for the checkpoint's own.
        dtype: one of `DTYPES`; "auto" is bfloat16 on a GPU and float32 on a CPU.
        max_new_tokens: the most tokens of an answer.
    """

    model: str
    description: str = ""
    frames: int = 64
    max_fps: float = 2.0
    keep_ratio: float | None = None
    scorer: str = "auto"
    prune_layer: int | None = None
    dtype: str = "auto"
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        _check(self.frames >= 1, "frames", self.frames, "at least 1")
        _check(self.max_fps > 0, "max_fps", self.max_fps, "above 0")
        _check(
            self.keep_ratio is None or 0 < self.keep_ratio <= 1, "keep_ratio", self.keep_ratio, "above 0 and at most 1"
        )
        _check(self.scorer in CHOICES or is_scorer(self.scorer), "scorer", self.scorer, "one of " + ", ".join(CHOICES))
        _check(self.prune_layer is None or self.prune_layer >= 0, "prune_layer", self.prune_layer, "at least 0")
        _check(self.dtype in DTYPES, "dtype", self.dtype, "one of " + ", ".join(DTYPES))
        _check(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")

    def override(self, **values: Any) -> Preset:
        """Return a copy with the values that are not None put in.

        Args:
            **values: fields of `Preset`; None leaves a field as it is.

        Returns:
            The new preset, checked.

        Raises:
            InputError: a value out of range.
        """
        return dataclasses.replace(self, **{name: value for name, value in values.items() if value is not None})

    def arm(self, name: str, resize: str = "model") -> Arm:
        """Return what runs are compared by.

        Args:
            name: for tables.
            resize: who resizes frames, one of `resize.RESIZES`.
        """
        shared = {field.name for field in dataclasses.fields(Arm)} & {field.name for field in dataclasses.fields(self)}
        return Arm(name, resize=resize, **{field: getattr(self, field) for field in shared})


def presets_folder() -> Path:
    """Return the folder of the presets that ship: inside an installed package, or beside it in a clone."""
    installed = Path(__file__).parents[1] / "_presets"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "presets"


def demo_video() -> str:
    """Return the path of the embedded model's demo clip."""
    return str(presets_folder() / "nano" / "demo.mp4")


def preset_names() -> list[str]:
    """Return the names of the presets that ship, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def load_preset(name_or_path: str | Path) -> Preset:
    """Read one preset.

    Args:
        name_or_path: the name of a shipped preset, or the path of a YAML file.

    Returns:
        The preset. A `model` that starts with "./" or "../" is taken from the file's own folder.

    Raises:
        InputError: no such preset, an unknown key, or a value of the wrong kind or out of range.
    """
    name = str(name_or_path)
    is_path = name.endswith((".yaml", ".yml")) or os.sep in name
    path = Path(name).expanduser() if is_path else presets_folder() / f"{name}.yaml"
    if not path.is_file():
        if is_path:
            raise InputError(f"preset file {path} does not exist -> give a file or one of {', '.join(preset_names())}")
        raise InputError(f"unknown preset '{name}'{suggest(name, preset_names())}")
    values = _read_mapping(path)
    fields = {field.name: field for field in dataclasses.fields(Preset)}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{path}: unknown key '{key}'{suggest(str(key), fields)}")
        values[key] = _typed(path, key, value, str(fields[key].type))
    if "model" not in values:
        raise InputError(f"{path}: the key 'model' is missing -> name a checkpoint folder or a hub id")
    if values["model"].startswith(("./", "../")):
        values["model"] = str((path.parent / values["model"]).resolve())
    try:
        return Preset(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def choose_preset(
    flag: str | None = None, environment: Mapping[str, str] | None = None, model: str | None = None
) -> Preset:
    """Decide which preset a run starts from.

    Args:
        flag: what --preset says, or None.
        environment: the environment's variables; None for the process's own.
        model: what --model says, or None. Without a --preset flag, a model named by hand starts from `Preset`'s own
            defaults: another model's frame count and keep ratio would not fit it.

    Returns:
        The preset of the first source that names one: flag, model, environment, config file, `nano`.

    Raises:
        InputError: the source names something that does not exist.
    """
    environment = os.environ if environment is None else environment
    if flag:
        preset = load_preset(flag)
        return preset.override(model=model)
    if model:
        return Preset(model=model)
    named = environment.get(ENVIRONMENT_VARIABLE)
    if named:
        try:
            return load_preset(named)
        except InputError as error:
            raise InputError(f"{ENVIRONMENT_VARIABLE}: {error}") from None
    return load_preset(_configured_preset(environment) or DEFAULT_PRESET)


def load_suite(name_or_path: str) -> dict[str, Any]:
    """Read a suite: which benchmarks `stts eval` asks, of which arms.

    Args:
        name_or_path: the name of a shipped suite, or the path of a YAML file.

    Returns:
        Some of `SUITE_KEYS`: "bench" is a text, "compare" a list of texts as on the command line, "paper" arm -> the
        paper's average of all benchmarks in percent.

    Raises:
        InputError: no such suite, an unknown key, or a value of the wrong kind.
    """
    shipped = presets_folder() / "suites"
    names = sorted(path.stem for path in shipped.glob("*.yaml"))
    is_path = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path).expanduser() if is_path else shipped / f"{name_or_path}.yaml"
    if not path.is_file():
        if is_path:
            raise InputError(f"suite file {path} does not exist -> give a file or one of {', '.join(names)}")
        raise InputError(f"unknown suite '{name_or_path}'{suggest(name_or_path, names)}")
    values = _read_mapping(path)
    for key, value in values.items():
        if key not in SUITE_KEYS:
            raise InputError(f"{path}: unknown key '{key}'{suggest(str(key), SUITE_KEYS)}")
        kind = SUITE_KEYS[key]
        if kind == "figures":
            values[key] = _figures(path, key, value)
        elif kind != "list":
            values[key] = _typed(path, key, value, kind)
        elif not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise InputError(f"{path}: {key} is {value!r} -> a list of texts is allowed -> correct it")
    return values


def config_path(environment: Mapping[str, str] | None = None) -> Path:
    """Return where the user's config file is looked for: $XDG_CONFIG_HOME/stts/config.yaml, ~/.config by default."""
    environment = os.environ if environment is None else environment
    home = environment.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "stts" / "config.yaml"


def _configured_preset(environment: Mapping[str, str]) -> str | None:
    path = config_path(environment)
    if not path.is_file():
        return None
    values = _read_mapping(path)
    for key in values:
        if key != "preset":
            raise InputError(f"{path}: unknown key '{key}' -> the one key is 'preset', a preset's name or path")
    named = values.get("preset")
    if named is None:
        return None
    named = str(named)
    return str((path.parent / named).resolve()) if named.startswith(("./", "../")) else named


def _read_mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML ({line}) -> correct it") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__} -> 'key: value' lines are allowed -> correct it")
    return values


def _figures(path: Path, key: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{path}: {key}: {value!r}; must be names of arms and percentages.")
    figures = {name: _typed(path, f"{key}.{name}", figure, "float") for name, figure in value.items()}
    for name, figure in figures.items():
        if not 0 <= figure <= 100:
            raise InputError(f"{path}: {key}.{name}: {figure:g}; must be a percentage, at least 0 and at most 100.")
    return figures


def _typed(path: Path, key: str, value: Any, kind: str) -> Any:
    """Check a YAML value against a field's annotation, written as a string such as 'float | None'."""
    if value is None and "None" in kind:
        return None
    wanted = kind.split(" | ")[0]
    fits = {
        "str": isinstance(value, str),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, (int, float)) and not isinstance(value, bool),
    }[wanted]
    if not fits:
        raise InputError(f"{path}: {key} is {value!r} -> a value of type {wanted} is allowed -> correct it")
    return float(value) if wanted == "float" else value


def _check(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise InputError(f"{name} is {value} -> {allowed} -> change it")
