"""Time by stage: a device is waited for before the time is read."""

from __future__ import annotations

import types

import pytest
import torch

from stts_cli.pruning.stopwatch import Stopwatch, clock


@pytest.mark.parametrize(("device", "waits"), [("cpu", []), ("cuda:1", ["cuda:1"]), ("mps", ["mps"])])
def test_a_device_is_waited_for_before_the_time_is_read(device, waits, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda which: waited.append(str(which)))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    fake = types.SimpleNamespace(perf_counter=lambda: 10.0 * len(waited))
    monkeypatch.setattr("stts_cli.pruning.stopwatch.time", fake)
    assert clock(torch.device(device)) == 10.0 * len(waits)
    assert waited == waits


def test_each_lap_adds_to_its_stage(fake_clock):
    watch = Stopwatch(torch.device("cpu"), "one", "two", "three")
    for stage, seconds in (("one", 3.0), ("two", 4.0), ("one", 5.0)):
        fake_clock.spend(seconds)
        watch.lap(stage)
    assert watch.seconds == pytest.approx({"one": 8, "two": 4, "three": 0}, abs=1e-3)
