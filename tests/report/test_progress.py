"""Progress: a bar with the time left in a terminal, nothing elsewhere but for a line now and then where asked."""

from __future__ import annotations

import re

import pytest

from stts_cli.report import progress as bars
from stts_cli.report.progress import Progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_shown_without_a_terminal(capsys, quiet):
    with Progress(quiet=quiet) as progress:
        progress("loading")
        progress("answering", 3, 9)
    assert not progress.is_live
    assert capsys.readouterr() == ("", "")


def shown(capsys):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)


def test_a_terminal_shows_a_stage_and_then_the_time_left(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    clock = Clock()
    with Progress() as progress:
        progress._bar.get_time = clock.monotonic
        progress("loading")
        progress._bar.refresh()
        for done in range(4):
            clock.now = 10.0 * done
            progress("answering", done, 9, figures="2 of 3 right")
            progress._bar.refresh()
    text = shown(capsys)
    assert "loading ..." in text
    assert re.search(r"answering .* 3/9 .* 0:01:00 2 of 3 right", text), "six of ten seconds each are left"
    assert "0/0" not in text


def test_the_time_left_of_other_work_follows_from_its_own_speed(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    clock = Clock()
    with Progress() as progress:
        progress._bar.get_time = clock.monotonic
        for name, seconds in (("first", 100.0), ("second", 1.0)):
            for done in range(4):
                clock.now += seconds
                progress(name, done, 9)
            progress._bar.refresh()
    text = shown(capsys)
    assert re.search(r"first .* 3/9 .* 0:10:00", text)
    assert re.search(r"second .* 3/9 .* 0:00:06", text)


def test_quiet_shows_nothing_in_a_terminal_either(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(quiet=True) as progress:
        progress("loading")
        progress.say("a note")
    assert shown(capsys) == ""


def test_a_line_now_and_then_where_there_is_no_terminal(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bars, "time", clock)
    with Progress(line_every_s=60) as progress:
        progress("loading")
        for clock.now in (0.0, 30.0, 60.0, 100.0, 119.0, 120.0):
            progress("2 answers/s", int(clock.now), 999)
    assert capsys.readouterr().err == "stts: 60 of 999, 2 answers/s\nstts: 120 of 999, 2 answers/s\n"


@pytest.mark.parametrize("name", bars.RANK)
def test_of_several_processes_the_first_speaks(capsys, monkeypatch, name):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for rank in ("1", "0"):
        monkeypatch.setenv(name, rank)
        with Progress(line_every_s=0) as progress:
            progress("loading", 1, 2)
            progress.say("a note")
        assert ("stts: a note" in shown(capsys)) == (rank == "0")
