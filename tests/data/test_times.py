"""Times of a video: what is read as which number of seconds, and what is refused."""

import pytest

from stts_cli.data.times import read_time

READ = [
    (0, 0.0), (1.5, 1.5), ("0", 0.0), ("12.5", 12.5), (".5", 0.5), (" 7 ", 7.0),
    ("0:01", 1.0), ("1:02.5", 62.5), ("1:02,500", 62.5), ("00:01:02.5", 62.5), ("01:00:00", 3600.0),
    ("75:10", 4510.0), ("99:59:59,999", 359999.999), ("00:00:00,000", 0.0), ("0:1", 1.0),
]  # fmt: skip
REFUSED = [
    -1, "-1", "-0:01", float("nan"), float("inf"), "nan", "inf", True, False, None, [1], "soon", "1e3", "12,5", "1,000",
    "0:60", "1:60:00", "100:00:00", "0:00:00:01", "1:", ":1", "1 s", "1:0 2", "\u0661:00",
]  # fmt: skip


@pytest.mark.parametrize(("value", "seconds"), READ)
def test_a_time_is_read(value, seconds):
    assert read_time(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", REFUSED)
def test_nonsense_is_refused(value):
    with pytest.raises(ValueError, match=r"^must be seconds from 0 on, or a clock time such as 0:01"):
        read_time(value)
