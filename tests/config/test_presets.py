from __future__ import annotations

from pathlib import Path

import pytest

from stts_cli.config import presets
from stts_cli.config.presets import Preset
from stts_cli.errors import InputError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", presets.preset_names())
def test_every_preset_that_ships_loads(name):
    assert presets.load_preset(name).model


def test_the_presets_that_are_promised_ship():
    assert {"nano", "molmo2-4b", "molmo2-8b"} <= set(presets.preset_names())
    assert presets.load_preset("molmo2-4b").model == "allenai/Molmo2-4B"


def test_nano_is_a_folder_beside_its_preset():
    assert Path(presets.load_preset("nano").model) == (presets.presets_folder() / "nano").resolve()


def test_a_file_of_ones_own_fills_in_defaults(tmp_path):
    path = write(tmp_path / "mine.yaml", "model: ../models/x\nframes: 3\nmax_fps: 1\nkeep_ratio: null\n")
    preset = presets.load_preset(path)
    assert preset == Preset(model=str(tmp_path.parent / "models" / "x"), frames=3, max_fps=1.0)
    assert isinstance(preset.max_fps, float)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: x\nframse: 3", ":2: framse: unknown key; did you mean 'frames'?"),
        ("modle: x", ":1: modle: unknown key; did you mean 'model'?"),
        ("frames: 3", ": model: is missing; must be text."),
        ("", ": model: is missing; must be text."),
        ("model: 3", ":1: model 3: must be text."),
        ("model: x\nframes: many", ':2: frames "many": must be a whole number, at least 1.'),
        ("model: x\nframes: true", ":2: frames true: must be a whole number, at least 1."),
        ("model: x\nframes: 2.5", ":2: frames 2.5: must be a whole number, at least 1."),
        ("model: x\nframes: 0", ":2: frames 0: must be at least 1."),
        ("model: x\n\nmax_fps: 0", ":3: max_fps 0: must be greater than 0."),
        ("model: x\nkeep_ratio: 1.5", ":2: keep_ratio 1.5: must be greater than 0 and at most 1."),
        ("model: x\nkeep_ratio: 0", ":2: keep_ratio 0: must be greater than 0 and at most 1."),
        ("model: x\nkeep_ratio: .nan", ":2: keep_ratio NaN: must be greater than 0 and at most 1."),
        ("model: x\nkeep_ratio: '0.5'", ':2: keep_ratio "0.5": must be a number, greater than 0 and at most 1.'),
        ("model: x\nprune_layer: -1", ":2: prune_layer -1: must be a whole number, at least 0, or last."),
        ("model: x\nmax_new_tokens: 0", ":2: max_new_tokens 0: must be at least 1."),
        ("model: x\ndtype: fp16", ":2: dtype fp16: must be auto, float32, bfloat16 or float16."),
        (
            "model: x\nscorer: lerned",
            ":2: scorer lerned: must be auto, learned, temporal, reference, random, tome, none or module:function; did "
            "you mean 'learned'?",
        ),
    ],
)
def test_a_bad_file_gives_one_line_that_names_it(tmp_path, text, words):
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(InputError) as caught:
        presets.load_preset(path)
    assert str(caught.value) == f"{path}{words}"


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="preset nanno: unknown; did you mean 'nano'"):
        presets.load_preset("nanno")
    with pytest.raises(InputError, match=r"preset ./nowhere.yaml: no such file; must be a file or one of gemma-4-e2b"):
        presets.load_preset("./nowhere.yaml")


def test_who_decides_flag_then_model_then_environment_then_config(tmp_path, monkeypatch):
    mine = write(tmp_path / "mine.yaml", "model: from-environment")
    write(tmp_path / "config" / "stts" / "other.yaml", "model: from-config")
    write(tmp_path / "config" / "stts" / "config.yaml", "preset: ./other.yaml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("STTS_PRESET", raising=False)
    assert presets.choose_preset().model == "from-config"
    monkeypatch.setenv("STTS_PRESET", str(mine))
    assert presets.choose_preset().model == "from-environment"
    assert presets.choose_preset(model="mine/own") == Preset(model="mine/own")
    assert presets.choose_preset("molmo2-8b").model == "allenai/Molmo2-8B"
    both = presets.choose_preset("molmo2-8b", model="mine/own")
    assert (both.model, both.frames) == ("mine/own", presets.load_preset("molmo2-8b").frames)


def test_the_config_file_is_in_the_home_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.delenv("STTS_PRESET", raising=False)
    assert presets.choose_preset() == presets.load_preset("nano"), "without any of them it is nano"
    write(tmp_path / ".config" / "stts" / "config.yaml", "preset: molmo2-8b")
    assert presets.choose_preset() == presets.load_preset("molmo2-8b")


def test_a_wrong_source_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("STTS_PRESET", "zzz")
    with pytest.raises(InputError, match="STTS_PRESET: preset zzz: unknown; known: "):
        presets.choose_preset()
    monkeypatch.delenv("STTS_PRESET")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    write(tmp_path / "stts" / "config.yaml", "presett: nano")
    with pytest.raises(InputError, match="1: presett: unknown key; did you mean 'preset'"):
        presets.choose_preset()


def test_override_ignores_none_and_checks_values():
    preset = Preset(model="x", frames=8)
    assert preset.override(frames=None) == preset
    assert preset.override(frames=2).frames == 2
    with pytest.raises(InputError, match=r"^--keep-ratio 2\.0: must be greater than 0 and at most 1\.$"):
        preset.override(keep_ratio=2.0)
