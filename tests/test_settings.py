"""What is decided about a video before any of it is decoded."""

import pickle

from stts_cli.settings import FixedLayout, Layout


def test_units_and_windows_of_a_layout():
    layout = Layout((10, 15), (5, 7), (2, 3), frames_per_unit=2)
    assert (layout.num_patches, layout.window_grid, layout.num_windows) == (35, (3, 3), 9)
    assert [layout.num_units(frames) for frames in (1, 2, 3, 4)] == [1, 1, 2, 2]
    assert Layout((10, 15), (5, 7), (2, 3)).num_units(3) == 3


def test_a_rule_goes_to_another_process():
    rule = FixedLayout(Layout((10, 10), (5, 5), (2, 2)))
    assert pickle.loads(pickle.dumps(rule))(480, 640, 8) == rule.layout
