"""From the training code's own format to a Hugging Face folder: the same model, the same scorer."""

import dataclasses
import json
import pickle
import re
import sys
import types
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from safetensors.torch import load_file

from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.families.convert import convert, hub_name, main
from stts_cli.settings import Pruning
from tests.families.test_released import VIT, encode, reference_state

PREFIX = "vision_backbone.image_vit.transformer.temporal_token_scorer."


def training_name(name):
    """The other way round, written apart from the converter: what the training code calls a released weight."""
    if name == "lm_head.weight":
        return "transformer.ff_out.weight"
    return re.sub(r"^model\.|\.self_attn(?=\.)|(?<=\d)\.mlp(?=\.ff)", "", name)


def training_config():
    vit = {**VIT, "image_num_layers": 9, "image_num_heads": 2}
    llm = {"n_heads": 4, "n_kv_heads": 2, "rope_theta": 5000000.0, "norm_after": False, "weight_tying": False}
    vision = {"vit": vit, "vit_layers": [-3, -5]}
    frames = {"topk": 0.3, "use_frame_special_tokens": True}
    return {"model": {"llm": llm, "vision_backbone": vision, "mm_preprocessor": frames}, "seed": 1}


def write(folder, state, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder / "model_and_optim", no_dist=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def state(trained):
    weights = {training_name(name): value for name, value in load_file(trained / "model.safetensors").items()}
    embedding = torch.cat([weights.pop("transformer.wte.embedding"), weights["transformer.wte.new_embedding"]])
    words = len(weights["transformer.ff_out.weight"])
    weights["transformer.wte.embedding"], weights["transformer.wte.new_embedding"] = embedding.split(
        [words, len(embedding) - words]
    )
    weights |= reference_state(load_file(trained / "scorer.safetensors"), PREFIX)
    step = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}
    return {"model": weights, "optim": {"state": {"transformer.ln_f.weight": step}, "param_groups": [{"lr": 0.1}]}}


@pytest.fixture
def source(tmp_path, state):
    return write(tmp_path / "step6250", state, training_config())


def test_the_same_model_and_scorer(source, released, trained, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "out" / "lite"), "--base", str(released)]) == 0
    done = capsys.readouterr()
    assert done.out == f"{tmp_path / 'out' / 'lite'}\n"
    assert "from config.yaml: prune_layer 2, keep_ratio 0.7" in done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lite"]
    family, own = load_family(tmp_path / "out" / "lite"), load_family(trained)
    assert family.settings == Pruning(
        prune_layer=2, keep_ratio=0.7, bias_floor=0.25, prune_from_frame=1, refill_lone_frames=True, scorer="learned"
    )
    assert family.notes == []
    assert json.loads((tmp_path / "out" / "lite" / "config.json").read_text())["use_frame_special_tokens"] is True
    for name, value in own.model.state_dict().items():
        assert torch.equal(family.model.state_dict()[name], value), name
    settings = dataclasses.replace(family.settings)
    own.settings = settings
    mine, theirs = encode(family), encode(own)
    assert torch.equal(mine.scores, theirs.scores)
    assert torch.equal(mine.visual_tokens, theirs.visual_tokens)
    ids = family.build_prompt([0.0], "?", torch.ones(1, 9, dtype=torch.bool)).input_ids[0].tolist()
    assert family.tokenize("<frame_start>")[0] in ids  # the training's way, not the base's


def test_in_groups_and_in_half(source, released, tmp_path):
    out = tmp_path / "lite"
    convert(str(source), out, base=str(released), dtype="bfloat16", group_bytes=20_000)
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    held = [[2 * value.nbytes for value in load_file(path).values()] for path in files]
    assert all(len(sizes) == 1 or sum(sizes) <= 20_000 for sizes in held)
    assert max(map(len, held)) > 1
    assert {value.dtype for path in [*files, out / "scorer.safetensors"] for value in load_file(path).values()} == {
        torch.bfloat16
    }
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for f in files for value in load_file(f).values())
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_family(out).scorer is not None


def test_names():
    names = {
        "transformer.ff_out.weight": "lm_head.weight",
        "transformer.blocks.11.att_proj.weight": "model.transformer.blocks.11.self_attn.att_proj.weight",
        "transformer.blocks.1.attn_out.weight": "model.transformer.blocks.1.self_attn.attn_out.weight",
        "transformer.blocks.1.q_norm.weight": "model.transformer.blocks.1.self_attn.q_norm.weight",
        "transformer.blocks.1.k_norm.weight": "model.transformer.blocks.1.self_attn.k_norm.weight",
        "transformer.blocks.1.ff_proj.weight": "model.transformer.blocks.1.mlp.ff_proj.weight",
        "transformer.blocks.1.ff_out.weight": "model.transformer.blocks.1.mlp.ff_out.weight",
        "transformer.blocks.1.attn_norm.weight": "model.transformer.blocks.1.attn_norm.weight",
        "transformer.wte.embedding": "model.transformer.wte.embedding",
        "vision_backbone.image_vit.transformer.resblocks.2.attention.wq.bias": (
            "model.vision_backbone.image_vit.transformer.resblocks.2.attention.wq.bias"
        ),
    }
    assert {name: hub_name(name) for name in names} == names


def test_a_head_tied_to_the_embedding(state, released, tmp_path):
    config = training_config()
    config["model"]["llm"]["weight_tying"] = True
    del state["model"]["transformer.ff_out.weight"]
    convert(str(write(tmp_path / "tied", state, config)), tmp_path / "lite", base=str(released))
    model = load_family(tmp_path / "lite").model
    assert torch.equal(model.lm_head.weight, state["model"]["transformer.wte.embedding"])


