"""The embedded model's own training: its four stages, their data and rates, and the folder they leave."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import Molmo2Config

from stts_cli.config.presets import presets_folder
from stts_cli.config.training import read_stages
from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.families.molmo2 import Molmo2Family
from stts_cli.toy import nano, nano_language, nano_vision, world_clips
from stts_cli.toy.nano_language import LabelClips, LabelEmbedding, LanguageModel, draw_keep
from stts_cli.toy.nano_tokenizer import build_tokenizer
from stts_cli.toy.nano_vision import VisionFrames, VisionModel, connector_features, fit_connector
from stts_cli.toy.questions import ask
from stts_cli.toy.world import make_scene
from stts_cli.toy.world_clips import Length
from stts_cli.training.model import TrainingModel
from stts_cli.training.optimizers import make_groups
from stts_cli.training.settings import FinetuneSettings

pytestmark = pytest.mark.slow  # test_world.py, and training on real rows, are in the fast tier

PRESET = presets_folder() / "training" / "nano.yaml"


@pytest.fixture(autouse=True, scope="module")
def few_patches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nano_vision, "WHITEN_FRAMES", 60)
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano") / "start"
    nano._write_start(folder, seed=0)
    return folder


@pytest.fixture
def family(start):
    return load_family(start, dtype=torch.float32)


def _tiny(**more):
    """The preset's stages, a few steps each, of short clips."""
    stages = read_stages(PRESET)
    for values in stages.values():
        values.update(steps=2, save_every=1, log_every=1, warmup=1, workers=0, keep_checkpoints=9, **more)
        if "frames" in values:
            values.update(frames=4, shapes_mix="short", eval_videos=1, accumulate=1)
    stages["stts"]["scorer_warmup"] = 1
    return stages


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(nano_language, "LENGTHS", (Length(2, 1.0, 2, False),))
    monkeypatch.setattr(world_clips, "LENGTHS", (Length(4, 1.0, 1, False),))
    monkeypatch.setattr(nano_vision, "FRAMES", 8)
    monkeypatch.setattr(nano_vision, "FIT_FRAMES", 100)


