"""The working tree does what the committed record says, and the comparison sees what differs."""

import json

import pytest

from tests.net.__main__ import RECORD, ROOT, measure, short
from tests.net.compare import departures, differences


@pytest.mark.slow
@pytest.mark.thorough
def test_the_working_tree_does_what_was_recorded(tmp_path):
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    found = measure(ROOT, tmp_path / "run", "--quick")
    assert [len(found[area]) for area in ("ask", "masks", "finetune")] == [9, 5, 1]
    for area in ("ask", "masks", "finetune"):  # a quick run has some of the cases, `python -m tests.net` all of them
        recorded[area] = {name: recorded[area][name] for name in found[area]}
    assert list(departures(recorded, short(found))) == []


def test_two_commits_differ_in_any_bit_but_losses_where_it_is_allowed():
    old = {"finetune": {"log": [{"loss": 1.0}], "sha256": "a"}, "ask": {"kept": [3], "text": "red"}}
    new = {"finetune": {"log": [{"loss": 1.000001}], "sha256": "b"}, "ask": {"kept": [4], "notes": []}}
    rest = ["ask / kept / 0: 3 is now 4, 1 apart", "ask / text: only in the old", "ask / notes: only in the new"]
    assert list(differences(old, new, losses=1e-5)) == rest
    assert [line.split(":")[0] for line in differences(old, new)][:2] == [
        "finetune / log / 0 / loss",
        "finetune / sha256",
    ]


def test_a_window_may_change_sides_at_the_cut_only():
    old = {"scores": [[0.9, 0.5, 0.49995, 0.1]], "kept": ["1100"]}
    assert list(departures(old, old | {"kept": ["1010"]})) == []
    found = list(departures(old, old | {"kept": ["1001"]}))
    assert found == [" / kept / window 3: 0 is now 1, 0.4 off the cut"]
    assert len(list(departures(old, old | {"scores": [[0.9003, 0.5, 0.49995, 0.1]]}))) == 1
    assert list(departures(old, old | {"scores": [[0.90003, 0.5, 0.49995, 0.1]]})) == []
    assert list(departures({"n": 100000}, {"n": 100001})) == ["n: 100000 is now 100001"]
