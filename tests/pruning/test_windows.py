import pytest
import torch

from stts_cli.pruning.windows import first_frames, gather_windows, patch_window, window_index


def test_grid_divided_evenly():
    assert window_index(4, 4, 2, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_odd_padding_goes_to_the_end():
    # five columns in threes: one empty column, split 0 before and 1 after
    assert window_index(1, 5, 1, 3).tolist() == [[0, 1, 2], [3, 4, -1]]
    # four in threes: two empty columns, one on each side
    assert window_index(1, 4, 1, 3).tolist() == window_index(4, 1, 3, 1).tolist() == [[-1, 0, 1], [2, 3, -1]]


@pytest.mark.parametrize("sizes", [(27, 27, 3, 3), (8, 8, 2, 2), (7, 10, 3, 4), (5, 5, 5, 5), (3, 2, 4, 4)])
def test_every_patch_belongs_to_one_window(sizes):
    index = window_index(*sizes)
    assert sorted(i for i in index.flatten().tolist() if i >= 0) == list(range(sizes[0] * sizes[1]))
    owner = patch_window(index, sizes[0] * sizes[1])
    for patch, window in enumerate(owner.tolist()):
        assert patch in index[window].tolist()


def test_gather_fills_empty_slots_with_zeros():
    x = torch.randn(2, 5, 3)
    windows = gather_windows(x, window_index(1, 5, 1, 3))
    assert torch.equal(windows, torch.cat([x, torch.zeros(2, 1, 3)], 1).view(2, 2, 3, 3))


def test_errors_name_both_counts():
    with pytest.raises(ValueError, match=r"hold 16 patches, a frame has 15"):
        patch_window(window_index(4, 4, 2, 2), 15)
    with pytest.raises(ValueError, match="at least 1"):
        window_index(4, 0, 2, 2)
    for lengths, num_frames in (([2, 3], 6), ([0, 6], 6), ([], 0)):
        with pytest.raises(ValueError, match=rf"add up to {sum(lengths)}, the batch has {num_frames}"):
            first_frames(lengths, num_frames)


def test_first_frames():
    assert first_frames([1, 3, 2], 6).tolist() == [True, True, False, False, True, False]
    assert first_frames([2], 2, "meta").is_meta
