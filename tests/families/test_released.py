"""Weights that the paper's authors released: a scorer beside the model, settings in the training code's words."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.families.random_model import read_architecture
from stts_cli.families.released import frame_tokens, released_settings
from stts_cli.settings import BIAS_FLOOR, Pruning

PREFIX = "model.vision_backbone.image_vit.transformer.temporal_token_scorer."
VIT = {"prune_at": 2, "topk": 0.3, "prune_method": "scorer", "prune_from_frame": 1, "rescale_bias_min": 0.25}
REFERENCE = {"pool.q_proj": "patch_token_pooler.wq", "pool.k_proj": "patch_token_pooler.wk",
             "pool.v_proj": "patch_token_pooler.wv", "pool.o_proj": "patch_token_pooler.wo",
             "mlp.fc1": "mlp.w1", "mlp.fc2": "mlp.w2", "mlp.fc3": "mlp.w3"}  # fmt: skip


def reference_state(own, prefix=PREFIX):
    """A scorer's weights by the reference's names."""
    names = {name: name.rsplit(".", 1) for name in own}
    return {f"{prefix}{REFERENCE[module]}.{kind}": own[name].clone() for name, (module, kind) in names.items()}


@pytest.fixture
def lite(trained, tmp_path):
    """A released folder: the trained checkpoint with its scorer beside the model, and no stts.json."""
    folder = shutil.copytree(trained, tmp_path / "Lite")
    weights = load_file(folder / "model.safetensors") | reference_state(load_file(folder / "scorer.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "scorer.safetensors").unlink()
    (folder / "stts.json").unlink()
    change_config(folder, vit_config=VIT)
    (folder / "processor_config.json").write_text(json.dumps({"use_frame_special_tokens": True}))
    return folder


def change_config(folder, **parts):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, values in parts.items():
        config[name] = {**config.get(name, {}), **values}
    path.write_text(json.dumps(config))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def encode(family):
    frames = torch.randint(0, 256, (6, 10, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return family.encode(
            family.preprocess(frames), family.settings.override(keep_ratio=0.5, scorer="learned", prune_layer=2)
        )


def test_the_scorer_beside_the_model(lite, trained):
    family = load_family(lite)
    assert family.settings == Pruning(
        prune_layer=2, keep_ratio=0.7, bias_floor=0.25, prune_from_frame=1, refill_lone_frames=True, scorer="learned"
    )
    own = load_file(trained / "scorer.safetensors")
    assert {name: value.tolist() for name, value in family.scorer.state_dict().items()} == {
        name: value.tolist() for name, value in own.items()
    }
    assert torch.equal(encode(family).scores, encode(load_family(trained)).scores)
    assert family.notes[1:] == [  # the hub's config.json has it, its processor decides
        "config.json: use_frame_special_tokens is False where processor_config.json says True: the second is used"
    ]
    assert "from config.json: prune_layer 2, keep_ratio 0.7, scorer learned, prune_from_frame 1" in family.notes[0]
    assert "lone frames refilled" in family.notes[0]
    architecture = read_architecture(str(lite))
    assert (architecture.scorer, architecture.prune_layer, architecture.keep_ratio) == ("learned", 2, 0.7)


def test_what_is_trained_upon_it_keeps_its_settings(lite, tmp_path):
    from stts_cli.training.results import write_checkpoint

    family = load_family(lite)
    with torch.no_grad():
        family.scorer.mlp.fc3.bias += 1
    write_checkpoint(tmp_path / "mine", family, train="scorer", base_model=str(lite), training={})
    mine = load_family(tmp_path / "mine")
    assert mine.settings == family.settings
    assert torch.equal(encode(mine).scores, encode(family).scores)
    assert not torch.equal(encode(mine).scores, encode(load_family(lite)).scores)


def test_its_own_format_and_the_hubs_load_alike(lite, tmp_path):
    """Transformers' own names of the model's weights, and the scorer in a file that no index names."""
    family = load_family(lite)
    other = shutil.copytree(lite, tmp_path / "own")
    (other / "model.safetensors").unlink()
    family.model.save_pretrained(other, save_original_format=False)
    assert "model.language_model.norm.weight" in load_file(other / "model.safetensors")
    shutil.copy(lite / "config.json", other)
    scorer = {k: v for k, v in load_file(lite / "model.safetensors").items() if "temporal_token_scorer" in k}
    save_file(scorer, other / "extra.safetensors")
    again = load_family(other)
    assert again.settings == family.settings
    assert torch.equal(encode(again).visual_tokens, encode(family).visual_tokens)


def test_sharded_with_an_index(lite):
    weights = load_file(lite / "model.safetensors")
    parts = {"model-1.safetensors": {}, "model-2.safetensors": {}}
    for i, (name, value) in enumerate(weights.items()):
        parts[f"model-{1 + i % 2}.safetensors"][name] = value
    (lite / "model.safetensors").unlink()
    for file, some in parts.items():
        save_file(some, lite / file, metadata={"format": "pt"})
    weight_map = {name: file for file, some in parts.items() for name in some}
    (lite / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert encode(load_family(lite)).scorer == "learned"
    (lite / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"index\.json: names model-2\.safetensors, which is not in the folder"):
        load_family(lite)


@pytest.mark.parametrize("file", ["model.bin", "../x/model.safetensors", "/tmp/model.safetensors", "a\\..\\b.bin", 7])
@pytest.mark.parametrize("whole", [True, False])
def test_an_index_that_names_what_must_not_be_opened(lite, file, whole, monkeypatch):
    import transformers

    def opened(*args, **kwargs):
        raise AssertionError("transformers opened it")

    monkeypatch.setattr(transformers.Molmo2ForConditionalGeneration, "from_pretrained", opened)
    if not whole:
        (lite / "model.safetensors").unlink()
    document = {"metadata": {}, "weight_map": {"lm_head.weight": file}}
    (lite / "model.safetensors.index.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"index\.json: weight_map\['lm_head\.weight'\] is .*must be a \.safetensors"):
        load_family(lite)


@pytest.mark.parametrize("content", ["[]", "{", '{"metadata": {}, "weight_map": 3}', '{"weight_map": {}}'])
def test_a_broken_index(lite, content):
    (lite / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match=r"index\.json: must be a JSON object with metadata and a weight_map"):
        load_family(lite)


def test_an_adapter_beside_a_whole_model(lite):
    (lite / "adapter_config.json").write_text('{"base_model_name_or_path": "/somewhere/else"}')
    with pytest.raises(InputError, match=r"holds adapter_config\.json beside a whole model"):
        load_family(lite)


def test_another_file_of_weights_by_name(lite):
    path = lite / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_weights": "x.safetensors.index.json"}))
    with pytest.raises(InputError, match=r"config\.json: transformers_weights; must not be there"):
        load_family(lite)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(f"{PREFIX}mlp.w2.bias"), r"mlp\.w2\.bias is missing"),
        (lambda w: w.update({f"{PREFIX}mlp.w1.weight": torch.zeros(32, 16)}), "is 32x16 where the model needs 32x32"),
        (lambda w: w.update({f"{PREFIX}mlp.w4.weight": torch.zeros(1)}), r"scorer\.mlp\.w4\.weight is not known"),
        (lambda w: w.update({"a.temporal_token_scorer.mlp.w1.bias": torch.zeros(32)}), "are the same weight"),
        (
            lambda w: w.update({PREFIX.replace("temporal_token_scorer", "resblocks.0") + "x": torch.zeros(1)}),
            r"no place for, such as model\.vision_tower\.layers\.0\.x",
        ),
        (lambda w: w.update({"foo.bar": torch.zeros(1)}), r"1 tensors that it has no place for, such as foo\.bar"),
        (
            lambda w: w.update({"model.transformer.ln_f.weight": torch.zeros(5)}),
            r"1 weights do not fit its config, such as model\.language_model\.norm\.weight is 5, not 24",
        ),
    ],
)  # fmt: skip
def test_nothing_is_dropped_in_silence(lite, change, message):
    change_weights(lite, change)
    with pytest.raises(InputError, match=message):
        load_family(lite)


def test_what_is_harmless_is_noted(lite):
    block = "model.vision_backbone.image_vit.transformer.resblocks."

    def deepen(weights):
        for name in [name for name in weights if name.startswith(f"{block}6.")]:
            weights[name.replace(f"{block}6.", f"{block}8.")] = weights[name].clone()

    change_weights(lite, deepen)
    assert "16 tensors of ViT blocks from 7 on are not read by this model" in load_family(lite).notes


def test_a_scorer_that_got_lost(lite):
    def lose(weights):
        for name in [name for name in weights if "temporal_token_scorer" in name]:
            del weights[name]

    change_weights(lite, lose)
    with pytest.raises(
        InputError, match=r"says prune_method: scorer, and none of its files holds a tensor of temporal"
    ):
        load_family(lite)
    change_config(lite, vit_config={"prune": False})
    assert load_family(lite).scorer is None


def test_stts_json_comes_first(lite, trained):
    (lite / "stts.json").write_text(json.dumps({"format": 2, "prune_layer": 1, "scorer": "learned"}))
    family = load_family(lite)
    assert family.scorer is not None
    assert family.settings.prune_layer == 1
    shutil.copy(trained / "scorer.safetensors", lite)
    shutil.copy(trained / "stts.json", lite)
    assert "the one beside the model is not used" in " ".join(load_family(lite).notes)


def test_settings_from_any_depth():
    training = {"model": {"mm_preprocessor": {"topk": 0.9}, "vision_backbone": {"vit": {**VIT, "topk": 0.5}}}}
    settings, notes = released_settings({"config.json": {"topk": 0.8}, "config.yaml": training})
    assert settings == Pruning(2, 0.5, "row", 0.25, 1, True, "learned")
    assert (
        "config.json: topk is 0.8 where config.yaml: model.vision_backbone.vit.topk is 0.5: the second is used" in notes
    )
    assert any(note.startswith("config.yaml: model.mm_preprocessor.topk is 0.9 where") for note in notes)
    settings, notes = released_settings({"config.json": {"vit_config": {"topk": 0.3}}})
    assert settings == Pruning(3, 0.7, "row", BIAS_FLOOR, 0, True, "learned")
    assert notes == [
        "weights of the training code; from config.json: keep_ratio 0.7; the paper's values, which it does not carry: "
        "prune_layer 3, scorer learned, prune_from_frame 0, bias_floor 0.1353; lone frames refilled"
    ]
    assert released_settings({})[0] == Pruning(3, 0.5, "row", BIAS_FLOOR, 0, True, "learned")
    assert released_settings({"c": {"prune_at": 1, "prune_method": "heuristic"}})[0].scorer == "reference"
    settings, notes = released_settings({"c": {"v": {"prune_at": 1, "prune": False, "pruning_in_scorer": False}}})
    assert settings.keep_ratio == 1
    assert notes[1:] == ["c: v: prune is false, so everything is kept",
                         "c: v: trained without dropping (pruning_in_scorer is false)"]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prune_at": -1}, "prune_at: -1; must be a whole number"),
        ({"prune_at": True}, "prune_at: True; must be"),
        ({"topk": 1}, "topk: 1; must be the share that is dropped, at least 0 and less than 1"),
        ({"topk": "0.5"}, "topk: '0.5'; must be"),
        ({"topk": float("nan")}, "topk: nan; must be"),
        ({"prune_method": "topk"}, "prune_method: 'topk'; must be one of scorer, random, heuristic, easy"),
        ({"rescale_bias_min": 0}, "rescale_bias_min: 0; must be greater than 0 and at most 1"),
        ({"prune_from_frame": 0.5}, "prune_from_frame: 0.5; must be"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(InputError, match=f"config.json: vit_config.{message}"):
        released_settings({"config.json": {"vit_config": VIT | change}})


def test_frame_tokens(lite):
    assert frame_tokens({"use_frame_special_tokens": False}, {}) == (False, [])
    chosen, notes = frame_tokens({"use_frame_special_tokens": True}, {"c": {"use_frame_special_tokens": False}})
    assert chosen
    assert notes == ["c: use_frame_special_tokens is False where processor_config.json says True: the second is used"]
    assert frame_tokens({}, {"c": {"a": {"use_frame_special_tokens": False}}}) == (
        False,
        ["frame tokens: False, from c: a.use_frame_special_tokens"],
    )
    assert frame_tokens({}, {})[0]
    (lite / "processor_config.json").unlink()  # config.json says no
    family = load_family(lite)
    ids = family.tokenize("<im_start><frame_start>")
    prompt = family.build_prompt([0.0], "?", torch.ones(1, 9, dtype=torch.bool)).input_ids[0].tolist()
    assert ids[0] in prompt
    assert ids[1] not in prompt
    assert any(note.startswith("frame tokens: False, from config.json") for note in family.notes)


def test_every_command_says_what_it_read(lite, tmp_path, monkeypatch):
    from stts_cli.config import presets
    from stts_cli.cost import estimate
    from stts_cli.evaluation.answers import load_arms
    from stts_cli.settings import Arm
    from stts_cli.training import finetune
    from stts_cli.training.settings import FinetuneSettings
    from tests.engine.asking import ask_one

    said = "weights of the training code; from config.json: prune_layer 2, keep_ratio 0.7"
    analytic = estimate.analytic(architecture=read_architecture(str(lite)), frames=[4], keep_ratios=[])
    assert analytic["notes"][0].startswith(said)
    assert (analytic["points"][0]["scorer"], analytic["points"][0]["keep_ratio"]) == ("learned", 0.7)
    run = ask_one([Arm("lite", str(lite), 4)], presets.demo_video(), ["?"], max_new_tokens=1)
    assert run.notes[0].startswith(said)
    _, notes = load_arms([Arm("lite", str(lite), 4)], "cpu", {})
    assert notes[0].startswith(said)
    pruning = run.arms[0].video.pruning
    assert (pruning.scorer, pruning.keep_ratio, pruning.prune_layer) == ("learned", 0.7, 2)
    events = []

    def stop(*arguments):
        raise StopIteration

    monkeypatch.setattr(finetune, "make_data", stop)
    with pytest.raises(StopIteration):
        finetune.finetune(
            FinetuneSettings(model=str(lite), data="shapes"), tmp_path / "run", device="cpu", report=events.append
        )
    assert next(event for event in events if event["event"] == "note")["text"].startswith(said)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put a folder into the hub's cache as someone/lite; no network."""
    snapshot = tmp_path / "cache" / "models--someone--lite" / "snapshots" / ("a" * 40)
    (snapshot.parent.parent / "refs").mkdir(parents=True)
    (snapshot.parent.parent / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return lambda folder: shutil.copytree(folder, snapshot)


def test_on_the_hub(hub, lite):
    names = load_file(lite / "model.safetensors")
    snapshot = hub(lite)
    family = load_family("someone/lite")
    assert (family.settings.keep_ratio, family.model_name) == (0.7, "someone/lite")
    assert torch.equal(encode(family).scores, encode(load_family(lite)).scores)
    (snapshot / "model.safetensors").rename(snapshot / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_family("someone/lite").settings == family.settings
    (snapshot / "model-1.safetensors").rename(snapshot / "gone.safetensors")
    assert read_architecture("someone/lite").keep_ratio == 0.7  # from the index: weights are not needed for counting
    index["weight_map"]["lm_head.weight"] = "model.bin"
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"weight_map\['lm_head\.weight'\] is 'model\.bin'; must be"):
        load_family("someone/lite")


def test_the_training_codes_format_on_the_hub(hub, tmp_path):
    (tmp_path / "own" / "model_and_optim").mkdir(parents=True)
    for name in ("config.yaml", "model_and_optim/.metadata"):
        (tmp_path / "own" / name).touch()
    hub(tmp_path / "own")
    with pytest.raises(InputError, match=r"Convert it: python -m stts_cli\.families\.convert someone/lite FOLDER"):
        load_family("someone/lite")
