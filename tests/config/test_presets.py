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
        ("model: x\nframse: 3", "unknown key 'framse'; did you mean 'frames'"),
        ("frames: 3", "'model' is missing"),
        ("model: x\nframes: many", "frames is 'many'"),
        ("model: x\nframes: true", "frames is True"),
        ("model: x\nframes: 0", "frames is 0"),
        ("model: x\nkeep_ratio: 1.5", "keep_ratio is 1.5"),
        ("model: x\nkeep_ratio: 0", "keep_ratio is 0"),
        ("model: x\nscorer: magic", "scorer is magic"),
        ("model: x\nmodel_dtype: y", "unknown key"),
        ("model: [", "not valid YAML"),
        ("- a\n- b", "holds a list"),
        ("", "'model' is missing"),
    ],
)
def test_a_bad_file_gives_one_line_that_names_it(tmp_path, text, words):
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(InputError) as caught:
        presets.load_preset(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_told_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'nano'"):
        presets.load_preset("nanno")
    with pytest.raises(InputError, match="does not exist"):
        presets.load_preset("./nowhere.yaml")


def test_who_decides_flag_then_model_then_environment_then_config(tmp_path):
    mine = write(tmp_path / "mine.yaml", "model: from-environment")
    write(tmp_path / "config" / "stts" / "other.yaml", "model: from-config")
    write(tmp_path / "config" / "stts" / "config.yaml", "preset: ./other.yaml")
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert presets.choose_preset(environment=environment).model == "from-config"
    environment["STTS_PRESET"] = str(mine)
    assert presets.choose_preset(environment=environment).model == "from-environment"
    assert presets.choose_preset(model="by-hand", environment=environment) == Preset(model="by-hand")
    assert presets.choose_preset("molmo2-8b", environment=environment).model == "allenai/Molmo2-8B"
    both = presets.choose_preset("molmo2-8b", model="by-hand", environment=environment)
    assert (both.model, both.frames) == ("by-hand", presets.load_preset("molmo2-8b").frames)


def test_without_any_of_them_it_is_nano():
    assert presets.choose_preset(environment={"XDG_CONFIG_HOME": "/nonexistent"}) == presets.load_preset("nano")


def test_a_wrong_source_is_named(tmp_path):
    with pytest.raises(InputError, match="STTS_PRESET: unknown preset"):
        presets.choose_preset(environment={"STTS_PRESET": "zzz"})
    write(tmp_path / "stts" / "config.yaml", "presett: nano")
    with pytest.raises(InputError, match="unknown key 'presett'"):
        presets.choose_preset(environment={"XDG_CONFIG_HOME": str(tmp_path)})


def test_override_ignores_none_and_checks_values():
    preset = Preset(model="x", frames=8)
    assert preset.override(frames=None) == preset
    assert preset.override(frames=2).frames == 2
    with pytest.raises(InputError, match="keep_ratio is 2"):
        preset.override(keep_ratio=2.0)


def test_a_suite_is_read_and_checked(tmp_path):
    for path in (presets.presets_folder() / "suites").glob("*.yaml"):
        suite = presets.load_suite(path.stem)
        assert suite["bench"].startswith("shapes") or suite["bench"] == "all"
        assert len(suite["compare"]) == len(set(suite["compare"])) > 1
    mine = tmp_path / "mine.yaml"
    mine.write_text("bench: tomato\nframes: 8\nkeep_ratio: 1\ncompare: [random, runs/mine@0.5]\n")
    assert presets.load_suite(str(mine)) == {
        "bench": "tomato",
        "frames": 8,
        "keep_ratio": 1.0,
        "compare": ["random", "runs/mine@0.5"],
    }
    for text, sentence in {
        "benc: x": "unknown key 'benc'; did you mean 'bench'",
        "paper: [1]": r"paper: \[1\]; must be names of arms",
        "paper: {dense: x}": "paper.dense is 'x'",
        "paper: {dense: 101}": "paper.dense: 101; must be a percentage",
        "frames: many": "frames is 'many'",
        "compare: random": "a list of texts",
        "compare: [0.5]": "a list of texts",
    }.items():
        mine.write_text(text)
        with pytest.raises(InputError, match=sentence):
            presets.load_suite(str(mine))
    with pytest.raises(InputError, match="unknown suite 'papr'; did you mean 'paper'"):
        presets.load_suite("papr")
    with pytest.raises(InputError, match="does not exist -> give a file or one of"):
        presets.load_suite("gone.yaml")
