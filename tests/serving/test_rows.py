"""Where rows stand in a prompt, and what settings mean; no vLLM is needed."""

import json

import pytest
import torch

from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.serving import rows
from stts_cli.serving.plugin import is_supported
from stts_cli.serving.settings import ServingSettings, requested_ratio
from stts_cli.settings import Pruning
from tests.families.tiny_qwen3_vl import save_qwen3_vl


def test_positions_are_those_of_transformers(tmp_path):
    """Of a text, a video of three units with times of different length, and a text."""

    family = load_family(save_qwen3_vl(tmp_path))
    layout = family.layout_rule(16, 40, 6)
    times = [0.0, 0.5, 9.5, 10.5, 99.5, 100.5]
    keep = torch.ones(3, layout.num_windows, dtype=torch.bool)
    prompt = family.build_prompt(times, "What?", keep, layout=layout)
    ids, expected = prompt.input_ids[0], prompt.position_ids[:, 0]
    number = [len(f"<{(a + b) / 2:.1f} seconds>") + 1 for a, b in zip(times[::2], times[1::2], strict=True)]
    found, visual = rows.positions_of_video(number, *layout.window_grid)
    first = int((ids == family.tokenizer.convert_tokens_to_ids("<")).nonzero()[0])
    stretch = slice(first, first + len(found))
    assert torch.equal(visual, ids[stretch] == family.model.config.video_token_id)
    assert torch.equal(found.T + first, expected[:, stretch])
    text, ahead = rows.positions_of_prompt(len(ids), [(first, len(found), int(found.max()) + 1)])
    outside = torch.ones_like(ids, dtype=torch.bool)
    outside[stretch] = False
    assert torch.equal(text[:, outside], expected[:, outside])
    assert ahead == int(expected.max()) + 1 - len(ids)
    assert rows.place(text, torch.cat([found, torch.arange(len(found))[:, None], torch.zeros(len(found), 1)], 1).long(),
                      first) == stretch.stop  # fmt: skip
    assert torch.equal(text, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_columns_are_exact_in_every_dtype(dtype):
    positions = torch.tensor([[0, 1, 255], [256, 257, 65_535], [65_536, 70_000, 2**24 - 1]])
    found, numbers = rows.without_columns(rows.with_columns(torch.ones(3, 4, dtype=dtype), positions, 7))
    assert torch.equal(found, torch.ones(3, 4, dtype=dtype))
    assert torch.equal(numbers[:, :3], positions)
    assert numbers[:, 3].tolist() == [0, 1, 2]
    assert numbers[:, 4].tolist() == [7, 7, 7]


def test_slices_of_a_stretch_give_what_the_whole_gives():
    found, _ = rows.positions_of_video([4, 6], 2, 3)
    with_all = rows.with_columns(torch.zeros(len(found), 2), found, 4)
    whole, _ = rows.positions_of_prompt(40, [(5, len(found), int(found.max()) + 1)])
    parts = whole.clone()
    rows.place(whole, rows.without_columns(with_all)[1], 5)
    at = 5
    for part in with_all.split(7):
        at = rows.place(parts, rows.without_columns(part)[1], at)
    assert at == 5 + len(found)
    assert torch.equal(parts, whole)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (None, r"stts: is missing; give --hf-overrides '\{\"stts\": \{\"keep_ratio\": 0\.5\}\}'\."),
        ({"keep_ration": 1}, "stts: keep_ration: is unknown; did you mean 'keep_ratio'"),
        ({"keep_ratio": 0}, "stts: keep_ratio 0: must be greater than 0 and at most 1"),
        ({"prune_layer": "last"}, "stts: prune_layer .last.: spares the language model alone"),
        ({"prune_layer": 23}, "stts: prune_layer 23: must be 0 to 21"),
        ({"scorer": "/nowhere"}, "stts: scorer /nowhere: is no folder; must be temporal, reference, random"),
        ({"scorer": "tests"}, "stts: scorer tests: holds no learned scorer"),
    ],
)
def test_a_wrong_setting_is_one_line(given, line):
    with pytest.raises(InputError, match=line):
        ServingSettings.of(given, 24)


def test_settings_are_the_scorers_own_unless_given(tmp_path):
    document = {"format": 2, "scorer": "learned", "scorer_file": "scorer.safetensors", "prune_layer": 5,
                "keep_ratio": 0.3, "bias_rescale": "frame", "prune_from_frame": 4}  # fmt: skip
    (tmp_path / "stts.json").write_text(json.dumps(document))
    (tmp_path / "scorer.safetensors").write_bytes(b"weights")
    found = ServingSettings.of({"scorer": str(tmp_path)}, 24)
    assert found.pruning == Pruning(5, 0.3, "frame", prune_from_frame=4, scorer="learned")
    assert found.weights == tmp_path / "scorer.safetensors"
    assert str(found) == "learned scorer after block 5, keep ratio 0.3"
    other = ServingSettings.of({"scorer": str(tmp_path), "keep_ratio": 0.5}, 24)
    assert other.pruning.keep_ratio == 0.5
    keys = [found.key, other.key]
    (tmp_path / "scorer.safetensors").write_bytes(b"other weights")
    keys.append(found.key)
    assert len(set(keys)) == 3, "each has its own place in vLLM's caches"
    assert ServingSettings.of({}, 24).pruning.prune_layer == 3, "about as deep as in the paper"
    assert ServingSettings.of({}, 24).pruning.scorer == "temporal"


def test_a_request_may_set_its_keep_ratio_alone():
    settings = ServingSettings.of({"keep_ratio": 0.4}, 24)
    assert requested_ratio({}, settings) == 0.4
    assert requested_ratio({"fps": 2, "stts": {"keep_ratio": 1}}, settings) == 1.0
    for wrong in ({"keep_ratio": 1.5}, {"scorer": "random"}, {}, 0.5):
        with pytest.raises(ValueError, match=r"^stts: "):
            requested_ratio({"stts": wrong}, settings)


@pytest.mark.parametrize(
    ("version", "yes"), [("0.32.0", True), ("0.33.1+cpu", True), ("0.31.9", False), ("0.34.0", False), ("dev", False)]
)
def test_only_releases_that_were_tested_are_taken(version, yes):
    assert is_supported(version) == yes
