"""Result folders: what is written is what was trained, and it comes back, through the base model where need be."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stts_cli import profiling
from stts_cli.engine.model import VideoModel, load
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.families import load_family
from stts_cli.settings import Arm, Pruning
from stts_cli.training.adapters import add_lora
from stts_cli.training.results import load_weights, read_weights, write_checkpoint
from tests.families.conftest import save_released

SETTINGS = Pruning(prune_layer=2, keep_ratio=0.3, bias_rescale="frame", prune_from_frame=1, scorer="learned")
KINDS = ("scorer", "lora", "full")
WHOLE = "model.safetensors"


def train(family, kind, seed=1, **lora):
    """Stand in for a training: change what `kind` trains, every weight of it."""
    torch.manual_seed(seed)
    if kind == "lora":
        add_lora(family, rank=2, vit=True, **lora)
    generator = torch.Generator().manual_seed(seed)
    parameters = [] if kind == "scorer" else [p for p in family.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in [*parameters, *family.scorer.parameters()]:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)
    family.settings = SETTINGS
    return family


def write(folder, family, kind, base, **options):
    family.settings = SETTINGS
    options = {"training": {"steps": 3}, **options}
    write_checkpoint(folder, family, train=kind, base_model=str(base), **options)
    return folder


def encoded(family):
    size = family.frame_size
    frames = torch.randint(0, 256, (4, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = family.encode(
            family.preprocess(frames), family.settings.override(keep_ratio=0.5, scorer="learned", prune_layer=2)
        )
        said = family.model(input_ids=torch.arange(8)[None], use_cache=False).logits
    return out.scores, out.visual_tokens, said


def distance(ours, theirs):
    """How far apart two results are, in parts of their size: a LoRA merged into the weights is rounded once more."""
    return float((ours - theirs).norm() / theirs.norm())


def document(folder):
    return json.loads((folder / "stts.json").read_text())


def snapshot(family):
    """Copies of every weight, by name."""
    named = {f"stock.{k}": v for k, v in family.model.state_dict().items()}
    named |= {f"scorer.{k}": v for k, v in family.scorer.state_dict().items()}
    return {k: v.clone() for k, v in named.items()}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tiny_checkpoint, tmp_path_factory):
    """A kind, the trained family in memory, and the folder that was written of it."""
    kind = request.param
    family = train(load_family(tiny_checkpoint), kind)
    return kind, family, write(tmp_path_factory.mktemp("runs") / f"my-{kind}", family, kind, tiny_checkpoint)


def test_a_folder_is_the_model_in_memory(trained, tiny_checkpoint):
    kind, family, folder = trained
    loaded = load_family(folder)
    in_memory, from_disk, base = (encoded(one) for one in (family, loaded, load_family(tiny_checkpoint)))
    for ours, theirs in zip(in_memory, from_disk, strict=True):
        assert distance(ours, theirs) < 1e-4 if kind == "lora" else torch.equal(ours, theirs)
    assert distance(in_memory[0], base[0]) > 0.01
    assert (distance(in_memory[2], base[2]) > 0.01) == (kind != "scorer")
    assert not any(".lora_" in name for name, _ in loaded.model.named_modules())
    assert not hasattr(loaded.model, "peft_config")
    assert not loaded.model.training
    assert loaded.settings == SETTINGS
    assert loaded.model_name == f"my-{kind}"
    assert loaded.is_demonstration


def test_what_lies_in_the_folder(trained, tiny_checkpoint):
    kind, _, folder = trained
    names = {path.name for path in folder.iterdir()}
    small = {"stts.json", "scorer.safetensors"}
    if kind == "scorer":
        assert names == small
    elif kind == "lora":
        assert names == small | {"adapter_config.json", "adapter_model.safetensors"}
    else:
        whole = {WHOLE, "config.json", "tokenizer.json", "tokenizer_config.json", "video_preprocessor_config.json"}
        assert names == small | whole | {"generation_config.json"}
    written = document(folder)
    assert written["train"] == kind
    assert written["training"] == {"steps": 3}
    assert ("base_model" in written) == (kind != "full")
    assert written.get("base_model", str(tiny_checkpoint)) == str(tiny_checkpoint)  # an absolute path
    if kind == "full":
        assert written["trained_from"] == "tiny"


def test_ask_answers_from_the_folder_as_the_model_in_memory(trained, clip_file):
    _, family, folder = trained
    model = load(str(folder), frames=4, max_new_tokens=8)
    seen = model.encode(clip_file)
    there = VideoModel(family, Arm("a", "", 4, keep_ratio=0.3, scorer="learned", prune_layer=2), max_new_tokens=8)
    assert model.ask(seen, "What moves?").text == there.ask(clip_file, "What moves?").text
    assert seen.keep_mask.sum(1).tolist() != [36] * 4
    assert seen.pruning.scorer == "learned"
    assert model.family.is_demonstration


def test_profile_reads_the_sizes_through_the_base(trained, tiny_checkpoint):
    kind, family, folder = trained
    architecture = profiling.architecture_of(str(folder))
    assert architecture.sizes() == family.shape()
    assert architecture.name == f"my-{kind}"
    assert (architecture.prune_layer, architecture.keep_ratio, architecture.scorer) == (2, 0.3, "learned")


def test_weights_come_back_in_place_to_the_bit(trained, tiny_checkpoint):
    kind, family, folder = trained
    other = load_family(tiny_checkpoint)
    if kind == "lora":
        add_lora(other, rank=2, vit=True)
    places = [p.data_ptr() for p in other.model.parameters()]
    load_weights(folder, other, kind)
    assert [p.data_ptr() for p in other.model.parameters()] == places
    ours, theirs = snapshot(family), snapshot(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_weights_are_named_as_the_training_module_names_them(trained):
    kind, family, folder = trained
    weights, own = read_weights(folder, family, kind), snapshot(family)
    expected = {
        "full": set(own),
        "scorer": {name for name in own if name.startswith("scorer.")},
        "lora": {name for name in own if name.startswith("scorer.") or ".lora_" in name},
    }
    assert weights.keys() == expected[kind]
    assert all(torch.equal(value, own[name]) for name, value in weights.items())


def test_a_state_dict_goes_before_the_family(trained, tiny_checkpoint, tmp_path):
    """As under FSDP, where the family's own parameters are shards."""
    kind, family, folder = trained
    other = train(load_family(tiny_checkpoint), kind, seed=2)
    write(tmp_path / "out", other, kind, tiny_checkpoint, state_dict=snapshot(family))
    for name in (WHOLE, "scorer.safetensors", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).is_file() == (folder / name).is_file()
        if (folder / name).is_file():
            assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_written_in_bfloat16_and_trained_on_in_float32(trained, tiny_checkpoint, tmp_path):
    kind, family, _ = trained
    before = snapshot(family)
    write(tmp_path / "out", family, kind, tiny_checkpoint, dtype=torch.bfloat16)
    for path in (tmp_path / "out").glob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.bfloat16}
    if kind == "full":
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["dtype"] == config["text_config"]["dtype"] == "bfloat16"
    assert all(torch.equal(value, before[name]) for name, value in snapshot(family).items())
    loaded = load_family(tmp_path / "out", dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_peft_reads_the_adapter_by_itself(tiny_checkpoint, tmp_path):
    from peft import PeftModel

    family = train(load_family(tiny_checkpoint), "lora", alpha=6)
    folder = write(tmp_path / "out", family, "lora", tiny_checkpoint)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 6, str(tiny_checkpoint))
    model = PeftModel.from_pretrained(load_family(tiny_checkpoint).model, folder)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, family.model(input_ids=ids).logits)


