import pytest
import torch

from stts_cli.pruning.tome import merge_windows
from stts_cli.pruning.windows import patch_window, window_index

INDEX = window_index(4, 4, 2, 2)


def test_the_two_alike_windows_merge():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 8)
    x[1, INDEX[3]] = x[1, INDEX[2]] + 0.01 * torch.randn(4, 8)  # windows 2 (even) and 3 (odd) look alike
    keep, merge = merge_windows(x, INDEX, [1], [2])
    assert keep[0].all()
    assert keep[1].tolist() == [True, True, False, True]
    other = torch.randn(2, 16, 8)
    merged = merge(other)
    torch.testing.assert_close(merged[1, INDEX[3]], (other[1, INDEX[2]] + other[1, INDEX[3]]) / 2)
    assert torch.equal(merged[1, INDEX[1]], other[1, INDEX[1]])
    assert torch.equal(merged[0], other[0])


@pytest.mark.parametrize(("dropped", "kept"), [(0, 36), (9, 27), (20, 16), (24, 12)])
def test_budget_over_several_rounds_and_mass_is_kept(dropped, kept):
    torch.manual_seed(0)
    index = window_index(6, 6, 2, 2)
    x = torch.randn(4, 36, 8)
    keep, merge = merge_windows(x, index, [dropped], [4])
    assert int(keep.sum()) == kept
    assert keep[0].all()
    per_frame = (~keep[1:]).sum(1)
    assert per_frame.max() - per_frame.min() <= 1
    # a constant stays a constant under size-weighted means
    merged = merge(torch.full((4, 36, 8), 3.0))[keep[:, patch_window(index, 36)]]
    torch.testing.assert_close(merged, torch.full_like(merged, 3.0))


def test_sizes_weigh():
    # one frame of four windows, three of them merged into the last one left: its mean counts each window once
    torch.manual_seed(0)
    x = torch.randn(2, 16, 8)
    keep, merge = merge_windows(x, INDEX, [3], [2])
    assert int(keep[1].sum()) == 1
    survivor = int(keep[1].nonzero())
    torch.testing.assert_close(merge(x)[1, INDEX[survivor]], x[1][INDEX].mean(0))


def test_a_slot_that_a_border_window_leaves_empty_does_not_weigh():
    index = window_index(5, 5, 2, 2)
    keep, merge = merge_windows(torch.randn(3, 25, 8, generator=torch.Generator().manual_seed(0)), index, [14], [3])
    assert int(keep.sum()) == 27 - 14
    merged = merge(torch.full((3, 25, 8), 3.0))[keep[:, patch_window(index, 25)]]
    torch.testing.assert_close(merged, torch.full_like(merged, 3.0))


def test_of_equal_pairs_the_first_merge():
    x = torch.ones(2, 16 * 16, 4)
    keep, _ = merge_windows(x, window_index(16, 16, 2, 2), [10], [2])
    assert (~keep[1]).nonzero().flatten().tolist() == list(range(0, 20, 2))


def test_last_window_of_a_frame_stays():
    keep, _ = merge_windows(torch.randn(2, 16, 8), INDEX, [4], [2])
    assert int(keep[1].sum()) == 1


def naive_tome(x, index, quota):
    """One frame, in plain loops: groups of windows, each with its members; the mean over members is its vector."""
    groups = {w: [w] for w in range(len(index))}
    table = index.tolist()

    def vector(members):
        v = torch.stack([x[[p for p in table[w] if p >= 0]].mean(0) for w in members]).mean(0)
        return v / v.norm()

    def patches(target, members):
        """Return the means of the slots that the target fills, each over the members that fill it."""
        slots = [s for s, p in enumerate(table[target]) if p >= 0]
        return torch.stack([torch.stack([x[table[w][s]] for w in members if table[w][s] >= 0]).mean(0) for s in slots])

    while quota:
        alive = sorted(groups)
        a, b = alive[0::2], alive[1::2]
        links = []
        for source in a:
            similarity, into = max((float(vector(groups[source]) @ vector(groups[t])), t) for t in b)
            links.append((similarity, source, into))
        for _, source, into in sorted(links, reverse=True)[:quota]:
            groups[into] = groups[into] + groups.pop(source)
            quota -= 1
    return {target: patches(target, members) for target, members in groups.items()}


@pytest.mark.parametrize("grid", [8, 7])  # 7: the windows of the last row and column are cut
@pytest.mark.parametrize("quota", [2, 7, 13, 14])
def test_equals_a_loop(quota, grid):
    index = window_index(grid, grid, 2, 2)
    x = torch.randn(26, grid * grid, 3, generator=torch.Generator().manual_seed(quota))
    keep, merge = merge_windows(x, index, [0, 24 * quota], [1, 25])
    merged = merge(x)
    assert keep[:2].all()
    for t in range(2, 26):
        expected = naive_tome(x[t], index, quota)
        assert keep[t].nonzero().flatten().tolist() == sorted(expected)
        for window, patches in expected.items():
            torch.testing.assert_close(merged[t, index[window][index[window] >= 0]], patches)


def test_a_budget_for_each_video():
    with pytest.raises(ValueError, match="zip"):
        merge_windows(torch.randn(3, 16, 8), INDEX, [1], [2, 1])
