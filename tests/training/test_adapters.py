"""LoRA through peft: where the adapters sit, what trains, and that nothing else of the family changes."""

import pytest
import torch

from stts_cli.config.molmo2 import AdapterConfig, Molmo2Shape, Molmo2TextConfig, VisionConfig
from stts_cli.config.shapes import Architecture
from stts_cli.errors import InputError
from stts_cli.families.random_model import random_family
from stts_cli.training.adapters import add_lora, has_lora

HEADS = {"num_attention_heads": 2, "head_dim": 8}
SHAPE = Molmo2Shape(
    description="",
    vision_config=VisionConfig(
        **HEADS, hidden_size=16, intermediate_size=32, num_hidden_layers=7, image_size=[24, 24], patch_size=4
    ),
    adapter_config=AdapterConfig(**HEADS, hidden_size=16, intermediate_size=32, vision_feature_layer=[5, 4]),
    text_config=Molmo2TextConfig(
        **HEADS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_key_value_heads=1, vocab_size=300,
        max_position_embeddings=512,
    ),
    pooling=[2, 2],
    prune_layer=2,
    keep_ratio=0.5,
)  # fmt: skip
TINY = Architecture("tiny", SHAPE, prune_layer=2)
LLM_LINEAR, VIT_LINEAR = 7, 6  # linear layers of a block


@pytest.fixture
def family():
    return random_family(TINY, device=torch.device("cpu"), dtype=torch.float32)


def trainable(family):
    return {name for name, parameter in family.model.named_parameters() if parameter.requires_grad}


def logits(family, **settings):
    frames = torch.randint(0, 256, (4, 24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoded = family.encode(
        family.preprocess(frames), family.settings.override(**{"keep_ratio": 0.5, "scorer": "learned", **settings})
    )
    ids = torch.arange(6)[None]
    said = family.model(input_ids=ids, use_cache=False).logits
    return encoded.visual_tokens, said


def test_adapters_start_as_nothing(family):
    with torch.no_grad():
        before = [logits(family), logits(family, keep_ratio=1.0, scorer="none")]
        add_lora(family, rank=2, vit=True)
        after = [logits(family), logits(family, keep_ratio=1.0, scorer="none")]
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_only_the_language_models_linear_layers_unless_asked(family):
    assert not has_lora(family)
    add_lora(family, rank=2)
    assert has_lora(family)
    names = trainable(family)
    assert len(names) == 2 * 2 * LLM_LINEAR  # A and B, two blocks
    assert all(name.startswith("model.language_model.layers.") and ".lora_" in name for name in names)
    assert all(parameter.requires_grad for parameter in family.scorer.parameters())


def test_the_vits_idle_block_gets_none(family):
    """Block 6 comes behind the deepest that the connector reads: what never runs would have no gradient."""
    add_lora(family, rank=2, vit=True)
    vit = {name for name in trainable(family) if "vision_tower" in name}
    assert len(vit) == 2 * 6 * VIT_LINEAR
    assert not any(".layers.6." in name for name in vit)
    assert not any("multi_modal_projector" in name for name in trainable(family))


def test_every_adapter_learns_and_nothing_else(family):
    add_lora(family, rank=2, vit=True)
    with torch.no_grad():
        for name, parameter in family.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = {name: value.clone() for name, value in family.model.state_dict().items()}
    visual, said = logits(family)
    (visual.square().sum() + said.square().sum()).backward()
    for name, parameter in family.model.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (".lora_" in name), name
    assert all(parameter.grad is not None for parameter in family.scorer.parameters())
    torch.optim.SGD([p for p in family.model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {name for name, value in family.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trainable(family)


def test_the_adapters_are_what_peft_makes(family):
    """Output = W x + alpha / rank * B A x, computed for one layer."""
    add_lora(family, rank=3, alpha=12)
    layer = family.model.model.language_model.layers[0].mlp.up_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        x = torch.randn(5, 16)
        low = x @ layer.lora_A["default"].weight.T
        assert low.shape == (5, 3)
        expected = x @ layer.base_layer.weight.T + 4 * low @ layer.lora_B["default"].weight.T
        torch.testing.assert_close(layer(x), expected)


def test_adapters_of_a_bfloat16_model_are_float32():
    family = random_family(TINY, device=torch.device("cpu"), dtype=torch.bfloat16)
    add_lora(family, rank=2, vit=True)
    assert {p.dtype for p in family.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in family.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    visual, said = logits(family)
    assert visual.dtype == said.dtype == torch.bfloat16
    assert family.model.dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [{"rank": 0}, {"alpha": 0}, {"rank": -1}])
def test_values_out_of_range(family, bad):
    with pytest.raises(InputError, match=r"^--lora-(rank|alpha) (0|-1): must be greater than 0\.$"):
        add_lora(family, **bad)
    assert not has_lora(family)


def test_not_twice(family):
    add_lora(family)
    with pytest.raises(InputError, match="tiny: has adapters already"):
        add_lora(family)
