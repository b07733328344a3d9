"""The page of an evaluation: tables, curve, and the questions that changed; how it behaves in a browser."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from stts_cli.report import evaluation_html
from stts_cli.report.evaluation_html import Thumbnails, page, write_html
from stts_cli.report.pictures import Kept
from tests.report.browser import Browser
from tests.report.evaluations import arm_summary, document
from tests.report.pages import HOSTILE, Page
from tests.report.test_ask_page import kept

SHOWN = HOSTILE.replace("\x1b", "\ufffd").replace("\x07", "\ufffd")


def row(number, arm, correct, **values):
    groups = {"task": ["odd" if number % 2 else "even"]}
    return {
        "id": f"q{number}", "arm": arm, "correct": correct, "video": f"v{number}.mp4", "groups": groups,
        "question": f"Question {number}?", "answer": "A", "text": f"reply of {arm}", **values,
    }  # fmt: skip


def results(words=("10", "01", "11", "10"), **values):
    names = ("dense", "pruned", "third")[: len(words[0])]
    samples = [
        row(number, arm, {"1": 1, "0": 0}.get(letter))
        for number, word in enumerate(words)
        for arm, letter in zip(names, word, strict=True)
    ]
    arms = {name: arm_summary() for name in names}
    return document(samples=samples, arms=arms, **values)


def pictures(*questions):
    thumbnails = Thumbnails()
    arms = {"dense": kept(keep_mask=np.ones((2, 4), bool)), "pruned": kept(), "third": kept(scores=None)}
    thumbnails._kept["x"] = dict.fromkeys(questions, arms)
    return thumbnails


def test_the_page_holds_the_tables_the_curve_and_what_changed():
    read = Page(page(results(), pictures("q0"), b"<svg/>"))
    assert "x|y" in read.text("td")
    assert "pruned - dense: -25.0 points" in " ".join(read.text("p"))
    assert read.of("img")[0]["src"].startswith("data:image/svg+xml;base64,")
    articles = read.of("article")
    assert [each["data-correct"] for each in articles] == ["10", "01", "10"]
    assert [json.loads(each["data-types"]) for each in articles] == [["task: even"], ["task: odd"], ["task: odd"]]
    assert read.text("h4") == ["Question 0?", "Question 1?", "Question 3?"]
    assert [each["alt"] for each in read.of("img")[1:]] == ["0.0 s", "1.5 s"], "the frames of the first"
    assert [each["value"] for each in read.of("option")] == ["0", "1", "0", "1", "", "task: even", "task: odd"]


def test_one_arm_and_no_picture_are_a_page_too():
    read = Page(page(results(("1", "0"), comparisons=[]), Thumbnails(), None))
    assert not read.of("article")
    assert "not drawn: matplotlib is not installed" in read.text("p")


def test_text_from_outside_stays_text():
    hostile = results(title=HOSTILE, remark=HOSTILE)
    for each in hostile["samples"]:
        each |= {name: HOSTILE for name in ("video", "question", "answer", "text")} | {"groups": {HOSTILE: [HOSTILE]}}
    text = page(hostile, Thumbnails(), None)
    read = Page(text)
    assert SHOWN in read.text("h4")
    assert read.text("dd").count(SHOWN) == 9
    assert json.loads(read.of("article")[0]["data-types"]) == [f"{HOSTILE}: {HOSTILE}"]
    assert "\x1b" not in text
    assert len(read.of("script")) == 1


def test_a_page_is_never_larger_than_its_limit(monkeypatch):
    many = results(["10"] * 40)
    whole = page(many, pictures(*(f"q{k}" for k in range(40))), None)
    bare = page(many, Thumbnails(), None)
    around = len(page(results(["11"]), Thumbnails(), None))
    monkeypatch.setattr(evaluation_html, "MOST_BYTES", 40_000)
    some = page(many, pictures(*(f"q{k}" for k in range(40))), None)
    assert len(bare) < len(some) < len(whole)
    assert len(some) < around + 41_000
    assert len(Page(some).of("article")) == 40, "the rest is listed"
    monkeypatch.setattr(evaluation_html, "MOST_BYTES", 4_000)
    few = Page(page(many, Thumbnails(), None))
    left_out = 40 - len(few.of("article"))
    assert 0 < left_out < 40
    assert f"{left_out} more questions changed; they are in samples.jsonl." in few.text("p")


def test_thumbnails_are_small_and_arms_share_them(monkeypatch):
    frames = np.full((40, 300, 600, 3), 9, np.uint8)
    mask = np.arange(160).reshape(40, 4) % 3 > 0
    large = kept(timestamps_s=[0.5 * k for k in range(40)], keep_mask=mask, scores=None)
    monkeypatch.setattr(Kept, "of", lambda video: large)
    thumbnails = Thumbnails()
    thumbnails.add("x", ["q1", "q2"], {name: (SimpleNamespace(), frames) for name in ("dense", "pruned")})
    one, other = thumbnails.of("x")["q2"].values()
    assert one.frames is other.frames
    assert one.frames.shape == (12, 80, 160, 3)
    assert (one.timestamps_s[0], one.timestamps_s[-1]) == (0.0, 19.5)
    assert (one.keep_mask[-1] == large.keep_mask[-1]).all()
    assert thumbnails.of("other") == {}


@pytest.mark.browser
def test_in_a_browser(tmp_path):
    write_html(results(("100", "010", "111", "101", "011")), tmp_path, pictures("q0"))
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "results.html")
        listed = """['#broke', '#mended'].map(id => [document.querySelector(id).textContent,
            ...[...document.querySelector(id).nextElementSibling.querySelectorAll('h4')].map(e => e.textContent)])"""
        assert browser.run(listed) == [
            ["Broken, dense to pruned: 2", "Question 0?", "Question 3?"],
            ["Mended, dense to pruned: 2", "Question 1?", "Question 4?"],
        ]
        assert browser.run("getComputedStyle(document.querySelector('#questions')).display") == "none"
        chosen = "[...document.querySelectorAll('.gallery input')].findIndex(e => e.checked)"
        assert browser.run(chosen) == 0
        browser.press("Tab", "Tab", "ArrowDown")
        assert browser.run(chosen) == 1, "the frames show what the arm kept that is compared"
        assert browser.run(listed) == [
            ["Broken, dense to third: 1", "Question 0?"],
            ["Mended, dense to third: 1", "Question 4?"],
        ]
        browser.press("Tab", "ArrowDown", "ArrowDown")
        assert browser.run(listed) == [["Broken, dense to third: 0"], ["Mended, dense to third: 0"]]
        browser.press("ArrowUp")
        assert browser.run(listed)[0] == ["Broken, dense to third: 1", "Question 0?"]
        browser.point(".picture", 0.75, 0.25)
        assert browser.run("document.querySelector('output').textContent") == "0.0 s, window 1: kept by third"
        browser.assert_quiet()
