"""Savings spent on frames by a family whose frames are the smaller the more there are."""

import numpy as np
import pytest

from stts_cli.engine.ask import ArmRun, _budget_notes
from stts_cli.engine.budget import FRAME_SIZE, layout_rule
from stts_cli.engine.model import VideoModel
from stts_cli.errors import InputError
from stts_cli.families import load_family
from stts_cli.media.clip import Clip
from stts_cli.settings import Arm
from tests.families.tiny_qwen3_vl import save_qwen3_vl


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return load_family(save_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl")))


def model_of(family, **settings):
    given = {"frames": 8, "keep_ratio": 0.5, "scorer": "random", "spend_savings": True}
    return VideoModel(family, Arm("pruned", "x", **{**given, **settings}))


def seen(model):
    """Look at a video that has as many frames as the model takes."""
    frames = np.zeros((model.frames, 45, 80, 3), np.uint8)
    return model.encode(Clip.from_frames(frames, [k / 2 for k in range(model.frames)]))


@pytest.mark.parametrize("pixels", ["frame", "total"])
def test_frames_are_as_large_as_the_budgets_or_all_together_are(family, pixels):
    dense, spends = seen(model_of(family, scorer="none", spend_savings=False)), model_of(family, spend_pixels=pixels)
    pruned = seen(spends)
    assert (len(dense.timestamps_s), len(pruned.timestamps_s)) == (8, 16)
    small, large = pruned.tokens.layout, dense.tokens.layout
    assert large.frame_size == (24, 40)
    assert small.frame_size == {"frame": (24, 40), "total": (16, 32)}[pixels]
    tokens = {"frame": len(dense.tokens.visual_tokens), "total": 8 * small.num_windows // 2}
    assert len(pruned.tokens.visual_tokens) == tokens[pixels]
    (note,) = _budget_notes(ArmRun("pruned", spends, pruned, []))
    size = {"frame": "16 frames of 40x24 px, 15 tokens a unit of 2, as large as 8 would be", "total": "of 32x16 px, 8 "}
    assert note.startswith(f"--budget-pixels {pixels}: ")
    assert size[pixels] in note


def test_a_shorter_video_is_as_large_as_it_is_dense(family):
    rule = layout_rule(family, Arm("pruned", "x", frames=8, spend_savings=True))
    for number in (1, 5, 8):
        assert rule(45, 80, number) == family.layout_rule(45, 80, number)
    assert rule(45, 80, 9) == rule(45, 80, 800) == family.layout_rule(45, 80, 8)
    assert rule(*rule(45, 80, 16).frame_size, 16) == rule(45, 80, 16), "frames of the size that it gave keep it"


@pytest.mark.parametrize("keep_ratio", [0.5, 0.2])
def test_flops_say_how_many_frames(family, keep_ratio):
    found = model_of(family, keep_ratio=keep_ratio, spend_by="flops").frames
    assert 8 < found < 8 / keep_ratio

    def flops(model, number):
        model.frames = number
        frames = np.random.default_rng(0).integers(0, 256, (number, *FRAME_SIZE, 3), np.uint8)
        return model.encode(Clip.from_frames(frames, [k / 2 for k in range(number)])).savings.total[1]

    budget = flops(model_of(family, scorer="none", spend_savings=False), 8)
    spends = model_of(family, keep_ratio=keep_ratio, spend_by="flops")
    assert flops(spends, found - 1) < 1.02 * budget
    assert flops(spends, found + 3) > 0.98 * budget


def test_flops_say_nothing_where_the_total_is_held(family):
    words = r"^--budget-by flops: cannot say how many frames with --budget-pixels total, .* use frame, or tokens\.$"
    with pytest.raises(InputError, match=words):
        model_of(family, spend_by="flops", spend_pixels="total")
    with pytest.raises(InputError, match=r"^--budget-pixels 'all': must be frame or total\.$"):
        Arm("pruned", "x", spend_pixels="all")
