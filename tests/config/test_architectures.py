"""Sizes from files: the ones that ship, and what a file may not say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from stts_cli.config.architectures import SHAPES, load_architecture, shapes_folder
from stts_cli.config.files import names
from stts_cli.config.molmo2 import Molmo2TextConfig, VisionConfig
from stts_cli.config.presets import load_preset
from stts_cli.cost import estimate
from stts_cli.errors import InputError
from stts_cli.settings import default_prune_layer


def test_the_shapes_that_ship():
    assert names(shapes_folder()) == [
        "gemma-4-e2b", "gemma-4-e4b", "glm-4.6v-flash", "internvl3.5-1b", "internvl3.5-2b", "internvl3.5-4b",
        "internvl3.5-8b",
        "mini", "molmo2-4b", "molmo2-8b", "molmo2-o-7b", "nano", "qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen3-vl-2b",
        "qwen3-vl-30b-a3b", "qwen3-vl-4b", "qwen3-vl-8b",
        "qwen3.5-0.8b", "qwen3.5-27b", "qwen3.5-9b",
        "smolvlm2-2.2b", "smolvlm2-256m", "smolvlm2-500m", "videollama3-2b", "videollama3-7b",
    ]  # fmt: skip
    for name in names(shapes_folder()):
        architecture = load_architecture(name)
        assert architecture.name == name
        assert architecture.shape.model_type in SHAPES


def test_the_sizes_that_ci_trains_on_a_gpu_of_80_gb():
    """.ci/gpu: about a billion parameters; a step of 32 frames with room to spare."""
    architecture = load_architecture(Path(__file__).parents[2] / ".ci" / "molmo2-1b.yaml")
    assert 1.0e9 < architecture.num_parameters() < 1.3e9
    document = estimate.analytic(
        architecture=architecture, frames=[32], keep_ratios=[0.5], scorer="learned", dtype="bfloat16", train=True
    )
    assert 20e9 < document["points"][0]["memory_estimate_bytes"]["dense"]["total"] < 60e9


def test_the_sizes_of_molmo2_4b():
    sizes = load_architecture("molmo2-4b").sizes()
    assert (sizes.vit_blocks, sizes.vit_width, sizes.vit_heads, sizes.vit_head_dim, sizes.vit_mlp) == (
        25, 1152, 16, 72, 4304,
    )  # fmt: skip
    assert (sizes.num_patches, sizes.num_windows, sizes.window_size, sizes.patch_dim) == (729, 81, 9, 588)
    assert (sizes.llm_layers, sizes.llm_width, sizes.llm_heads, sizes.llm_kv_heads, sizes.llm_head_dim) == (
        36, 2560, 32, 8, 128,
    )  # fmt: skip
    assert (sizes.llm_mlp, sizes.vocab_size, sizes.connector_flops) == (9728, 151936, 198_189_568)


@pytest.mark.parametrize("name", names(shapes_folder()))
def test_sizes_and_weights_are_those_of_the_model_built(name):
    """Built on the meta device, so that the big ones cost nothing."""
    import transformers

    from stts_cli.families import class_of

    architecture = load_architecture(name)
    family = class_of(architecture.shape.model_type, name)
    config, _, given = family.random_parts(architecture.shape)
    with torch.device("meta"):
        model = getattr(transformers, family.model_class)(config)
    assert architecture.num_parameters() == sum(p.numel() for p in model.parameters())
    rule = family.processing(config, None, given)[0]["layout_rule"]
    assert rule(720, 1280, 64) == architecture.layout
    assert architecture.sizes() == family.read_shape(model.config, rule).sizes()


@pytest.mark.parametrize(("name", "millions"), [("256m", 256.5), ("500m", 507.5), ("2.2b", 2246.8)])
def test_the_sizes_of_smolvlm2_make_about_what_their_names_say(name, millions):
    architecture = load_architecture(f"smolvlm2-{name}")
    assert architecture.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)
    preset = load_preset(f"smolvlm2-{name}")
    assert preset.prune_layer == architecture.prune_layer == default_prune_layer(architecture.sizes().vit_blocks)


def test_an_unknown_type_of_shape_is_refused_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("description: x\nmodel_type: smolvlmm\n")
    with pytest.raises(InputError, match=r"mine\.yaml:2: model_type smolvlmm: .*; did you mean 'smolvlm'\?"):
        load_architecture(path)


def test_the_8b_is_what_transformers_takes_for_granted():
    """Its config's defaults are the 8B's, but for the connector's way out, which must fit the language model."""
    from transformers import Molmo2Config

    architecture, default = load_architecture("molmo2-8b"), Molmo2Config()
    assert architecture.shape.vision_config == VisionConfig.of(default.vision_config, image_size=[378, 378])
    assert architecture.shape.text_config == Molmo2TextConfig.of(default.text_config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(colour=1), "colour: unknown key; known: adapter_config, "),
        (lambda d: d["text_config"].update(hiden_size=1), "unknown key; did you mean 'hidden_size'?"),
        (lambda d: d["vision_config"].pop("head_dim"), "vision_config.head_dim: is missing; must be a whole number"),
        (lambda d: d["vision_config"].update(head_dim="64"), 'vision_config.head_dim "64": must be a whole number'),
        (
            lambda d: d["vision_config"].update(image_size=[378]),
            "vision_config.image_size [378]: must be a list of 2, each item a whole number, at least 1.",
        ),
        (lambda d: d["text_config"].update(num_hidden_layers=0), "num_hidden_layers 0: must be at least 1."),
        (lambda d: d.update(text_config=[1]), "text_config [1]: must be 'key: value' lines."),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(change, words, tmp_path):
    document = yaml.safe_load((shapes_folder() / "nano.yaml").read_text())
    change(document)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError) as error:
        load_architecture(path)
    assert words in str(error.value)


