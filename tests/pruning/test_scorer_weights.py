"""A learned scorer's weights, by the reference's names and this project's; all that is wrong with them is named."""

from __future__ import annotations

import re

import pytest
import torch

from stts_cli.pruning import TokenScorer
from stts_cli.pruning.scorer_weights import is_scorer_weight, scorer_from_state_dict

SIZES = {"hidden_size": 16, "num_heads": 2, "mlp_size": 32, "head_dim": 8}
OWN = TokenScorer(**SIZES).state_dict()
MODULES = {"pool.q_proj": "patch_token_pooler.wq", "pool.k_proj": "patch_token_pooler.wk",
           "pool.v_proj": "patch_token_pooler.wv", "pool.o_proj": "patch_token_pooler.wo",
           "mlp.fc1": "mlp.w1", "mlp.fc2": "mlp.w2", "mlp.fc3": "mlp.w3"}  # fmt: skip


def reference_name(name):
    module, kind = name.rsplit(".", 1)
    return f"{MODULES[module]}.{kind}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("temporal_token_scorer.mlp.w1.bias", True),
        ("vit.transformer.temporal_token_scorer.mlp.w1.bias", True),
        ("not_temporal_token_scorer.mlp.w1.bias", False),
        ("mlp.w1.bias", False),
    ],
)
def test_names_of_a_scorers_weights(name, expected):
    assert is_scorer_weight(name) == expected


@pytest.mark.parametrize("prefix", [None, "", "temporal_token_scorer.", "a.temporal_token_scorer."])
def test_a_scorer_comes_back_in_float32(prefix):
    stored = {name if prefix is None else prefix + reference_name(name): OWN[name].bfloat16() for name in OWN}
    for name, value in scorer_from_state_dict(stored, SIZES).state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, OWN[name].bfloat16().float()), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("mlp.fc2.bias"), "mlp.w2.bias is missing"),
        (lambda w: w.update({"mlp.w4.bias": torch.zeros(1)}), "mlp.w4.bias is not known"),
        (lambda w: w.update({"mlp.w1.bias": torch.zeros(32)}), "mlp.fc1.bias and mlp.w1.bias are the same weight"),
        (
            lambda w: w.update({"mlp.fc1.weight": torch.zeros(32, 16), "x": w.pop("pool.q_proj.weight")}),
            "mlp.fc1.weight is 32x16 where the model needs 32x32; x is not known; "
            "patch_token_pooler.wq.weight is missing",
        ),
    ],
)
def test_all_that_is_wrong_is_named(change, message):
    weights = dict(OWN)
    change(weights)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        scorer_from_state_dict(weights, SIZES)
