"""The schemas that editors read are the models', and every file that ships names its own."""

from __future__ import annotations

import json

import pytest

from stts_cli.config import schema
from stts_cli.config.presets import presets_folder

KINDS = {"presets": "preset", "suites": "suite", "shapes": "shape", "training": "training"}
SHIPPED = [path for path in sorted(presets_folder().rglob("*.yaml"))]


def test_the_schemas_that_ship_are_current(tmp_path):
    """Else `python -m stts_cli.config.schema` writes them."""
    schema.write(tmp_path)
    shipped = presets_folder() / "schema"
    assert sorted(path.name for path in shipped.iterdir()) == sorted(path.name for path in tmp_path.iterdir())
    for path in shipped.iterdir():
        assert path.read_text() == (tmp_path / path.name).read_text(), path.name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_file_that_ships_names_its_schema(path):
    line = path.read_text().splitlines()[0]
    comment, _, named = line.partition("=")
    assert comment == "# yaml-language-server: $schema"
    kind = KINDS[path.parent.name if path.parent != presets_folder() else "presets"]
    assert (path.parent / named).resolve() == (presets_folder() / "schema" / f"{kind}.json").resolve()


def test_a_schema_says_what_a_key_is_for():
    preset, training = json.loads(json.dumps(schema.schemas()["preset"])), schema.schemas()["training"]
    assert preset["required"] == ["model"]
    assert preset["additionalProperties"] is False
    assert preset["properties"]["frames"] == {
        "default": 64, "description": "the most frames to look at.", "minimum": 1, "title": "Frames", "type": "integer"
    }  # fmt: skip
    assert "tome" in preset["properties"]["scorer"]["examples"]
    described = training["$defs"]["Stage"]["properties"]
    assert described["seq_len"]["description"].endswith("null for a row a video.")
    assert all("description" in each for each in (*described.values(), *preset["properties"].values()))
    assert described["train"]["enum"] == ["scorer", "lora", "full"]
