"""The sizes of a model without the model: presets/shapes/*.yaml -> `Architecture`.

`stts profile --shape NAME` builds such an architecture with random weights, and `--analytic` counts on it alone. The
keys are those of transformers' Molmo2 configs, so that a file reads like a checkpoint's config.json. Standard library
and PyYAML only; no torch, so that counting is instant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_cli.config.presets import presets_folder
from stts_cli.cost.savings import ModelShape
from stts_cli.errors import InputError, suggest

VISION_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "image_size",
    "patch_size",
)
ADAPTER_KEYS = ("vision_feature_layer", "hidden_size", "num_attention_heads", "head_dim", "intermediate_size")
TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
_SECTIONS = {"vision_config": VISION_KEYS, "adapter_config": ADAPTER_KEYS, "text_config": TEXT_KEYS}
_LISTS = {"image_size", "vision_feature_layer"}
ADDED_TOKENS = 128  # rows of the embedding behind the vocabulary, for the tokens that mark frames and patches


@dataclass(frozen=True)
class Architecture:
    """A Molmo2 by its sizes.

    Attributes:
        name: what to call it.
        description: one line for people.
        vision: `VISION_KEYS` of the ViT.
        adapter: `ADAPTER_KEYS` of the connector.
        text: `TEXT_KEYS` of the language model.
        pooling: patch rows and columns of a window.
        prune_layer: 0-based ViT block after which windows are scored.
        keep_ratio: fraction of windows kept, in (0, 1].
        prune_from_frame: frames that the budget leaves out.
        refill_lone_frames: frames that packing would leave alone in a bin run whole.
        scorer: who scores by default, one of `settings.SCORERS`; "learned" where there is a learned one.
        num_added_tokens: rows of the embedding behind the vocabulary.
        notes: what a user should know about where its settings come from.
    """

    name: str
    description: str
    vision: dict[str, Any]
    adapter: dict[str, Any]
    text: dict[str, Any]
    pooling: tuple[int, int]
    prune_layer: int = 3
    keep_ratio: float = 0.5
    prune_from_frame: int = 0
    refill_lone_frames: bool = False
    scorer: str = "learned"
    num_added_tokens: int = ADDED_TOKENS
    notes: tuple[str, ...] = ()

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        height, width = self.vision["image_size"]
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns of a frame."""
        height, width = self.frame_size
        return height // self.vision["patch_size"], width // self.vision["patch_size"]

    def sizes(self) -> ModelShape:
        """Return the sizes that FLOPs depend on."""
        vision, adapter, text = self.vision, self.adapter, self.text
        rows, cols = self.grid
        return ModelShape(
            patch_dim=3 * vision["patch_size"] ** 2,
            num_patches=rows * cols,
            num_windows=-(-rows // self.pooling[0]) * -(-cols // self.pooling[1]),
            window_size=self.pooling[0] * self.pooling[1],
            vit_blocks=max(n % vision["num_hidden_layers"] for n in adapter["vision_feature_layer"]) + 1,
            vit_width=vision["hidden_size"],
            vit_heads=vision["num_attention_heads"],
            vit_head_dim=vision["head_dim"],
            vit_mlp=vision["intermediate_size"],
            num_feature_layers=len(adapter["vision_feature_layer"]),
            connector_width=adapter["hidden_size"],
            connector_heads=adapter["num_attention_heads"],
            connector_head_dim=adapter["head_dim"],
            connector_mlp=adapter["intermediate_size"],
            llm_layers=text["num_hidden_layers"],
            llm_width=text["hidden_size"],
            llm_heads=text["num_attention_heads"],
            llm_kv_heads=text["num_key_value_heads"],
            llm_head_dim=text["head_dim"],
            llm_mlp=text["intermediate_size"],
            vocab_size=text["vocab_size"],
        )

    def num_parameters(self) -> int:
        """Count the weights of the stock model; the scorer's are not among them."""
        s = self.sizes()
        inner = s.vit_heads * s.vit_head_dim
        block = 4 * s.vit_width * inner + 3 * inner + 2 * s.vit_width * s.vit_mlp + s.vit_mlp + 6 * s.vit_width
        vit = self.vision["num_hidden_layers"] * block + (s.patch_dim + 1 + s.num_patches) * s.vit_width
        inner, features = s.connector_heads * s.connector_head_dim, s.num_feature_layers * s.connector_width
        attention = 3 * (features + 1) * inner + (inner + 1) * s.connector_width
        connector = attention + s.connector_mlp * (2 * s.connector_width + s.llm_width)
        queries, keys = s.llm_heads * s.llm_head_dim, s.llm_kv_heads * s.llm_head_dim
        layer = s.llm_width * (2 * queries + 2 * keys + 3 * s.llm_mlp + 2) + 2 * s.llm_head_dim
        words = (2 * s.vocab_size + self.num_added_tokens + 1) * s.llm_width
        return vit + connector + s.llm_layers * layer + words


def shapes_folder() -> Path:
    """Return the folder of the architectures that ship."""
    return presets_folder() / "shapes"


def shape_names() -> list[str]:
    """Return the names of the architectures that ship, sorted."""
    return sorted(path.stem for path in shapes_folder().glob("*.yaml"))


def load_architecture(name_or_path: str | Path) -> Architecture:
    """Read one architecture.

    Args:
        name_or_path: the name of a shipped one, or the path of a YAML file with the same keys.

    Returns:
        The architecture.

    Raises:
        InputError: no such file, an unknown or missing key, or a value of the wrong kind.
    """
    name = str(name_or_path)
    is_path = name.endswith((".yaml", ".yml")) or os.sep in name
    path = Path(name).expanduser() if is_path else shapes_folder() / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"shape {unknown(name, [*shape_names(), 'FILE.yaml'])}")
    values = _read(path)
    allowed = {"description", "pooling", "prune_layer", "keep_ratio", *_SECTIONS}
    _check_keys(path, "", values, allowed, allowed)
    for section, keys in _SECTIONS.items():
        if not isinstance(values[section], dict):
            raise InputError(f"{path}: {section} is {values[section]!r} -> 'key: value' lines below it -> correct it")
        _check_keys(path, f"{section}.", values[section], set(keys), set(keys))
        for key, value in values[section].items():
            _check_size(path, f"{section}.{key}", value, is_list=key in _LISTS)
    _check_size(path, "pooling", values["pooling"], is_list=True)
    return Architecture(
        name=path.stem,
        description=str(values["description"]),
        vision=values["vision_config"],
        adapter=values["adapter_config"],
        text=values["text_config"],
        pooling=(values["pooling"][0], values["pooling"][1]),
        prune_layer=int(values["prune_layer"]),
        keep_ratio=float(values["keep_ratio"]),
    )