def test_a_released_checkpoint_trained_as_a_whole(tmp_path):
    """Its names, its ViT declared too deep, its processors and its template come through."""
    base = save_released(tmp_path / "base", scorer=True)
    family = train(load_family(base), "full")
    folder = write(tmp_path / "out", family, "full", base)
    copied = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
    for name in (*copied, "generation_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    loaded = load_family(folder)
    assert all(torch.equal(a, b) for a, b in zip(encoded(family), encoded(loaded), strict=True))
    prompts = [one.build_prompt([0.0, 0.5], "Why?", torch.ones(2, 9, dtype=torch.bool)) for one in (family, loaded)]
    assert torch.equal(prompts[0].input_ids, prompts[1].input_ids)
    assert "model.transformer.blocks.1.self_attn.att_proj.weight" in load_file(folder / WHOLE)  # the released names
    load_weights(folder, train(loaded, "full", seed=3), "full")
    assert all(torch.equal(a, b) for a, b in zip(encoded(family), encoded(loaded), strict=True))


def test_a_dense_model_has_no_scorer(tiny_checkpoint, tmp_path):
    family = load_family(tiny_checkpoint)
    family.scorer = None
    folder = write(tmp_path / "out", family, "full", tiny_checkpoint)
    assert not (folder / "scorer.safetensors").exists()
    assert document(folder)["scorer"] == "temporal"
    assert load_family(folder).scorer is None
    load_weights(folder, family, "full")


def test_a_whole_model_is_read_from_its_own_files_only(tiny_checkpoint, tmp_path):
    folder = write(tmp_path / "out", load_family(tiny_checkpoint), "full", tiny_checkpoint)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../pytorch_model.bin"}}
    (folder / f"{WHOLE}.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"weight_map\['lm_head\.weight'\] is '\.\./pytorch_model\.bin'; must be"):
        read_weights(folder, load_family(tiny_checkpoint), "full")


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_tied_weights_are_written_once(tiny_checkpoint, tmp_path, dtype):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=50, num_key_value_heads=1, tie_word_embeddings=True, **sizes))
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    family = SimpleNamespace(
        model=model, tokenizer=tokenizer, scorer=None, is_demonstration=False, model_name="tied", chain=()
    )
    folder = write(tmp_path / "out", family, "full", tiny_checkpoint, dtype=dtype)
    assert "lm_head.weight" not in load_file(folder / WHOLE)
    expected = model.lm_head.weight.detach().clone().to(dtype or torch.float32).float()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    load_weights(folder, family, "full")
    assert torch.equal(model.lm_head.weight, expected)
    assert model.lm_head.weight is model.model.embed_tokens.weight


