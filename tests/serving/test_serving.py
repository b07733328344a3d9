"""The plug-in inside vLLM, on the CPU, against vLLM's own class and our path on transformers.

vLLM has an environment of its own: STTS_VLLM_PYTHON names its interpreter. `.ci/serving` makes one and runs these.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.serving.cases import CASES
from tests.serving.conftest import NEEDS_VLLM, PYTHON

pytestmark = [pytest.mark.serving, NEEDS_VLLM]
CLOSE = 1e-4  # nats


@pytest.fixture(scope="session")
def expected(folder):
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def vllm(folder):
    """Return what runs a check of worker.py in vLLM's environment."""

    def run(*check):
        worker = Path(__file__).with_name("worker.py")
        done = subprocess.run([PYTHON, worker, folder, *check], capture_output=True, text=True, timeout=600)
        lines = [line.partition("RESULT ")[2] for line in done.stdout.splitlines() if "RESULT " in line]
        assert lines, done.stderr[-3000:]
        return json.loads(lines[0])

    return run


def differ(one, other):
    """Return how far two answers are apart in nats; they say the same."""
    assert one["tokens"] == other["tokens"]
    return np.abs(np.subtract(one["log_probs"], other["log_probs"])).max()


@pytest.mark.parametrize("scorer", ["learned", "temporal", "reference", "random"])
def test_a_pruned_video_is_answered_as_on_transformers(vllm, expected, scorer):
    found = vllm("cases", scorer)
    assert set(found) == {name for name, (*_, settings) in CASES.items() if settings["scorer"] == scorer}
    for name, answer in found.items():
        ours = {key: expected[f"{name}/{key}"].tolist() for key in ("tokens", "log_probs", "positions")}
        assert differ(answer, ours) < CLOSE, name
        assert answer["positions"] == ours["positions"], f"{name}: in all three axes"


def test_a_model_with_experts_is_pruned_alike(vllm, expected):
    for name, answer in vllm("experts").items():
        ours = {key: expected[f"{name}/{key}"].tolist() for key in ("tokens", "log_probs")}
        assert differ(answer, ours) < CLOSE, name


def test_at_keep_ratio_1_it_is_vllms_own(vllm):
    stock, ours = vllm("stock")
    assert stock.keys() == ours.keys()
    for name, answer in stock.items():
        assert differ(answer, ours[name]) == 0, name


def test_requests_are_answered_as_if_alone(vllm):
    """Together, again from vLLM's caches, and in chunks that split a video."""
    found = vllm("alone")
    alone = found.pop("alone")
    assert len(found) == 4
    for how, answers in found.items():
        for name, answer in answers.items():
            assert differ(answer, alone[name]) < CLOSE, (how, name)
    assert alone["long"]["steps"] == 1
    assert found["chunks of 48"]["long"]["steps"] > 10


def test_two_settings_never_share_features(vllm):
    found = vllm("keys")
    names = [name for names in found.values() for name in names]
    assert len(names) == len(set(names)) == 3, "each request was encoded anew"
    other = vllm("keys", "reference")
    assert not set(names) & {name for names in other.values() for name in names}


def test_wrong_settings_are_refused_when_it_starts(vllm):
    found = vllm("refused")
    for name, line in {
        "key": "stts: keep: is unknown; known: keep_ratio, prune_layer, scorer, seed.",
        "ratio": "stts: keep_ratio 2: must be greater than 0 and at most 1.",
        "scorer": "stts: scorer tome: is no folder; must be temporal, reference, random or a trained scorer's.",
        "layer": "stts: prune_layer 9: must be 0 to 3;",
        "rate": "stts: --video-pruning-rate: is missing; give 0.5",
        "data parallel": "stts: --mm-encoder-tp-mode data: cannot go with pruned videos; leave it out.",
    }.items():
        assert line in found[name], name


def test_a_requests_wrong_setting_costs_that_request(vllm, expected):
    found = vllm("bad_requests")
    assert found.pop("then") == expected["temporal/tokens"].tolist()
    assert list(found.values()) == [
        "stts: keep_ratio 0: must be greater than 0 and at most 1.",
        "stts: {'scorer': 'random'}: a request may set keep_ratio alone, 1 for every window.",
        "stts: keep_ratio 'half': must be greater than 0 and at most 1.",
    ]