def unknown(given: str, known: list[str]) -> str:
    """Word the complaint about a name: the name, all that exist, and the nearest.

    Args:
        given: the name that is not known.
        known: the names that are.

    Returns:
        "'given' is unknown -> a, b, c; did you mean 'b'?", for behind the word for what it names.
    """
    hint = suggest(given, known)
    return f"'{given}' is unknown -> {', '.join(known)}{hint if 'did you mean' in hint else ''}"


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())}) -> correct it") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__} -> 'key: value' lines are allowed -> correct it")
    return values


def _check_keys(path: Path, section: str, values: dict[str, Any], allowed: set[str], needed: set[str]) -> None:
    for key in values:
        if key not in allowed:
            raise InputError(f"{path}: unknown key '{section}{key}'{suggest(str(key), allowed)}")
    missing = sorted(needed - set(values))
    if missing:
        raise InputError(f"{path}: the key '{section}{missing[0]}' is missing -> add it")


def _check_size(path: Path, key: str, value: Any, *, is_list: bool) -> None:
    numbers = value if is_list and isinstance(value, list) else [value]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    lowest = -1000 if key.endswith("vision_feature_layer") else 1
    pair = len(numbers) == 2 if key in ("pooling", "vision_config.image_size") else True
    if is_list != isinstance(value, list) or not numbers or not whole or not pair or min(numbers) < lowest:
        what = "a list of whole numbers" if is_list else "a whole number"
        raise InputError(f"{path}: {key} is {value!r} -> {what}, at least {lowest} -> correct it")
