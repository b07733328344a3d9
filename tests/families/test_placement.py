"""--device-map: a model that is spread over devices answers as one that is not."""

import json

import pytest
import torch

from stts_cli import cli, load
from stts_cli.engine.token_cache import weights_hash
from stts_cli.errors import InputError
from stts_cli.families import load_family
from tests.families.registry import EVERY, TINY
from tests.families.test_quantize import with_lora


def device_map(family, **elsewhere):
    """Name every module of a model that a device map has to name: the layers of its language model one by one.

    `elsewhere` are places of layers by their number, as "layer_1"; everything else is on the CPU.
    """
    layers = family.model.get_decoder().layers
    found = {}

    def walk(module, name):
        if not any(each is layers for each in module.modules()):
            found[name] = "cpu"
            return
        for own, _ in module.named_parameters(recurse=False):
            found[f"{name}.{own}".lstrip(".")] = "cpu"
        for own, child in module.named_children():
            walk(child, f"{name}.{own}".lstrip("."))
        if module is layers:
            found.update({f"{name}.{k}": elsewhere.get(f"layer_{k}", "cpu") for k in range(len(layers))})
            found.pop(name, None)

    walk(family.model, "")
    return found


@pytest.mark.parametrize("name", EVERY)
def test_layers_on_the_disk_answer_as_those_in_memory(name, tmp_path, clip_file):
    folder = TINY[name].save(tmp_path / "tiny", scorer=True)
    path = tmp_path / "map.json"
    path.write_text(json.dumps(device_map(load_family(folder), layer_0="disk", layer_1="disk")))
    whole = load(str(folder), device="cpu", frames=4, max_new_tokens=6)
    spread = load(str(folder), frames=4, max_new_tokens=6, device_map=str(path))
    layers = spread.family.model.get_decoder().layers
    assert all(weight.is_meta for weight in layers[1].parameters())
    assert not any(weight.is_meta for block in spread.family.blocks for weight in block.parameters())
    assert spread.device == torch.device("cpu")
    for questions in ({}, {"options": ["red", "blue"]}):
        ours, theirs = (
            [model.ask(video, question, **questions) for question in ("Why?", "What color is it?")]
            for model in (spread, whole)
            for video in [model.encode(clip_file)]
        )
        assert [each.text for each in ours] == [each.text for each in theirs]
        assert [each.options for each in ours] == [each.options for each in theirs]
    assert weights_hash(spread.family) != weights_hash(whole.family)


def test_auto_leaves_a_small_model_whole(tmp_path, clip_file, capsys):
    folder = TINY["qwen3_vl"].save(tmp_path / "tiny")
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["ask", str(clip_file), "?", "--model", str(folder), "--frames", "2", "--device-map", "auto", "--json"]
        )
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["arms"][0]["device_map"] == "auto"
    assert document["device"] == "cpu"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "must be auto, or a YAML or JSON file that can be read."),
        ("a: [", "must be auto, or a YAML or JSON file that can be read."),
        ("[]", "must name a device for each module, such as model.visual: 0 and lm_head: cpu."),
        ("lm_head: 1.5", "must name a device for each module, such as model.visual: 0 and lm_head: cpu."),
    ],
)
def test_a_file_that_says_nothing_is_one_line(content, line, tmp_path):
    folder, path = TINY["qwen3_vl"].save(tmp_path / "tiny"), tmp_path / "map.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        load(str(folder), device_map=str(path))
    assert str(caught.value) == f"--device-map {path}: {line}"


def test_what_cannot_be_is_refused(tmp_path):
    folder, path = TINY["qwen3_vl"].save(tmp_path / "tiny"), tmp_path / "map.json"
    named = device_map(load_family(folder), layer_0="disk")
    path.write_text(json.dumps({**named, "model.visual": "disk"}))
    with pytest.raises(
        InputError, match=r"puts the vision encoder and the connector on elsewhere; both must be on one"
    ):
        load(str(folder), device_map=str(path))
    path.write_text(json.dumps({**named, "model.visaul": "cpu"}))
    with pytest.raises(InputError, match=r"model.visaul: is no module of the model; did you mean 'model.visual'\?$"):
        load(str(folder), device_map=str(path))
    path.write_text(json.dumps({**named, "lm_head": 7}))
    with pytest.raises(InputError, match=r"names the device 7; here are cpu, disk and 0 CUDA devices, counted from 0"):
        load(str(folder), device_map=str(path))
    path.write_text(json.dumps(named))
    with pytest.raises(
        InputError, match=r"^--device cpu: cannot go with --device-map, which says where the weights go"
    ):
        load(str(folder), device="cpu", device_map=str(path))
    with pytest.raises(InputError, match=r"cannot be put into weights that are not loaded"):
        load(str(with_lora(tmp_path / "lora", folder)), device_map=str(path))