# --- folders that stand on folders


def test_a_scorer_upon_a_lora_upon_a_model(tiny_checkpoint, tmp_path):
    first = write(tmp_path / "lora", train(load_family(tiny_checkpoint), "lora"), "lora", tiny_checkpoint)
    second = write(tmp_path / "scorer", train(load_family(first), "scorer", seed=2), "scorer", first)
    family = train(load_family(second), "lora", seed=3)
    third = write(tmp_path / "lora2", family, "lora", second)
    assert document(second)["base_model"] == str(first)
    assert document(third)["base_model"] == str(first)  # the scorer's folder gives nothing that the third has not
    shutil.rmtree(second)
    loaded = load_family(third)
    for ours, theirs in zip(encoded(family), encoded(loaded), strict=True):
        assert distance(ours, theirs) < 1e-4
    assert profiling.architecture_of(str(third)).sizes() == family.shape()
    family = train(loaded, "full", seed=4)
    whole = write(tmp_path / "whole", family, "full", third)
    shutil.rmtree(first)
    assert all(torch.equal(a, b) for a, b in zip(encoded(family), encoded(load_family(whole)), strict=True))


def test_base_and_run_moved_together(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "there" / "base")
    family = train(load_family(tiny_checkpoint), "scorer")
    folder = write(tmp_path / "there" / "run", family, "scorer", tiny_checkpoint)
    (folder / "stts.json").write_text(json.dumps(document(folder) | {"base_model": "../base"}))
    (tmp_path / "there").rename(tmp_path / "here")
    loaded = load_family(tmp_path / "here" / "run")
    assert all(torch.equal(a, b) for a, b in zip(encoded(family), encoded(loaded), strict=True))


def test_written_from_a_relative_path(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_checkpoint.parent)
    family = load_family(Path(tiny_checkpoint.name))
    written = document(write(tmp_path / "out", family, "scorer", tiny_checkpoint.name))
    assert written["base_model"] == str(tiny_checkpoint)
    monkeypatch.chdir(tiny_checkpoint)
    assert load_family(".").model_name == "tiny"


@pytest.fixture
def run(tiny_checkpoint, tmp_path):
    """A LoRA folder and its base, both to be spoilt."""
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    return write(tmp_path / "run", train(load_family(base), "lora"), "lora", base)


def change(run, **values):
    (run / "stts.json").write_text(json.dumps(document(run) | values))


def test_a_base_that_is_gone(run, clip_file):
    base = document(run)["base_model"]
    Path(base).rename(Path(base).parent / "elsewhere")
    with pytest.raises(InputError) as error:
        load_family(run)
    assert str(error.value) == (
        f"{run}/stts.json: base_model {base}; is not there. Put it back, or write its new place there."
    )
    with pytest.raises(InputError, match="is not there"):
        load(str(run))
    with pytest.raises(InputError, match="is not there"):
        profiling.architecture_of(str(run))


def test_bases_that_are_none(run, tmp_path):
    change(run, base_model=str(run))
    with pytest.raises(InputError, match=r"run/stts.json: base_model .*run; stands on this one itself\."):
        load_family(run)
    change(run, base_model=7)
    with pytest.raises(InputError, match=r"run/stts.json: base_model 7; must be"):
        load_family(run)
    (tmp_path / "empty").mkdir()
    change(run, base_model=str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"empty.*: holds no config\.json"):
        load_family(run)


