"""JSON schemas of the YAML files that users write, for their editors: `python -m stts_cli.config.schema`.

It writes presets/schema from the models; a file names its schema in a comment, `# yaml-language-server: $schema=`.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from stts_cli.config.architectures import SHAPES
from stts_cli.config.presets import Preset, presets_folder
from stts_cli.config.suites import Suite
from stts_cli.config.training import SEVERAL, Stage

MODELS = {"preset": Preset, "suite": Suite}


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas by kind of file."""
    found = {name: _described(model) for name, model in MODELS.items()}
    one = {"$ref": "#/$defs/Stage"}
    several = [
        {
            "type": "object",
            "properties": {key: {"type": "object", "additionalProperties": one}},
            "required": [key],
            "additionalProperties": False,
        }
        for key in SEVERAL
    ]
    shapes = {model.__name__: _described(model) for model in SHAPES.values()}
    inner = {name: schema for shape in shapes.values() for name, schema in shape.pop("$defs").items()}
    either = [{"$ref": f"#/$defs/{name}"} for name in shapes]
    found["shape"] = {"title": "Shape", "anyOf": either, "$defs": {**inner, **shapes}}
    found["training"] = {"title": "Training preset", "anyOf": [one, *several], "$defs": {"Stage": _described(Stage)}}
    return {name: {"$schema": "https://json-schema.org/draft/2020-12/schema", **each} for name, each in found.items()}


def write(folder: Path) -> None:
    """Write a file a schema, such as preset.json, into a folder; made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / f"{name}.json").write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


def _described(model: type) -> dict[str, Any]:
    """Return a model's schema, with what its docstring says about the keys."""
    schema = TypeAdapter(model).json_schema()
    first, _, attributes = inspect.cleandoc(model.__doc__ or "").partition("\n\nAttributes:\n")
    schema["description"] = " ".join(first.split())
    for key, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
        schema["properties"][key]["description"] = " ".join(text.split())
    return schema


if __name__ == "__main__":
    write(presets_folder() / "schema")
