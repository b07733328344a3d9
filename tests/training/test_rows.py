"""Rows against loops that a child could follow. What a model makes of them is test_training_model.py's business."""

import pytest
import torch

from stts_cli.training.rows import IGNORED, VideoTokens, assign_rows, write_apart, write_rows

PAD = 99


def video(prefix, visual, *conversations):
    return VideoTokens(torch.tensor(prefix), torch.tensor(visual, dtype=torch.bool), conversations)


def talk(ids, answers):
    """A conversation; `answers` names the places that the model has to say."""
    return ids, [place in answers for place in range(len(ids))]


@pytest.fixture
def three():
    return [
        video([10, 11, 12, 13], [0, 1, 1, 0], talk([20, 21, 22, 23], {2, 3}), talk([30, 31, 32], {2})),
        video([40, 41], [1, 1], talk([50, 51, 52, 53, 54, 55], {1, 2, 5})),
        video([60, 61, 62], [1, 0, 1], talk([70, 71], {1})),
    ]


def describe(videos, row):
    """Return of each token of a row (video, conversation or None, place since the video's start, visual, token)."""
    tokens = []
    for k in row:
        for place, token in enumerate(videos[k].prefix.tolist()):
            tokens.append((k, None, place, bool(videos[k].is_visual[place]), token))
        for number, (ids, _) in enumerate(videos[k].conversations):
            for place, token in enumerate(ids[:-1]):
                tokens.append((k, number, len(videos[k].prefix) + place, False, token))
    return tokens


def may_look(one, other):
    """Whether token `one` sees token `other`, both of one row and as `describe` gives them."""
    if one[0] != other[0] or (other[1] is not None and other[1] != one[1]):
        return False
    return other[2] <= one[2] or (one[3] and other[3])


@pytest.mark.parametrize("seq_len", [None, 1, 12, 20, 100])
def test_the_mask_is_a_naive_loops(three, seq_len):
    rows = write_rows(three, PAD, torch.float32, seq_len)
    dealt = assign_rows([len(v) for v in three], seq_len)
    assert rows.order == [k for row in dealt for k in row]
    blocked = torch.finfo(torch.float32).min
    for r, row in enumerate(dealt):
        tokens = describe(three, row)
        assert rows.input_ids[r, : len(tokens)].tolist() == [t[4] for t in tokens]
        assert rows.position_ids[r, : len(tokens)].tolist() == [t[2] for t in tokens]
        assert rows.is_visual[r, : len(tokens)].tolist() == [int(t[3]) for t in tokens]
        assert set(rows.input_ids[r, len(tokens) :].tolist()) <= {PAD}
        for i in range(rows.input_ids.shape[1]):
            for j in range(rows.input_ids.shape[1]):
                inside = i < len(tokens) and j < len(tokens)
                seen = may_look(tokens[i], tokens[j]) if inside else i == j
                assert rows.attention_mask[r, 0, i, j] == (0 if seen else blocked), (r, i, j)
    assert rows.attention_mask.shape == (len(dealt), 1, rows.input_ids.shape[1], rows.input_ids.shape[1])


def test_labels_are_the_tokens_that_follow_in_answers_only(three):
    rows = write_rows(three, PAD, torch.float32, 100)
    x = IGNORED
    assert rows.order == [0, 1, 2]
    assert rows.input_ids.tolist() == [[10, 11, 12, 13, 20, 21, 22, 30, 31, 40, 41, 50, 51, 52, 53, 54, 60, 61, 62, 70]]
    assert rows.labels.tolist() == [[x, x, x, x, x, 22, 23, x, 32, x, x, 51, 52, x, x, 55, x, x, x, 71]]
    assert rows.answer_ids.tolist() == [[-1, -1, -1, -1, -1, 0, 0, -1, 1, -1, -1, 2, 2, -1, -1, 3, -1, -1, -1, 4]]
    assert rows.num_answers == 5


def test_answers_are_counted_over_the_videos_as_given_not_as_they_stand_in_the_rows(three):
    turned = [three[2], three[0], three[1]]  # lengths 4, 9, 7
    rows = write_rows(turned, PAD, torch.float32, 13)
    assert rows.order == [1, 0, 2]
    assert rows.input_ids.tolist()[1] == [40, 41, 50, 51, 52, 53, 54, *[PAD] * 6]
    assert rows.answer_ids[rows.answer_ids >= 0].tolist() == [1, 1, 2, 0, 3, 3, 4]
    assert rows.labels[rows.answer_ids == 0].tolist() == [71]


@pytest.mark.parametrize(
    ("lengths", "seq_len", "rows"),
    [
        ([5, 3, 4], None, [[0], [1], [2]]),
        ([5, 3, 4], 5, [[0], [2], [1]]),
        ([5, 3, 4], 8, [[0, 1], [2]]),
        ([3, 3, 7, 2, 5], 10, [[2, 0], [4, 1, 3]]),  # 7 + 3, 5 + 3 + 2: first fit, the longest first
        ([2, 2, 2], 4, [[0, 1], [2]]),  # equals stay in order
        ([4, 20, 3], 10, [[1], [0, 2]]),  # too long for any row: one of its own
        ([20, 20], 10, [[0], [1]]),
        ([7], 10, [[0]]),
    ],
)
def test_rows_are_filled_first_fit_the_longest_first(lengths, seq_len, rows):
    assert assign_rows(lengths, seq_len) == rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_row_of_the_mask_is_empty(three, dtype):
    mask = write_rows(three, PAD, dtype).attention_mask
    assert mask.dtype == dtype
    assert (mask == 0).any(-1).all()
    assert set(mask.flatten().tolist()) == {0.0, float(torch.finfo(dtype).min)}


def test_apart_each_conversation_stands_behind_its_own_video(three):
    rows, x = write_apart(three, PAD), IGNORED
    assert rows.order == [0, 0, 1, 2], "the visual tokens of the first video come twice"
    assert rows.input_ids.tolist() == [
        [10, 11, 12, 13, 20, 21, 22], [10, 11, 12, 13, 30, 31, PAD], [40, 41, 50, 51, 52, 53, 54],
        [60, 61, 62, 70, PAD, PAD, PAD],
    ]  # fmt: skip
    assert rows.labels.tolist()[1:] == [[x, x, x, x, x, 32, x], [x, x, 51, 52, x, x, 55], [x, x, x, 71, x, x, x]]
    assert rows.answer_ids[rows.answer_ids >= 0].tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert rows.num_answers == 5
    assert rows.attention_mask is rows.position_ids is None, "plainly causal: padding is behind all"
    placed = [VideoTokens(v.prefix, v.is_visual, v.conversations, torch.arange(len(v.prefix)) + 5) for v in three]
    assert write_apart(placed, PAD).position_ids.tolist()[3] == [5, 6, 7, 8, 0, 0, 0]