def test_tokenizer_survives_any_text_and_knows_every_answer():
    tokenizer = build_tokenizer()
    for text in ("Où est 🐈?\n\t x", "What color is the red star?", "<|im_start|>user\nhi<|im_end|>\n"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    for k in range(40):
        for question in ask(make_scene("train", k)):
            assert len(tokenizer(question.answer, add_special_tokens=False).input_ids) <= 3
    assert len(tokenizer(" 12.5 ", add_special_tokens=False).input_ids) == 2


def test_the_model_starts_from_its_seed_as_a_demonstration(family, start, tmp_path):
    assert family.is_demonstration
    assert family.settings.prune_layer == nano.PRUNE_LAYER
    nano._write_start(tmp_path / "same", seed=0)
    nano._write_start(tmp_path / "other", seed=1)
    weights = (start / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


def test_its_folder_says_what_the_shipped_one_says(start):
    folders = (start, presets_folder() / "nano")
    config, shipped = (Molmo2Config.from_pretrained(folder, dtype="bfloat16").to_dict() for folder in folders)
    for part in ("vision_config", "adapter_config", "text_config"):  # only a model that was loaded once writes theirs
        assert {**config.pop(part), "dtype": None} == {**shipped.pop(part), "dtype": None}
    assert {**config, "_name_or_path": ""} == {**shipped, "_name_or_path": ""}
    for name in ("generation_config", "processor_config", "video_preprocessor_config"):
        found, shipped = (json.loads((folder / f"{name}.json").read_text()) for folder in folders)
        assert found == shipped


@pytest.mark.parametrize("items", [LabelClips, VisionFrames])
def test_a_step_is_a_function_of_its_number_and_is_divided(items):
    alone, pair = items(700, seed=3), items(700, seed=3, world=2)
    assert len(pair) == 2 * len(alone) == 1400
    for step in (0, 650):
        one, again = alone[step], alone[step]
        assert all(torch.equal(a.frames, b.frames) for a, b in zip(one, again, strict=True))
        first, second = pair[2 * step], pair[2 * step + 1]
        # the same number of clips (or frames) in a step, the first process's those of one process alone
        assert sum(len(c.frames) for c in first) < sum(len(c.frames) for c in one)
        if items is LabelClips:
            assert len(first) + len(second) == len(one)
        else:
            assert len(first[0].frames) + len(second[0].frames) == len(one[0].frames)
        assert torch.equal(first[0].frames[0], one[0].frames[0]) == (items is VisionFrames)
        assert not torch.equal(first[0].frames[0], second[0].frames[0])
    assert not torch.equal(alone[0][0].frames, items(700, seed=4)[0][0].frames)
    with pytest.raises(IndexError):
        alone[700]


def test_few_frames_come_first():
    assert max(len(clip.frames) for step in range(20) for clip in LabelClips(2000, seed=0)[step]) <= 8


def test_draw_keep_honours_the_ratio_and_the_first_frame():
    labels = np.random.default_rng(0).random((6, 16, 55)).astype(np.float32)
    keep = draw_keep(np.random.default_rng(1), labels, 0.5)
    assert keep.sum() == 48
    assert keep[0].all()


def test_the_stand_in_gives_the_kept_windows(family):
    model = LanguageModel(family)
    batch = LabelClips(10, seed=0)[1]
    encoded = model._encode(batch, 1.0, "none", 0)
    clip = batch[0]
    frame, window = clip.keep_mask.nonzero()[-1].tolist()
    row = int(clip.keep_mask.sum()) - 1
    expected = model.stand_in.label_weight @ clip.frames[frame, window] + model.stand_in.label_place[window]
    torch.testing.assert_close(encoded.visual_tokens[row], expected)
    assert len(encoded.visual_tokens) == sum(int(c.keep_mask.sum()) for c in batch)


@pytest.mark.parametrize(("kind", "items"), [(LanguageModel, LabelClips), (VisionModel, VisionFrames)])
def test_a_stage_trains_its_own_part_and_all_of_it(family, small, kind, items):
    model, batch = kind(family), items(10, seed=0)[0]
    if kind is VisionModel:  # its heads start at nought, behind which no gradient comes through
        for name, parameter in model.probe.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.02)
    out = model(batch, 1.0)
    assert out.num_tokens == model.count(batch)[0]
    out.lm_sum.backward()
    for name, parameter in model.named_parameters():
        language = "language_model" in name or "lm_head" in name
        trained = language if kind is LanguageModel else not language and "image_projector.down_proj" not in name
        assert parameter.requires_grad == (trained or name.startswith(("stand_in.", "probe."))), name
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved == parameter.requires_grad or "k_proj.bias" in name, name


def test_the_connectors_last_matrix_is_all_that_the_probe_leaves_out(family):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8))
    last = family.model.model.multi_modal_projector.image_projector.down_proj
    with torch.no_grad():
        whole = family.encode(
            family.preprocess(frames), family.settings.override(keep_ratio=1.0, scorer="none")
        ).visual_tokens
        torch.testing.assert_close(last(connector_features(family, frames)), whole)
    assert not last._forward_pre_hooks


def test_fit_connector_explains_the_stand_in(family, monkeypatch):
    monkeypatch.setattr(nano_vision, "FIT_FRAMES", 200)
    assert fit_connector(family, LabelEmbedding(family)) > 0.05


def test_the_presets_rates():
    """(rule, rate, weight decay) of a ViT matrix, a connector matrix, an LLM matrix, the embeddings, the scorer."""
    names = {
        "vit": ("stock.model.vision_tower.layers.0.mlp.fc1.weight", (4, 4)),
        "connector": ("stock.model.multi_modal_projector.image_projector.up_proj.weight", (4, 4)),
        "llm": ("stock.model.language_model.layers.0.mlp.up_proj.weight", (4, 4)),
        "embedding": ("stock.model.language_model.embed_tokens.weight", (4, 4)),
        "stand-in": ("stand_in.label_weight", (4, 4)),
        "probe": ("probe.flags.weight", (4, 4)),
        "scorer": ("scorer.query.weight", (4, 4)),
    }
    parameters = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in names.values()}
    expected = {
        "language": {"llm": ("muon", 0.012, 0.01), "embedding": ("adamw", 2e-3, 0), "stand-in": ("adamw", 2e-3, 0)},
        "vision": {"vit": ("muon", 0.01, 0.1), "connector": ("muon", 0.01, 0.1), "probe": ("adamw", 1e-3, 0)},
        "dense": {"vit": ("muon", 0.0024, 0.01), "llm": ("muon", 0.006, 0.01), "embedding": ("adamw", 6e-4, 0)},
        "stts": {"vit": ("muon", 0.0016, 0.01), "llm": ("muon", 0.004, 0.01), "embedding": ("adamw", 4e-4, 0)},
    }
    expected["stts"]["scorer"] = ("adamw", 1e-4, 0.01)
    for stage, values in read_stages(PRESET).items():
        groups = make_groups(parameters.items(), FinetuneSettings(**values), Molmo2Family.part_names)
        for part, (rule, lr, decay) in expected[stage].items():
            wanted = parameters[names[part][0]]
            group = next(g for g in groups if any(p is wanted for p in g["params"]))
            assert group["rule"] == rule, (stage, part)
            assert group["lr"] == pytest.approx(lr, rel=1e-4), (stage, part)
            assert group["weight_decay"] == decay, (stage, part)


