import pytest
import torch

from stts_cli.pruning.placeholders import shrink_placeholders


def test_dropped_placeholders_go_and_markers_stay():
    ids = torch.tensor([1, 8, 9, 9, 7, 2, 8, 9, 9, 7, 3])
    keep = torch.tensor([[True, True], [False, True]])
    kept, index = shrink_placeholders(ids, 9, keep)
    assert kept.tolist() == [1, 8, 9, 9, 7, 2, 8, 9, 7, 3]
    assert index.tolist() == [True] * 7 + [False] + [True] * 3


def test_an_empty_frame_keeps_its_markers():
    ids = torch.tensor([8, 9, 9, 7, 8, 9, 9, 7])
    kept, _ = shrink_placeholders(ids, 9, torch.tensor([[True, True], [False, False]]))
    assert kept.tolist() == [8, 9, 9, 7, 8, 7]


def test_mismatch_names_both_counts():
    with pytest.raises(ValueError, match=r"holds 2 placeholders .* has 4 windows"):
        shrink_placeholders(torch.tensor([9, 9, 1]), 9, torch.ones(2, 2, dtype=torch.bool))