def test_a_file_of_ones_own_and_an_unknown_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((shapes_folder() / "nano.yaml").read_text())
    assert load_architecture(path).name == "mine"
    with pytest.raises(InputError, match="shape minni: unknown; did you mean 'mini'"):
        load_architecture("minni")
    path.write_text(":\n- {")
    with pytest.raises(InputError, match=r"mine\.yaml:1: is not valid YAML: "):
        load_architecture(path)


@pytest.mark.parametrize(("name", "parameters"), [("3b", 3_754_622_976), ("7b", 8_292_166_656)])
def test_the_sizes_of_qwen2_5_vl_make_as_many_weights_as_the_hub_counts(name, parameters):
    architecture = load_architecture(f"qwen2.5-vl-{name}")
    assert architecture.num_parameters() == parameters
    assert architecture.prune_layer == default_prune_layer(architecture.sizes().vit_blocks)
    assert [architecture.at(n).layout.frame_size for n in (16, 256)] == [(560, 1008)] * 2
    assert len(architecture.sizes().vit_parts) == 5 * 9


@pytest.mark.parametrize(("name", "millions"), [("2b", 2127.5), ("4b", 4437.8), ("8b", 8767.1), ("30b-a3b", 31070.8)])
def test_the_sizes_of_qwen3_vl_make_about_what_their_names_say(name, millions):
    architecture = load_architecture(f"qwen3-vl-{name}")
    assert architecture.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)
    assert architecture.prune_layer == default_prune_layer(architecture.sizes().vit_blocks)
    assert [architecture.at(n).layout.frame_size for n in (16, 64, 256)] == [(704, 1280), (448, 832), (224, 416)]


@pytest.mark.parametrize(("name", "published"), [("0.8b", 873_438_784), ("9b", 9_653_104_368), ("27b", 27_781_427_952)])
def test_the_sizes_of_qwen3_5_make_as_many_weights_as_the_hub_counts(name, published):
    """The checkpoints hold a layer more, which predicts further tokens and which transformers does not load."""
    architecture = load_architecture(f"qwen3.5-{name}")
    text = architecture.shape.text_config
    width, heads = text.hidden_size, text.num_attention_heads
    attention = width * text.head_dim * (3 * heads + 2 * text.num_key_value_heads)
    further = attention + text.mlp_parameters + 2 * width * width + 5 * width + 2 * text.head_dim
    assert architecture.num_parameters() + further == published
    preset = load_preset(f"qwen3.5-{name}")
    assert preset.prune_layer in (None, architecture.prune_layer)
    assert architecture.prune_layer == default_prune_layer(architecture.sizes().vit_blocks)


@pytest.mark.parametrize(
    ("name", "published"), [("1b", 1_060_897_792), ("2b", 2.348e9), ("4b", 4.732e9), ("8b", 8.528e9)]
)
def test_the_sizes_of_internvl_make_what_is_published(name, published):
    """The 1B's files hold just so many; the others' published counts are rounded to 0.1 billion."""
    architecture = load_architecture(f"internvl3.5-{name}")
    assert architecture.num_parameters() == pytest.approx(published, rel=1e-3 if name != "1b" else 0)
    preset = load_preset(f"internvl3.5-{name}")
    assert preset.prune_layer == architecture.prune_layer == default_prune_layer(architecture.sizes().vit_blocks)


@pytest.mark.parametrize(("name", "published"), [("2b", 3.92e9 / 2), ("7b", 8.04e9)])
def test_the_sizes_of_videollama3_make_about_what_is_published(name, published):
    """The 2B's file has 3.92 GB in bfloat16; the 7B's was not found."""
    architecture = load_architecture(f"videollama3-{name}")
    assert architecture.num_parameters() == pytest.approx(published, rel=1e-3)
    preset = load_preset(f"videollama3-{name}")
    assert preset.prune_layer == architecture.prune_layer == default_prune_layer(architecture.sizes().vit_blocks)
    assert [architecture.at(n).layout.frame_size for n in (16, 64, 180)] == [(672, 1176), (336, 588), (196, 336)]


@pytest.mark.parametrize(("name", "published"), [("e2b", 5.1e9), ("e4b", 8e9)])
def test_the_sizes_of_gemma_4_make_what_is_published(name, published):
    """The audio encoder's among them, as in the model card."""
    architecture = load_architecture(f"gemma-4-{name}")
    assert architecture.num_parameters() == pytest.approx(published, rel=1e-2)
    preset = load_preset(f"gemma-4-{name}")
    assert preset.prune_layer == architecture.prune_layer == default_prune_layer(architecture.sizes().vit_blocks)
    assert architecture.at(64, (1080, 1080)).layout.grid == (24, 24)


def test_the_sizes_of_glm_4_6v_flash():
    """A listing says 10 billion weights; the mmproj file that llama.cpp makes of the ViT has 1.66 GB in float16."""
    architecture = load_architecture("glm-4.6v-flash")
    assert architecture.num_parameters() == 10_292_777_472
    preset = load_preset("glm-4.6v-flash")
    assert preset.prune_layer in (None, architecture.prune_layer)
    assert architecture.prune_layer == default_prune_layer(architecture.sizes().vit_blocks)
    assert [architecture.at(n).layout.frame_size for n in (16, 64, 128)] == [(728, 1288), (616, 1120), (448, 784)]
