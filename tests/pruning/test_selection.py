import pytest
import torch

from stts_cli.errors import InputError
from stts_cli.pruning.selection import select_windows
from stts_cli.settings import Pruning, check_prune_layer, num_dense_blocks, num_dropped, read_prune_layer, scored_block

# (frames, windows, keep ratio, prune_from_frame, dropped): int(torch.tensor(W * (1 - keep), dtype=torch.float32) * T')
BUDGETS = [
    (64, 81, 0.5, 0, 2592),
    (64, 81, 0.7, 0, 1555),
    (64, 81, 0.3, 0, 3628),
    (64, 81, 0.2, 0, 4147),
    (128, 81, 0.7, 0, 3110),
    (384, 81, 0.5, 0, 15552),
    (8, 16, 0.5, 0, 64),
    (7, 9, 0.5, 0, 31),
    (10, 1, 0.9, 0, 1),  # 1 - 0.9 is below 0.1 in float64; in float32 it is not
    (10, 10, 0.9, 0, 10),
    (3, 81, 1 / 3, 0, 162),
    (2, 16, 0.5, 0, 16),
    (1, 81, 0.1, 0, 0),
    (64, 81, 1.0, 0, 0),
    (64, 81, 0.5, 1, 2551),
    (64, 81, 0.5, 60, 162),
    (8, 16, 0.5, 8, 0),
    (8, 16, 0.5, 99, 0),
    (8, 16, 0.0625, 0, 112),  # 120 asked, but the first frame always stays
    (2, 81, 0.2, 0, 81),
    (2, 81, 0.2, 1, 64),
]


@pytest.mark.parametrize(("frames", "windows", "keep", "start", "dropped"), BUDGETS)
def test_budget_table(frames, windows, keep, start, dropped):
    assert num_dropped(frames, windows, keep, start) == dropped
    asked = int(torch.tensor(windows * (1 - keep), dtype=torch.float32) * max(0, frames - start))
    assert dropped == min(asked, windows * (frames - 1))


def test_the_product_of_the_budget_is_float32s():
    """Against torch, and there are cases where float64 gives another number."""
    differ = 0
    for frames in range(3, 385):
        for keep in (0.3, 0.5, 0.7, 0.9):
            asked = int(torch.tensor(81 * (1 - keep), dtype=torch.float32) * frames)
            assert num_dropped(frames, 81, keep) == min(asked, 81 * (frames - 1))
            differ += asked != int(81 * (1 - keep) * frames)
    assert differ


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_keep_ratio_out_of_range(keep):
    with pytest.raises(InputError, match=r"--keep-ratio .*: must be greater than 0 and at most 1\."):
        num_dropped(4, 16, keep)


def test_the_bounds_of_the_prune_layer():
    for layer in (0, 4):
        check_prune_layer(layer, 7)
    for layer in (-1, 5):
        with pytest.raises(InputError, match=rf"^--prune-layer {layer}: must be 0 to 4; 7 ViT blocks run, "):
            check_prune_layer(layer, 7)


@pytest.mark.parametrize(
    ("arguments", "merges", "dropped", "note"),
    [
        ((4, 16, 0.25, 0), False, 48, None),
        ((4, 16, 0.25, 0), True, 45, ("4 frames", ", and a window of every other", 19, 64, 16)),
        ((2, 16, 0.25, 0), False, 16, ("2 frames", "", 16, 32, 8)),
        ((2, 16, 0.25, 1), False, 12, None),
        ((1, 16, 0.25, 0), False, 0, ("1 frame", "", 16, 16, 4)),
        ((1, 16, 1.0, 0), False, 0, None),
    ],
)
def test_a_budget_that_cannot_be_met_is_clamped_and_said(arguments, merges, dropped, note):
    assert num_dropped(*arguments, merges=merges) == dropped
    text = "keep ratio 0.25 of {}: the first frame always stays{}, so {} of {} windows were kept instead of {}"
    num_units, num_windows, keep_ratio, first = arguments
    pruning = Pruning(keep_ratio=keep_ratio, prune_from_frame=first, scorer="tome" if merges else "random")
    assert pruning.clamp_note(num_units, num_windows) == (text.format(*note) if note else "")
    assert pruning.override(scorer="none").clamp_note(num_units, num_windows) == ""


def naive_selection(scores, dropped, lengths):
    keep, start = [], 0
    for length, number in zip(lengths, dropped, strict=True):
        rows = [list(r) for r in scores[start : start + length].tolist()]
        places = [(rows[t][w], t, w) for t in range(length) for w in range(len(rows[0])) if t >= 1]
        places.sort()
        mask = [[True] * len(rows[0]) for _ in rows]
        for _, t, w in places[:number]:
            mask[t][w] = False
        keep += mask
        start += length
    return keep


@pytest.mark.parametrize("keep_ratio", [1.0, 0.7, 0.5, 0.3])
@pytest.mark.parametrize("prune_from", [0, 2])
def test_selection_equals_a_loop(keep_ratio, prune_from):
    lengths = [5, 1, 8, 4]
    scores = torch.rand(18, 9, generator=torch.Generator().manual_seed(1)).round(decimals=1)  # with many ties
    dropped = [num_dropped(length, 9, keep_ratio, prune_from) for length in lengths]
    assert select_windows(scores, dropped, lengths).tolist() == naive_selection(scores, dropped, lengths)


def test_first_frame_stays_though_it_scores_lowest():
    scores = torch.ones(4, 6)
    scores[0] = -1.0
    keep = select_windows(scores, [18], [4])
    assert keep[0].all()
    assert not keep[1:].any()


def test_budget_is_clip_wide():
    scores = torch.full((3, 4), 0.9)
    scores[1] = 0.1
    assert select_windows(scores, [4], [3]).tolist() == [[True] * 4, [False] * 4, [True] * 4]


def test_a_budget_for_each_video():
    with pytest.raises(ValueError, match="zip"):
        select_windows(torch.rand(3, 4), [1], [2, 1])


def test_no_gradient_passes():
    scores = torch.rand(4, 4, requires_grad=True)
    assert not select_windows(scores, [8], [4]).requires_grad


@pytest.mark.parametrize(("layer", "scored", "dense"), [(0, 0, 2), (4, 4, 6), ("last", 6, 7)])
def test_which_block_is_scored_and_how_many_see_every_patch(layer, scored, dense):
    check_prune_layer(layer, 7)
    assert Pruning(prune_layer=layer).prune_layer == layer
    assert scored_block(layer, 7) == scored
    assert num_dense_blocks(layer, 7) == dense
    assert read_prune_layer(str(layer)) == layer


@pytest.mark.parametrize("text", ["first", "", "1.5", "Last"])
def test_what_is_no_prune_layer(text):
    for use in (read_prune_layer, lambda text: Pruning(prune_layer=text)):
        with pytest.raises(InputError, match=rf"^--prune-layer {text}: must be a whole number, at least 0, or last\.$"):
            use(text)
