"""Read a file of presets/shapes: `stts profile --shape NAME` builds such an architecture with random weights.

`--analytic` counts on it alone.
"""

from __future__ import annotations

from pathlib import Path

from stts_cli.config import files
from stts_cli.config.gemma4 import Gemma4Shape
from stts_cli.config.glm4v import Glm4vShape, Glm46VShape
from stts_cli.config.internvl import InternVLShape
from stts_cli.config.molmo2 import Molmo2Shape
from stts_cli.config.presets import presets_folder
from stts_cli.config.qwen2_vl import Qwen2VLShape, Qwen25VLShape
from stts_cli.config.qwen3_5 import Qwen35MoeShape, Qwen35Shape
from stts_cli.config.qwen3_vl import Qwen3VLMoeShape, Qwen3VLShape
from stts_cli.config.shapes import Architecture, Shape
from stts_cli.config.smolvlm import SmolVLMShape
from stts_cli.config.video_llama_3 import VideoLlama3Shape
from stts_cli.errors import InputError, suggest

# by a checkpoint's model_type
SHAPES: dict[str, type[Shape]] = {
    "gemma4": Gemma4Shape,
    "glm46v": Glm46VShape,
    "glm4v": Glm4vShape,
    "internvl": InternVLShape,
    "molmo2": Molmo2Shape,
    "qwen2_5_vl": Qwen25VLShape,
    "qwen2_vl": Qwen2VLShape,
    "qwen3_5": Qwen35Shape,
    "qwen3_5_moe": Qwen35MoeShape,
    "qwen3_vl": Qwen3VLShape,
    "qwen3_vl_moe": Qwen3VLMoeShape,
    "smolvlm": SmolVLMShape,
    "video_llama_3": VideoLlama3Shape,
}


def shapes_folder() -> Path:
    """Return the folder of the architectures that ship."""
    return presets_folder() / "shapes"


def load_architecture(name_or_path: str | Path) -> Architecture:
    """Read a shipped architecture by its name, or a YAML file with the same keys; raises what `files.load` does.

    A file that names no `model_type` is a Molmo2's.
    """
    path = files.find("shape", str(name_or_path), shapes_folder())
    document = files.read(path)
    model_type = str(document.values.get("model_type", "molmo2"))
    if model_type not in SHAPES:
        place = document.place(["model_type"])
        raise InputError(f"{place}: model_type {model_type}: no family has shapes of it{suggest(model_type, SHAPES)}")
    shape = document.build(SHAPES[model_type], document.values)
    return Architecture(path.stem, shape, prune_layer=shape.prune_layer, keep_ratio=shape.keep_ratio)
