"""Read a YAML file into a model, and word what is wrong, as in `own.yaml:3: frames 0: must be at least 1`.

Every file that a user may write goes through `load`: presets, suites, shapes, training presets and the user's config.
Flags that override a file are checked by the same model and worded alike: `--frames 0: must be at least 1.` What a key
must be is said from the model's JSON schema, the one that editors get.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from stts_cli.errors import InputError, suggest
from stts_cli.settings import LAST, PruneLayer

MAX_BYTES = 1_000_000
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=True)
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "'key: value' lines",
}
_BOUNDS = {"exclusiveMinimum": "greater than", "minimum": "at least", "maximum": "at most", "exclusiveMaximum": "below"}
_Location = tuple[int | str, ...]
_T = TypeVar("_T")
_M = TypeVar("_M", bound="Model")


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _layer(value: Any) -> Any:
    value = _whole(value)
    if value != LAST and not (type(value) is int and value >= 0):
        raise ValueError("a whole number, at least 0, or last")
    return value


Positive = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
NotNegative = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Layer = Annotated[PruneLayer, BeforeValidator(_layer)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class Model(BaseModel):
    """What a file may say: unknown keys, text for a number and true for 1 are refused."""

    model_config = ConfigDict(**STRICT, frozen=True)

    def override(self: _M, **flags: Any) -> _M:
        """Return a copy with the flags that are not None put in; InputError under a flag's name if out of range."""
        given = {name: value for name, value in flags.items() if value is not None}
        return from_flags(type(self), {**dict(self), **given})


class _Loader(yaml.SafeLoader):
    """YAML 1.1, with 1e-4 a number, as YAML 1.2 and people have it, and no key twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first and name != "<<":
                words = f"{name} is on line {first[name]} too; leave one out"
                raise yaml.composer.ComposerError(None, None, words, key.start_mark)
            first[name] = line
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Document:
    """A YAML file's mapping with text keys, and where each key stands; `root` is its node, None for an empty file."""

    path: Path
    values: dict[str, object]
    root: yaml.Node | None

    def place(self, location: Sequence[int | str]) -> str:
        """Return FILE:LINE of a key, or of the section around it where it is not there."""
        node, line = self.root, None
        for part in location:
            child: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:  # of a merged key and one's own, the latter is the last
                    if key.value == str(part):
                        line, child = key.start_mark.line + 1, value
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                child = node.value[part]
                line = child.start_mark.line + 1
            node = child
        return f"{self.path}:{line}" if line else str(self.path)

    def build(self, model: type[_T], values: Mapping[str, object], section: _Location = ()) -> _T:
        """Make a pydantic model or dataclass of values, to which the keys of `section` lead in the file.

        Raises:
            InputError: the first key that is unknown or missing, or whose value is wrong.
        """

        def subject(location: _Location) -> str:
            where = (*section, *location)
            return f"{self.path if not location else self.place(where)}: {'.'.join(map(str, where))}"

        return _build(model, values, subject)


def load(path: Path, model: type[_T]) -> _T:
    """Read a YAML file into a pydantic model or dataclass; raises what `read` and `Document.build` do."""
    document = read(path)
    return document.build(model, document.values)


def from_flags(model: type[_T], values: Mapping[str, object]) -> _T:
    """Make a model of flags, each named as its field with dashes; see `Document.build`."""
    return _build(model, values, lambda location: f"--{str(location[0]).replace('_', '-')}")


def read(path: Path) -> Document:
    """Read a YAML file's mapping.

    Raises:
        InputError: it is too large, no UTF-8, no YAML or no mapping, or names a key twice.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: is larger than {MAX_BYTES} bytes; must be a YAML file of settings.")
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        values = {} if root is None else loader.construct_document(root)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not valid YAML, which is UTF-8 ({error.reason}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{path}{f':{mark.line + 1}' if mark else ''}: is not valid YAML: {what}.") from error
    except (RecursionError, ValueError) as error:  # deeper than Python goes; 2024-02-31
        raise InputError(f"{path}: is not valid YAML: {error}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}; must be 'key: value' lines.")
    return Document(path, {str(key): value for key, value in values.items()}, root)


def find(what: str, name: str, folder: Path) -> Path:
    """Return the file of a name that ships in a folder, or of a user's path: one with a separator or YAML's ending.

    Raises:
        InputError: there is none; `what` says of what.
    """
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(f"{what} {name}: no such file; must be a file or one of {', '.join(names(folder))}.")
        return path
    if name not in names(folder):
        raise InputError(f"{what} {name}: unknown{suggest(name, names(folder))}")
    return folder / f"{name}.yaml"


def names(folder: Path) -> list[str]:
    """Return the names of the files that ship in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _build(model: type[_T], values: Mapping[str, object], subject: Callable[[_Location], str]) -> _T:
    try:
        return model(**values)
    except ValidationError as error:
        errors = sorted(error.errors(), key=lambda each: each["type"] not in _UNKNOWN)  # a missing key may be misspelt
        raise InputError(_sentence(errors[0], TypeAdapter(model).json_schema(), subject)) from None


def _sentence(error: Mapping[str, Any], root: dict[str, Any], subject: Callable[[_Location], str]) -> str:
    location, kind, value = tuple(part for part in error["loc"] if part != "[key]"), error["type"], error["input"]
    if kind in _UNKNOWN:
        known = _descend(root, location[:-1]).get("properties", {})
        return f"{subject(location)}: unknown key{suggest(str(location[-1]), known)}"
    schema = _descend(root, error["loc"])
    must = _must(schema, bounds_only=kind.startswith(("greater", "less")))
    if kind in ("missing", "missing_argument"):
        return f"{subject(location)}: is missing; must be {must}."
    if kind == "value_error" and (words := str(error["ctx"]["error"])):
        must = words
    is_text = isinstance(value, str) and schema.get("type", "string") == "string"
    # aliases let a few lines stand for billions of values, or for themselves: reprlib shows the first ones
    shown = (
        value if is_text else reprlib.repr(value) if isinstance(value, list | dict) else json.dumps(value, default=str)
    )
    known = schema.get("enum") or schema.get("examples", ())
    near = difflib.get_close_matches(value, known, n=1) if is_text else []
    end = f"; did you mean '{near[0]}'?" if near else "."
    if isinstance(value, bool) and "off" in schema.get("enum", ()):
        end = '; YAML takes a bare off for false, write "off".'
    return f"{subject(location)} {shown[:60]}: must be {must}{end}"


def _descend(root: dict[str, Any], location: Sequence[int | str]) -> dict[str, Any]:
    """Return the schema of a key; {} for none."""
    schema = root
    for part in location:
        inner = schema.get("properties", {}).get(part) or schema.get("items") or schema.get("additionalProperties")
        schema = inner if isinstance(inner, dict) else {}
        schema = next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return schema


def _must(schema: dict[str, Any], *, bounds_only: bool = False) -> str:
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        *most, last = schema["enum"]
        return f"{', '.join(most)} or {last}" if most else str(last)
    bounds = " and ".join(f"{words} {schema[key]:g}" for key, words in _BOUNDS.items() if key in schema)
    if bounds_only:
        return bounds
    kind = _KINDS[schema.get("type", "string")]
    if kind == "a list":
        count = f" of {schema['maxItems']}" if "maxItems" in schema else ""
        kind = f"a list{count}, each item {_must(schema['items'])}"
    return f"{kind}, {bounds}" if bounds else kind
