"""A checkpoint with any file damaged in any way is one sentence that names the file, and exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil

import pytest

from stts_cli import cli, families
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.families import broken, load_family
from stts_cli.families.random_model import read_architecture
from stts_cli.families.settings import read_settings
from stts_cli.settings import Pruning

DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "a list": lambda data: b"[1, 2]",
    "empty": lambda data: b"",
    "garbage": lambda data: bytes(range(128, 256)) * 20,
    "null": lambda data: b"null",
    "deep": lambda data: b"[" * 100_000,
}
VALUES = {
    "NaN": lambda value: float("nan"),
    "texts": lambda value: "x",
    "lists": lambda value: [],
    "negative": lambda value: -1 if type(value) in (int, float) else value,
}
# what stays loadable: a value that may be anything, or is not read
HARMLESS = {
    ("tokenizer.json", "negative"),
    ("tokenizer_config.json", "negative"),
    ("generation_config.json", "negative"),
}
JSON = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "video_preprocessor_config.json"
)  # fmt: skip


def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    "damage", ["truncated", "a list", *(pytest.param(name, marks=pytest.mark.slow) for name in (*DAMAGES,)[2:])]
)
@pytest.mark.parametrize(
    "name", [*JSON, "processor_config.json", "stts.json", "model.safetensors", "scorer.safetensors"]
)
def test_a_damaged_file_is_named(tiny_checkpoint, tmp_path, name, damage):
    path = copy(tiny_checkpoint, tmp_path) / name
    path.write_bytes(DAMAGES[damage](path.read_bytes() if path.exists() else b'{"a": 1}'))
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
        load_family(path.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", JSON)
def test_values_of_the_wrong_kind_are_refused(tiny_checkpoint, tmp_path, name, values):
    path = copy(tiny_checkpoint, tmp_path) / name
    document = json.loads(path.read_text())
    kept = {key: document[key] for key in ("model_type",) if key in document}
    path.write_text(json.dumps({key: VALUES[values](value) for key, value in document.items()} | kept))
    if (name, values) in HARMLESS:
        load_family(path.parent)
    else:
        with pytest.raises(InputError, match=r"\.json"):
            load_family(path.parent)


@pytest.mark.parametrize("value", ["x", None, [], float("nan"), -1, {}, 1.5, "1"])
@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Pruning) if field.name != "seed"])
def test_a_setting_of_the_wrong_kind_is_refused_by_name(tmp_path, key, value):
    path = tmp_path / "stts.json"
    path.write_text(json.dumps({"format": 2, key: value}))
    with pytest.raises(InputError, match=rf"stts\.json: {key} .*; must be "):
        read_settings(path)


@pytest.mark.parametrize("change", [{"prune_layer": 10**9}, {"scorer_file": 3}, {"scorer_file": "gone.safetensors"}])
def test_a_setting_that_does_not_fit_the_model_is_exit_2(tiny_checkpoint, tmp_path, change, clip_file, capsys):
    path = copy(tiny_checkpoint, tmp_path) / "stts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SystemExit) as end:
        cli.main(["ask", str(clip_file), "What?", "--model", str(path.parent), "--frames", "2", "--max-new-tokens=1"])
    assert end.value.code == 2, capsys.readouterr().err


def test_a_profile_of_a_broken_config_is_refused_too(tiny_checkpoint, tmp_path):
    path = copy(tiny_checkpoint, tmp_path) / "config.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        read_architecture(str(path.parent))


def test_the_file_of_a_base_model_is_named(tiny_checkpoint, tmp_path):
    base = copy(tiny_checkpoint, tmp_path)
    (base / "tokenizer.json").write_text("{}")
    top = tmp_path / "top"
    top.mkdir()
    (top / "stts.json").write_text(
        json.dumps({"format": 1, "family": "molmo2", "train": "scorer", "base_model": str(base)})
    )
    with pytest.raises(InputError, match=r"tokenizer\.json or tokenizer_config\.json cannot be loaded \(KeyError"):
        load_family(top)
    (base / "config.json").write_text("")
    with pytest.raises(InputError, match=r"copy/config\.json: cannot be read"):
        load_family(top)


def test_a_hub_that_cannot_be_reached_is_the_environments_fault(monkeypatch):
    def fail(*_, **__):
        raise OSError("We could not connect.\nSecond line.")

    monkeypatch.setattr(families, "base_chain", fail)
    with pytest.raises(
        EnvironmentFailure, match=r"--model owner/name: cannot be loaded \(We could not connect\. Second"
    ):
        load_family("owner/name")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_missing_memory_is_no_broken_file(tiny_checkpoint, monkeypatch, error):
    import transformers

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", fail)
    with pytest.raises(type(error)):
        load_family(tiny_checkpoint)


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_never_runs_and_nobody_is_asked(tiny_checkpoint, tmp_path, monkeypatch, where):
    folder = copy(tiny_checkpoint, tmp_path)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    document = json.loads((folder / where).read_text())
    own = {"auto_map": {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    own |= {"model_type": "evil"} if where == "config.json" else {"tokenizer_class": "Evil"}
    (folder / where).write_text(json.dumps(document | own))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run the checkpoint's code"))
    for load in (load_family, lambda path: read_architecture(str(path)), broken._stumbled_over):
        with contextlib.suppress(InputError):
            load(folder)
    assert not (tmp_path / "ran").exists()