def test_a_lora_that_is_not_whole(run):
    weights = load_file(run / "adapter_model.safetensors")
    first = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != first}, run / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"does not fit the model \(1 weights, such as .*lora_A"):
        load_family(run)
    save_file({**weights, "base_model.model.other.lora_A.weight": torch.zeros(2, 2)}, run / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"1 weights, such as .*other\.lora_A"):
        load_family(run)
    save_file({**weights, first: torch.zeros(3, 16)}, run / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"does not fit the model .*size mismatch"):
        load_family(run)
    (run / "adapter_model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match="does not fit the model"):
        load_family(run)
    (run / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: is missing; it holds the LoRA"):
        load_family(run)
    torch.save(weights, run / "adapter_model.bin")  # a pickle is no replacement
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: is missing"):
        load_family(run)


def test_a_lora_without_peft(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(EnvironmentFailure, match=r"needs peft; in a clone of stts: pip install '\.\[train\]'"):
        load_family(run)


def test_a_base_on_the_hub_that_cannot_be_reached(run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    change(run, base_model="someone/something")
    with pytest.raises(
        EnvironmentFailure, match=r"base_model someone/something: cannot be loaded; it holds the weights of .*run"
    ):
        load_family(run)


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_on_the_hub_is_pinned(hub, tmp_path, kind):
    family = train(load_family("someone/tiny"), kind)
    (hub / "refs" / "main").write_text("b" * 40)  # the hub goes on while it trains
    folder = write(tmp_path / "run", family, kind, "someone/tiny")
    written = document(folder)
    assert written["trained_from" if kind == "full" else "base_model"] == "someone/tiny"
    assert written["base_revision"] == "a" * 40
    assert distance(encoded(load_family("someone/tiny"))[2], encoded(family)[2]) > 0.1
    for ours, theirs in zip(encoded(family), encoded(load_family(folder)), strict=True):
        assert distance(ours, theirs) < 1e-4
    if kind == "lora":
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == ("someone/tiny", "a" * 40)


def test_a_run_on_the_hub_stands_on_its_base_there(hub, tmp_path):
    """What --push-to-hub uploads loads by its name."""
    family = train(load_family("someone/tiny"), "lora")
    folder = write(tmp_path / "run", family, "lora", "someone/tiny")
    place = hub.parent / "models--me--run"
    shutil.copytree(folder, place / "snapshots" / ("c" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("c" * 40)
    loaded = load_family("me/run")
    assert loaded.model_name == "me/run"
    for ours, theirs in zip(encoded(family), encoded(loaded), strict=True):
        assert distance(ours, theirs) < 1e-4


# --- what cannot be written or put back


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_cut_short_is_named(tiny_checkpoint, tmp_path, kind):
    family = train(load_family(tiny_checkpoint), kind)
    folder = write(tmp_path / "out", family, kind, tiny_checkpoint)
    name = {"scorer": "scorer.safetensors", "lora": "adapter_model.safetensors", "full": WHOLE}[kind]
    before = snapshot(family)
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    with pytest.raises(InputError, match=str(folder)):
        load_weights(folder, family, kind)
    (folder / name).unlink()
    with pytest.raises(InputError, match=str(folder)):
        load_weights(folder, family, kind)
    assert all(torch.equal(value, before[k]) for k, value in snapshot(family).items())


def test_a_checkpoint_of_other_sizes_changes_nothing(tiny_checkpoint, tmp_path):
    folder = write(tmp_path / "out", train(load_family(tiny_checkpoint), "lora"), "lora", tiny_checkpoint)
    other = load_family(tiny_checkpoint)
    add_lora(other, rank=3, vit=True)
    before = snapshot(other)
    with pytest.raises(InputError, match=r": does not fit tiny \(\d+ weights, such as stock\..*lora_A"):
        load_weights(folder, other, "lora")
    assert all(torch.equal(value, before[name]) for name, value in snapshot(other).items())
    other = load_family(tiny_checkpoint)
    add_lora(other, rank=2)
    with pytest.raises(InputError, match="vision_tower"):
        load_weights(folder, other, "lora")


@pytest.mark.parametrize("kind", KINDS)
def test_the_format_says_the_scorers_input_order(tiny_checkpoint, tmp_path, kind):
    family = train(load_family(tiny_checkpoint), kind)
    folder = write(tmp_path / "out", family, kind, tiny_checkpoint)
    assert document(folder)["format"] == 2
    (folder / "stts.json").write_text(json.dumps(document(folder) | {"format": 1}))
    before = snapshot(family)
    with pytest.raises(InputError, match=r"stts\.json: format 1, whose scorer .*Start a new run with --model .*/out\."):
        load_weights(folder, family, kind)
    assert all(torch.equal(value, before[k]) for k, value in snapshot(family).items())
