"""Checkpoints: the released format, the project's own, and broken ones."""

import json
import shutil

import pytest
import torch

from stts_cli.engine.model import VideoModel
from stts_cli.errors import InputError
from stts_cli.families import REFUSED, load_family
from stts_cli.settings import Arm, Pruning


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def test_released_checkpoint(released):
    from safetensors import safe_open

    with safe_open(released / "model.safetensors", "pt") as file:
        names = set(file.keys())
        stored = file.get_tensor("model.vision_backbone.image_vit.transformer.resblocks.6.feed_forward.w1.weight")
    assert "model.transformer.blocks.1.self_attn.att_proj.weight" in names  # the released names, not transformers'
    family = load_family(str(released))
    tower = family.model.model.vision_tower
    assert torch.equal(tower.layers[6].mlp.fc1.weight, stored)
    assert len(tower.layers) == 7  # of the nine declared
    assert family.model.config.adapter_config.vision_feature_layer == [6, 4]
    assert family.model_name == "Molmo2-tiny"
    assert family.frame_size == (10, 10)
    assert family.layout.window == (2, 2)
    assert family.frames.std == (0.5, 0.5, 0.25)
    assert family.eos_token_ids == [family.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert family.scorer is None
    assert family.settings == Pruning()
    assert not family.is_demonstration
    assert not family.model.training


def test_released_checkpoint_answers(released):
    family = load_family(released)
    frames = torch.randint(0, 256, (4, 10, 10, 3), dtype=torch.uint8)
    with torch.inference_mode():
        encoded = family.encode(
            family.preprocess(frames), family.settings.override(keep_ratio=0.5, scorer="temporal", prune_layer=2)
        )
    assert len(encoded.visual_tokens) == int(encoded.keep_mask.sum()) == 18
    with pytest.raises(InputError, match="no trained scorer"):
        family.encode(family.preprocess(frames), family.settings.override(keep_ratio=0.5, scorer="learned"))


def test_own_checkpoint(trained):
    from safetensors.torch import load_file

    family = load_family(trained, dtype=torch.bfloat16)
    assert family.settings == Pruning(prune_layer=2, scorer="learned")
    assert family.is_demonstration
    assert family.model.dtype == torch.bfloat16
    stored = load_file(trained / "scorer.safetensors")
    for name, value in family.scorer.state_dict().items():
        assert torch.equal(value, stored[name].to(torch.bfloat16))
    frames = torch.randint(0, 256, (4, 10, 10, 3), dtype=torch.uint8)
    with torch.inference_mode():
        encoded = family.encode(family.preprocess(frames), family.settings.override(keep_ratio=0.5, scorer="learned"))
    assert encoded.visual_tokens.dtype == torch.bfloat16
    assert encoded.scores.dtype == torch.float32


def test_a_scorer_of_the_old_input_order_is_put_into_todays(trained, copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "scorer.safetensors")
    first = weights["mlp.fc1.weight"]
    weights["mlp.fc1.weight"] = torch.cat([first[:, 16:], first[:, :16]], 1)
    save_file(weights, copy / "scorer.safetensors")
    document = json.loads((copy / "stts.json").read_text())
    (copy / "stts.json").write_text(json.dumps(document | {"format": 1}))
    family = load_family(copy)
    assert torch.equal(family.scorer.mlp.fc1.weight, first)
    swapped = "its scorer reads the current frame first; the halves of its first layer were exchanged on loading"
    assert family.notes == [f"{copy}/stts.json: format 1; {swapped}"]
    assert VideoModel(family, Arm("a", "", scorer="random")).notes == family.notes
    family = load_family(trained)
    assert torch.equal(family.scorer.mlp.fc1.weight, first)
    assert family.notes == []


def test_a_checkpoint_of_format_1_without_a_learned_scorer_loads(copy):
    document = json.loads((copy / "stts.json").read_text()) | {"format": 1, "scorer": "tome"}
    (copy / "stts.json").write_text(json.dumps(document))
    family = load_family(copy)
    assert (family.scorer, family.settings.scorer, family.notes) == (None, "tome", [])


def test_not_a_model(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        load_family(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is no folder"):
        load_family("./nowhere")
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_family(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "molmo"}')
    with pytest.raises(InputError, match=r"of type molmo: no family .*did you mean 'molmo2'"):
        load_family(tmp_path)


def test_pickled_weights_are_refused(copy):
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no \.safetensors weights"):
        load_family(copy)
    # the scorer's file does not count as the model's
    (copy / "scorer.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no \.safetensors weights"):
        load_family(copy)


def test_missing_weights_are_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["model.vision_backbone.image_projector.w1.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weights"):
        load_family(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "scorer.safetensors"])
def test_weights_cut_short_are_refused(copy, name):
    (copy / name).write_bytes((copy / name).read_bytes()[:-50])
    with pytest.raises(InputError, match=r"incomplete metadata.*Restore the file"):
        load_family(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9"),
        ({"scorer_file": "none.safetensors"}, "is missing"),
        ({"scorer_file": "stts.json"}, r"stts.json: scorer_file 'stts.json'; must be a .saf"),
        ({"scorer_file": "../x/scorer.safetensors"}, "of the checkpoint's own folder"),
        ({"scorer_file": "/tmp/scorer.safetensors"}, "of the checkpoint's own folder"),
        ({"scorer_file": 3}, "scorer_file 3; must be"),
    ],
)
def test_bad_settings(copy, change, message):
    document = json.loads((copy / "stts.json").read_text()) | change
    (copy / "stts.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        load_family(copy)


def test_settings_that_are_no_json(copy):
    (copy / "stts.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_family(copy)


def test_scorer_of_another_model(copy):
    from safetensors.torch import save_file

    from stts_cli.pruning import TokenScorer

    save_file(TokenScorer(8, 2, 8).state_dict(), copy / "scorer.safetensors")
    with pytest.raises(InputError, match="does not fit"):
        load_family(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 0}, "resample 0; must be"),
        ({"size": {"height": 11, "width": 10}}, "must divide into patches"),
        ({"size": {"height": 20, "width": 20}}, "10x10 patches, the model has 25"),
    ],
)
def test_processor_settings_that_cannot_be_honoured(copy, change, message):
    path = copy / "video_preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_family(copy)


