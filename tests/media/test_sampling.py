from __future__ import annotations

import itertools

import numpy as np
import pytest

from stts_cli.errors import InputError
from stts_cli.media.sampling import sample_indices

FIVE_SECONDS = np.arange(50) / 10


@pytest.mark.parametrize(
    ("num_frames", "max_fps", "expected"),
    [
        (8, 1.0, [0, 10, 20, 30, 40, 49]),  # fits the budget: every second, and the last frame
        (6, 1.0, [0, 10, 20, 30, 40, 49]),
        (5, 1.0, [0, 12, 25, 37, 49]),  # does not: spread evenly
        (2, 1.0, [0, 49]),
        (1, 1.0, [0]),
        (200, 1000.0, list(range(50))),  # never more than there are
    ],
)
def test_sampling_is_uniform_and_takes_the_last_frame(num_frames, max_fps, expected):
    chosen = sample_indices(FIVE_SECONDS, num_frames, max_fps)
    assert np.abs(np.array(chosen) - np.array(expected)).max() <= (1 if num_frames == 5 else 0)
    assert len(chosen) == len(expected)


def test_sampling_follows_time_not_index():
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 5.0, 10.0]  # a variable frame rate: most frames at the start
    assert sample_indices(times, 3, 2.0) == [0, 5, 6]


@pytest.mark.parametrize(
    ("times", "num_frames", "max_fps", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0], 3, 9.0, [0, 2, 3]),  # 1.5 s is as near to frame 1 as to frame 2: the later is taken
        ([0.0, 1.0, 2.0, 3.0, 4.0], 20, 2.0, [0, 1, 2, 3, 4]),  # 0.5 s too
        ([0.0, 0.75, 2.25, 3.0], 3, 9.0, [0, 2, 3]),
        ([0.0, 0.75, 2.5, 3.0], 3, 9.0, [0, 1, 3]),  # 0.75 s is nearer to 1.5 s than 2.5 s
        ([0.0, 0.5, 2.25, 3.0], 3, 9.0, [0, 2, 3]),
        ([8.0, 9.0, 10.0, 11.0], 2, 9.0, [0, 3]),  # a clip that does not begin at 0
        ([8.0, 9.0, 10.0, 11.0], 9, 0.5, [0, 2, 3]),
        ([8.0, 8.5, 9.0, 9.5, 10.0], 3, 1.0, [0, 2, 4]),  # fits the budget to the frame
        ([1.0, 1.1, 1.2, 1.3], 9, 10.0, [0, 1, 2, 3]),  # three steps of 0.1 s end behind 1.3 s
        ([5.0], 4, 1.0, [0]),
        ([5.0], 4, 1e308, [0]),
        ([1.0, 2.0, 3.0], 2, 1e308, [0, 2]),
    ],
)
def test_the_nearest_frame_is_taken_and_of_two_as_near_the_later(times, num_frames, max_fps, expected):
    assert sample_indices(times, num_frames, max_fps) == expected


@pytest.mark.parametrize(("num_frames", "max_fps"), list(itertools.product([1, 2, 3, 7, 64], [0.3, 1.0, 2.0, 7.5])))
def test_sampling_keeps_both_promises(num_frames, max_fps):
    for length in (1, 2, 3, 29, 300):
        times = np.arange(length) / 29.97
        chosen = sample_indices(times, num_frames, max_fps)
        assert 1 <= len(chosen) <= num_frames
        assert chosen[0] == 0
        assert chosen == sorted(set(chosen))
        if num_frames > 1:
            assert chosen[-1] == length - 1
        gaps = np.diff(times[chosen])[:-1]  # the last frame may follow sooner
        assert (gaps > 1 / max_fps - 1 / 29.97).all()


@pytest.mark.parametrize(
    ("num_frames", "max_fps", "message"),
    [
        (0, 1.0, "--frames 0: must be at least 1."),
        (-3, 1.0, "--frames -3: must be at least 1."),
        (4, 0.0, "--max-fps 0: must be greater than 0, and finite."),
        (4, -1.0, "--max-fps -1: must be greater than 0, and finite."),
        (4, float("inf"), "--max-fps inf: must be greater than 0, and finite."),
        (4, float("nan"), "--max-fps nan: must be greater than 0, and finite."),
    ],
)
def test_sampling_refuses_a_budget_out_of_range(num_frames, max_fps, message):
    with pytest.raises(InputError) as caught:
        sample_indices(FIVE_SECONDS, num_frames, max_fps)
    assert str(caught.value) == message
