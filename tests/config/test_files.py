"""Reading: what is no YAML file of settings, where a key stands, and how a wrong value is said."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import Field

from stts_cli.config import files
from stts_cli.config.files import Model
from stts_cli.config.presets import Preset
from stts_cli.errors import InputError


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"model: [", ":1: is not valid YAML: expected the node content, but found '<stream end>'."),
        (b"model: x\nframes: 1\nmodel: y", ":3: is not valid YAML: model is on line 1 too; leave one out."),
        (b"{model: x, model: y}", ":1: is not valid YAML: model is on line 1 too; leave one out."),
        (b"model: x\n\tframes: 1", ":2: is not valid YAML: found character '\\t' that cannot start any token."),
        (b"model: !!python/name:os.system x", ":1: is not valid YAML: could not determine a constructor for the tag"),
        (b"model: 2024-02-31", ": is not valid YAML: day is out of range for month."),
        (b"model: \xff", ": is not valid YAML, which is UTF-8 (invalid start byte)."),
        (b"model: \x07", ": is not valid YAML: unacceptable character #x0007"),
        (b"- a\n- b", ": holds a list; must be 'key: value' lines."),
        (b"word", ": holds a str; must be 'key: value' lines."),
        (b"[" * 3000, ": is not valid YAML: maximum recursion depth exceeded"),
        (b"a: " + b"x" * files.MAX_BYTES, ": is larger than 1000000 bytes; must be a YAML file of settings."),
        (b"a: &a [*a]", ":1: a: unknown key; known: description, "),
        (b"1: x", ":1: 1: unknown key; known: description, "),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_file_of_settings(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        files.load(path, Preset)
    assert str(caught.value).startswith(f"{path}{sentence}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yaml: cannot be read \(No such file or directory\)\."):
        files.load(tmp_path / "gone.yaml", Preset)
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)\."):
        files.load(tmp_path, Preset)


def test_a_byte_order_mark_and_an_empty_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: x\nmax_fps: 1e-1\nframes: 8.0\n", encoding="utf-8-sig")
    preset = files.load(path, Preset)
    assert (preset.max_fps, preset.frames, type(preset.frames)) == (0.1, 8, int)
    path.write_text("")
    assert files.read(path).values == {}


class Inner(Model):
    sizes: Annotated[list[int], Field(min_length=2, max_length=2)]


class Outer(Model):
    inner: Inner


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("inner:\n  sizes:\n  - 1\n  - x", ':4: inner.sizes.1 "x": must be a whole number.'),
        ("inner:\n  sizes: [1]", ":2: inner.sizes [1]: must be a list of 2, each item a whole number."),
        ("inner:\n  sizes: [1, 2]\n  size: 1", ":3: inner.size: unknown key; did you mean 'sizes'?"),
        ("\n\ninner: {}", ":3: inner.sizes: is missing; must be a list of 2, each item a whole number."),
        ("inner: null", ":1: inner null: must be 'key: value' lines."),
        ("inner: &a\n  <<: {sizes: [x, 1]}\n  sizes: [true, 1]", ":3: inner.sizes.0 true: must be a whole number."),
    ],
)
def test_the_line_is_the_keys_own(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        files.load(path, Outer)
    assert str(caught.value) == f"{path}{sentence}"


@pytest.mark.parametrize("key", ["model", "frames", "dtype", "scorer"])
def test_a_value_that_stands_for_billions_or_for_itself_is_shown_in_short(tmp_path, key):
    path = tmp_path / "mine.yaml"
    laughs = "".join(f"l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 10)}]\n" for i in range(11))
    path.write_text(f"{key}: &l0 [x]\n{laughs}")
    with pytest.raises(InputError, match="l1: unknown key"):
        files.load(path, Preset)
    nested = "[x]"
    for _ in range(12):
        nested = f"[&a{_} {nested}, {', '.join([f'*a{_}'] * 9)}]"
    for text in (nested, "&a [*a]"):
        path.write_text(f"{key}: {text}")
        with pytest.raises(InputError) as caught:
            files.load(path, Preset)
        assert len(str(caught.value)) < len(str(path)) + 160


def test_a_long_value_is_cut(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"model: x\nframes: {'y' * 500}")
    with pytest.raises(InputError) as caught:
        files.load(path, Preset)
    assert len(str(caught.value)) < len(str(path)) + 120


def test_override_ignores_none_and_names_the_flag():
    preset = Preset(model="x", frames=8)
    assert preset.override(frames=None) == preset
    assert preset.override(frames=2).frames == 2
    with pytest.raises(InputError, match=r"^--max-new-tokens 0: must be at least 1\.$"):
        preset.override(max_new_tokens=0)


def test_pydantic_and_yaml_are_loaded_where_a_file_is_read():
    program = (
        "import sys, stts_cli, stts_cli.cli\n"
        "assert not {'pydantic', 'yaml', 'torch', 'numpy', 'stts_cli.config.files'} & set(sys.modules)\n"
        "sys.argv = ['stts', 'finetune', '--help']\n"
        "try: stts_cli.cli.main()\n"
        "except SystemExit: pass\n"
        "assert not {'yaml', 'torch', 'numpy', 'stts_cli.config.files'} & set(sys.modules), 'Typer may take pydantic'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