def test_processor_settings_inside_processor_config(copy):
    (copy / "video_preprocessor_config.json").rename(copy / "gone.json")
    settings = {"video_processor": {"pooling_size": [2, 2], "image_mean": [0.2, 0.2, 0.2]}}
    (copy / "processor_config.json").write_text(json.dumps(settings))
    family = load_family(copy)
    assert family.layout.window == (2, 2)
    assert family.frames.mean == (0.2, 0.2, 0.2)
    assert family.layout.grid == (5, 5)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_type_that_cannot_be_handled_is_refused_with_the_reason(tmp_path, kind):
    """Before any file but config.json is read, so that no code of the checkpoint's runs."""
    code = {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": code}))
    (tmp_path / "modeling.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(InputError) as refused:
        load_family(tmp_path)
    assert str(refused.value) == f"model {tmp_path} of type {kind}: {REFUSED[kind]}"


def test_the_part_of_processor_config_counts_more_than_the_video_processors_own_file(tmp_path):
    """As in transformers' `get_video_processor_dict`."""
    from stts_cli.families.frames import read_video_settings

    (tmp_path / "video_preprocessor_config.json").write_text('{"patch_size": 2, "resample": 3}')
    (tmp_path / "processor_config.json").write_text('{"video_processor": {"patch_size": 4}}')
    (tmp_path / "preprocessor_config.json").write_text('{"patch_size": 8, "image_std": [1, 1, 1]}')
    found = read_video_settings(lambda name: tmp_path / name)
    assert found == {"patch_size": 4, "resample": 3, "image_std": [1, 1, 1]}