def test_four_stages_leave_a_model_that_answers(tmp_path, small):
    out, events = tmp_path / "out", []
    document = nano.train_nano(_tiny(), {}, out, device="cpu", report=events.append)
    assert document["steps"] == 3
    assert [e["name"] for e in events if e["event"] == "stage" and e["name"].endswith("stage")] == [
        f"{name} stage" for name in nano.STAGES
    ]
    family = load_family(out)
    assert family.is_demonstration
    assert family.model_name == "nano"
    assert family.scorer is not None
    assert (family.settings.keep_ratio, family.settings.prune_layer) == (0.5, 3)
    assert str(tmp_path) not in (out / "stts.json").read_text()
    frames = torch.zeros((4, 96, 96, 3), dtype=torch.uint8)
    encoded = family.encode(family.preprocess(frames), family.settings.override(keep_ratio=0.5, scorer="learned"))
    assert encoded.keep_mask.sum() == 32
    # each stage went on from the one before: what it leaves alone is bit for bit what that left
    states = {name: load_family(out / "stages" / f"nano-{name}").model.state_dict() for name in ("start", *nano.STAGES)}
    moved = {
        name: {k.split(".")[1] for k in states[name] if not torch.equal(states[name][k], states[before][k])}
        for before, name in zip(states, nano.STAGES, strict=False)
    }
    assert moved["language"] == {"language_model", "weight"}  # the latter is the head's
    assert moved["vision"] == {"vision_tower", "multi_modal_projector"}
    assert moved["dense"] == moved["stts"] == {"language_model", "weight", "vision_tower", "multi_modal_projector"}
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log} == set(nano.STAGES)

    with pytest.raises(InputError, match="--resume"):
        nano.train_nano(_tiny(), {}, out, device="cpu")
    with pytest.raises(InputError, match="another run"):
        nano.train_nano(_tiny(), {"seed": 1}, out, resume=True, device="cpu")

    # a run that died in the vision stage, before its last checkpoint, ends with the very same weights
    vision = out / "stages" / "nano-vision"
    for name in ("nano-dense", "nano-stts"):
        shutil.rmtree(out / "stages" / name)
    for path in vision.glob("*.*"):
        if path.name != "run.json":
            path.unlink()
    shutil.rmtree(vision / "checkpoints" / "checkpoint-2")
    steps = []

    def report(event):
        if event["event"] == "step":
            steps.append((event["stage"], event["step"]))
        if event.get("name") == "dense stage":  # what follows was seen above
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nano.train_nano(_tiny(), {}, out, resume=True, device="cpu", report=report)
    assert steps == [("vision", 2)]
    resumed = load_family(vision).model.state_dict()
    assert resumed.keys() == states["vision"].keys()
    assert all(torch.equal(resumed[name], states["vision"][name]) for name in resumed)


def test_only_the_flags_that_fit_all_stages(tmp_path):
    with pytest.raises(InputError, match=r"^--lr-llm: .*--seed"):
        nano.train_nano(_tiny(), {"lr_llm": 0.1}, tmp_path)
    with pytest.raises(InputError, match="language, vision, dense, stts"):
        nano.train_nano({"language": {}, "dense": {}}, {}, tmp_path)


def test_a_wrong_flag_is_refused_before_torch_is_loaded():
    program = "import sys, stts_cli.toy.nano; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_seed_is_added_and_accumulation_is_divided():
    plan = nano._plan(read_stages(PRESET), {"seed": 5, "workers": 3})
    assert [plan[name].seed for name in nano.STAGES] == [5, 5, 5, 6]
    assert {plan[name].workers for name in nano.STAGES} == {3}
    assert plan["dense"].accumulate == 2, "what the folder is known by is the same for any number of processes"
    assert [nano._divide_passes(plan["dense"], world).accumulate for world in (1, 2, 3)] == [2, 1, 1]


def test_the_vision_loss_is_a_mean_over_windows(family):
    model, (item,) = VisionModel(family), VisionFrames(2, seed=0)[0]
    assert isinstance(model, TrainingModel)
    out = model([item], 1.0)
    halves = [dataclasses.replace(item, frames=item.frames[k::2], labels=item.labels[k::2]) for k in range(2)]
    assert out.num_tokens == sum(model([half], 1.0).num_tokens for half in halves) == 64 * 16
    assert torch.isclose(model(halves, 1.0).lm_sum, out.lm_sum, rtol=1e-5)
