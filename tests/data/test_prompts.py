"""Letters of options, and the subtitles that stand around the frames seen."""

import pytest

from stts_cli.data.items import Cue, given_letter, letter
from stts_cli.data.prompts import subtitle_block


def test_an_index_that_is_no_option_is_refused():
    assert [letter(index, 3) for index in (0, "2", " 1 ")] == ["A", "C", "B"]
    for index in (-1, 3, "-1"):
        with pytest.raises(ValueError, match=rf"answer {index} of 3 options"):
            letter(index, 3)
    with pytest.raises(ValueError, match="answer 'D' of 3 options"):
        given_letter("D", 3)


@pytest.mark.parametrize(("time", "shown"), [(3.9, False), (4.0, True), (6.0, True), (8.0, True), (8.1, False)])
def test_a_cue_is_shown_within_a_second_of_a_frame(time, shown):
    block = subtitle_block([Cue(5.0, 7.0, "hi")], [0.0, time])
    assert block == ("subtitle\n5.0 - 7.0 hi\n" if shown else "")