def test_without_a_scorer(state, released, tmp_path):
    config = training_config()
    state["model"] = {name: value for name, value in state["model"].items() if PREFIX not in name}
    with pytest.raises(InputError, match=r"config\.yaml: prune_method is scorer; the weights hold no scorer"):
        convert(str(write(tmp_path / "lost", state, config)), tmp_path / "lite", base=str(released))
    config["model"]["vision_backbone"]["vit"]["prune"] = False
    convert(str(write(tmp_path / "dense", state, config)), tmp_path / "lite", base=str(released))
    assert not (tmp_path / "lite" / "stts.json").exists()
    assert load_family(tmp_path / "lite").scorer is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, c: w.pop("transformer.ln_f.weight"), r"lacks 1 weights, such as model\.language_model\.norm"),
        (lambda w, c: w.update({"transformer.ln_f.weight": torch.zeros(5)}), "norm.weight is 5, not 24"),
        (lambda w, c: w.update({"vision_backbone.pad_embed": torch.zeros(5)}), "no place for, such as .*pad_embed"),
        (lambda w, c: w.pop(f"{PREFIX}mlp.w1.bias"), r"mlp\.w1\.bias is missing"),
        (lambda w, c: c["llm"].update(n_heads=8), r"config\.yaml: llm\.n_heads is 8, 4 in the base"),
        (lambda w, c: c["llm"].update(rope_theta=1e4), r"llm\.rope_theta is 10000\.0, 5000000\.0 in the base"),
        (lambda w, c: c["vision_backbone"].update(vit_layers=[-3, -4]), r"vit_layers is \[6, 5\], \[6, 4\] in the"),
        (lambda w, c: c["vision_backbone"]["vit"].update(topk=2), "vit.topk: 2; must be the share that is dropped"),
    ],
)
def test_what_does_not_fit_is_refused(state, released, tmp_path, change, message):
    config = training_config()
    change(state["model"], config["model"])
    source = write(tmp_path / "step1", state, config)
    with pytest.raises(InputError, match=message):
        convert(str(source), tmp_path / "lite", base=str(released))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step1"]


def test_ask_names_the_command(source, released, tmp_path):
    message = (
        rf"--model {source}: is in the training code's own format .*: python -m stts_cli\.families\.convert {source} "
    )
    with pytest.raises(InputError, match=message):
        load_family(source)
    with pytest.raises(InputError, match=r"its checkpoints are step6250: name one of them"):
        convert(str(source.parent), tmp_path / "lite", base=str(released))
    with pytest.raises(InputError, match=r"holds no config\.yaml"):
        convert(str(released), tmp_path / "lite", base=str(released))
    (source / "model.pt").touch()
    with pytest.raises(InputError, match=r"holds model\.pt, a pickled file"):
        convert(str(source), tmp_path / "lite", base=str(released))


def test_an_existing_folder_is_left_alone(source, released, capsys):
    assert main([str(source), str(released), "--base", str(released)]) == 2
    assert "must be a folder that is not there yet" in capsys.readouterr().err


def rewrite(source, change):
    path = source / "model_and_optim" / ".metadata"
    stored = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(stored)))


def test_metadata_of_the_training_codes_own_writer(source, released, tmp_path, monkeypatch):
    """It pickles a class of its own, which is not there where the training code is not."""
    name = "olmo.train.remote_filesystem"
    for each in ("olmo", "olmo.train", name):
        monkeypatch.setitem(sys.modules, each, types.ModuleType(each))
    fields = [("relative_path", str), ("offset", int), ("length", int)]
    own = dataclasses.make_dataclass("_StorageInfo", fields)
    own.__module__ = name
    sys.modules[name]._StorageInfo = own

    def change(stored):
        places = stored.storage_data
        stored.storage_data = {k: own(v.relative_path, v.offset, v.length) for k, v in places.items()}
        return stored

    rewrite(source, change)
    for each in ("olmo", "olmo.train", name):
        monkeypatch.delitem(sys.modules, each)
    assert convert(str(source), tmp_path / "lite", base=str(released))
    assert load_family(tmp_path / "lite").scorer is not None


class Harm:
    def __reduce__(self):
        return print, ("harm",)


def test_a_pickle_that_brings_its_own_code(source, released, tmp_path, capsys):
    def change(stored):
        stored.planner_data = Harm()
        return stored

    rewrite(source, change)
    with pytest.raises(InputError, match=r"\.metadata: cannot be read \(it holds a builtins\.print"):
        convert(str(source), tmp_path / "lite", base=str(released))
    assert "harm" not in capsys.readouterr().out


def test_a_file_elsewhere(source, released, tmp_path):
    def change(stored):
        next(iter(stored.storage_data.values())).relative_path = "../../x.distcp"
        return stored

    rewrite(source, change)
    with pytest.raises(InputError, match=r"names '\.\./\.\./x\.distcp'; must be a file of its own folder"):
        convert(str(source), tmp_path / "lite", base=str(released))


def test_broken_files(source, released, tmp_path):
    file = next((source / "model_and_optim").glob("*.distcp"))
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], None):
        file.write_bytes(content) if content else file.unlink()
        with pytest.raises(InputError, match=r"model_and_optim: cannot be read"):
            convert(str(source), tmp_path / "lite", base=str(released))
    (source / "model_and_optim" / ".metadata").write_bytes(b"x")
    with pytest.raises(InputError, match=r"\.metadata: cannot be read"):
        convert(str(source), tmp_path / "lite", base=str(released))
    (source / "config.yaml").write_text("[")
    with pytest.raises(InputError, match=r"config\.yaml: cannot be parsed"):
        convert(str(source), tmp_path / "lite", base=str(released))
