"""--quantize 4bit: what transformers is asked for, and, where bitsandbytes is installed, what comes of it."""

import importlib.util
import json
import sys

import pytest
import torch
import transformers

from stts_cli import cli, load
from stts_cli.config.presets import demo_video
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.families import class_of, load_family
from stts_cli.settings import Arm
from stts_cli.training.adapters import add_lora
from stts_cli.training.results import write_checkpoint
from stts_cli.training.settings import FinetuneSettings
from tests.families.registry import EVERY, TINY

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture
def asked_for(monkeypatch):
    """Let every stock class load as it is, and say what it was asked for."""
    monkeypatch.setattr("stts_cli.families.quantize.check_bitsandbytes", lambda: None)
    found = {}

    def spy(name):
        cls = getattr(transformers, class_of(name, "").model_class)
        real = cls.from_pretrained.__func__

        def from_pretrained(cls, *given, **options):
            found.update(options)
            return real(
                cls, *given, **{k: v for k, v in options.items() if k not in ("quantization_config", "device_map")}
            )

        monkeypatch.setattr(cls, "from_pretrained", classmethod(from_pretrained))
        return found

    return spy


@pytest.mark.parametrize("name", EVERY)
def test_the_language_models_linear_layers_alone_are_quantized(name, asked_for, tmp_path):
    from transformers.quantizers.quantizers_utils import should_convert_module

    folder, options = TINY[name].save(tmp_path), asked_for(name)
    family = load_family(folder, dtype=torch.bfloat16, quantize="4bit")
    config = options["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype is torch.bfloat16
    assert options["device_map"] == {"": "cpu"}
    linear = [each for each, module in family.model.named_modules() if isinstance(module, torch.nn.Linear)]
    quantized = {each for each in linear if should_convert_module(each, config.llm_int8_skip_modules)}
    parts = TINY[name].parts
    seeing = [part for kind in ("vit", "connector") for part in parts[kind].split(" or ")]
    assert quantized == {
        each for each in linear if each != "lm_head" and not any(part in f".{each}." for part in seeing)
    }
    assert len(quantized) >= 6
    (note,) = [note for note in family.notes if "4bit" in note]
    assert ("experts" in note) == ("moe" in name)
    assert note.endswith("stay in bfloat16")


def test_nothing_is_asked_for_without_it(asked_for, tmp_path):
    folder, options = TINY["qwen3_vl"].save(tmp_path), asked_for("qwen3_vl")
    load_family(folder)
    assert not {"quantization_config", "device_map"} & set(options)


def test_without_the_package_it_is_one_line(tmp_path, clip_file, monkeypatch, capsys):
    folder = TINY["qwen3_vl"].save(tmp_path)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask", str(clip_file), "?", "--model", str(folder), "--quantize", "4bit"])
    assert ended.value.code == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "--quantize 4bit: needs the bitsandbytes package; in a clone of stts: pip install '.[4bit]'" in said


@needs_bitsandbytes
def test_without_a_device_for_it_it_is_one_line(tmp_path, monkeypatch):
    def nowhere(raise_exception):
        raise RuntimeError("None of the available devices")

    monkeypatch.setattr("transformers.integrations.validate_bnb_backend_availability", nowhere)
    with pytest.raises(
        EnvironmentFailure, match=r"^--quantize 4bit: bitsandbytes runs on no device of this machine\.$"
    ):
        load_family(TINY["qwen3_vl"].save(tmp_path), quantize="4bit")


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"^--train full: cannot go with --quantize 4bit; choose lora or scorer\.$"):
        FinetuneSettings(train="full", quantize="4bit")
    with pytest.raises(InputError, match=r"^--quantize '8bit': must be 4bit\.$"):
        Arm("a", "m", quantize="8bit")
    with pytest.raises(InputError, match=r"^--quantize 8bit: must be 4bit\.$"):
        load("nano", quantize="8bit")


def with_lora(folder, base):
    """Write a LoRA trained upon a base, with weights that say something."""
    family = load_family(base)
    add_lora(family, rank=4)
    with torch.no_grad():
        for name, weight in family.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    write_checkpoint(folder, family, train="lora", base_model=str(base), training={})
    return folder


def test_a_lora_is_not_merged(asked_for, tmp_path):
    base = TINY["qwen3_vl"].save(tmp_path / "base")
    lora, _ = with_lora(tmp_path / "lora", base), asked_for("qwen3_vl")
    merged, beside = load_family(lora), load_family(lora, quantize="4bit")
    assert not any("lora" in name for name in merged.model.state_dict())
    assert any("lora" in name for name in beside.model.state_dict())
    assert f"{lora}: the LoRA stays beside the 4-bit weights, not merged, so that it is not rounded" in beside.notes
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        ours, theirs, without = (each.model(input_ids=ids).logits for each in (beside, merged, load_family(base)))
    assert (ours - theirs).abs().max() < 1e-3 < (ours - without).abs().max()
    second = with_lora(tmp_path / "second", lora)
    with pytest.raises(InputError, match=r"stands on 2 LoRAs; must be one with --quantize\.$"):
        load_family(second, quantize="4bit")


@needs_bitsandbytes
@pytest.mark.parametrize("name", EVERY)
def test_the_visual_tokens_are_those_of_full_precision(name, tmp_path, clip_file):
    import bitsandbytes

    folder = str(TINY[name].save(tmp_path, scorer=True))
    model, whole = (load(folder, device="cpu", frames=4, quantize=how) for how in ("4bit", None))
    layers = [each for each in model.family.model.modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    assert len(layers) >= 6
    ours, theirs = (each.encode(clip_file).tokens for each in (model, whole))
    assert torch.equal(ours.visual_tokens, theirs.visual_tokens)
    assert torch.equal(ours.keep_mask, theirs.keep_mask)


@needs_bitsandbytes
def test_the_embedded_model_answers_in_4_bits():
    model, whole = (load("nano", device="cpu", quantize=how) for how in ("4bit", None))
    question = "What color is the circle?"
    assert model.ask(demo_video(), question).text == whole.ask(demo_video(), question).text


@needs_bitsandbytes
@pytest.mark.slow
def test_a_lora_is_trained_upon_4_bits(tmp_path, capsys):
    base, out = TINY["qwen3_vl"].save(tmp_path / "base"), tmp_path / "out"
    words = ["finetune", "--data", "shapes", "--steps", "1", "--frames", "2", "--eval-videos", "0", "--workers", "0"]
    words += ["--model", str(base), "--output", str(out), "--train", "lora", "--quantize", "4bit", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0, capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["quantize"] == "4bit"
    assert load(str(out), device="cpu").family.model.get_decoder() is not None
