"""The page of `ask --report`: whole HTML, what was kept, text from outside escaped; how it behaves in a browser."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from stts_cli import cli
from stts_cli.errors import InputError
from stts_cli.report import plots
from stts_cli.report.ask_page import page, write_page
from stts_cli.report.pictures import Kept
from tests.report.browser import Browser
from tests.report.pages import HOSTILE, Page
from tests.report.test_ask import make_arm, make_document

OWNER = np.repeat(np.repeat(np.arange(4).reshape(2, 2), 2, 0), 2, 1)
KEEP = np.array([[True, True, True, True], [False, True, False, False]])
SCORES = np.array([[0.5, 0.25, 1.0, 0.125], [0.01, 0.75, 0.02, 0.5]], np.float32)
FRAMES = np.full((2, 16, 16, 3), 200, np.uint8)


def kept(**values):
    return Kept(
        **{"frames": FRAMES, "timestamps_s": [0.0, 1.5], "keep_mask": KEEP, "scores": SCORES, "owner": OWNER, **values}
    )


def run(**values):
    arms = [make_arm("pruned", 30, HOSTILE, 0.25, 0.25), make_arm("dense", 100, "red", 2.0, 0.0)]
    return {**make_document(arms), **values}


def both():
    return {"pruned": kept(), "dense": kept(keep_mask=np.ones_like(KEEP), scores=None)}


def test_the_page_is_whole_and_holds_what_was_kept():
    read = Page(page(run(), both()))
    figures = read.of("img")
    assert [each["alt"] for each in figures] == ["0.0 s", "1.5 s"], "the dense arm's frames are the same"
    picture = Image.open(io.BytesIO(base64.b64decode(figures[1]["src"].partition(",")[2])))
    assert picture.size == (16, 16)
    dark = [each["d"] for each in read.of("path") if each.get("class") == "dropped"]
    assert dark == ["", "M0 0h2v1h-2zM0 1h2v1h-2zM0 2h4v1h-4zM0 3h4v1h-4z"]
    data = json.loads(next(text for text in read.text("script") if text.startswith("{")))
    assert data["arms"] == [
        {"name": "pruned", "kept": ["1111", "0100"], "scores": [[0.5, 0.25, 1.0, 0.125], [0.01, 0.75, 0.02, 0.5]]}
    ]
    assert data["owner"] == OWNER.tolist()
    assert ", 1 of 4 windows" in read.text("span")
    widths = [each["style"] for each in read.of("div") if "style" in each]
    assert "width: 30.0%" in widths, "visual tokens, 30 of 100"
    assert "75.0%" in read.text("th")


def test_arms_that_saw_other_frames_have_a_gallery_of_their_own():
    more = kept(
        frames=np.zeros((3, 16, 16, 3), np.uint8), timestamps_s=[0.0, 1.0, 2.0], keep_mask=KEEP[[0, 1, 1]], scores=None
    )
    read = Page(page(run(), {"pruned": kept(), "random@0.5": kept(scores=None), "more": more}))
    assert [each["alt"] for each in read.of("img")] == ["0.0 s", "1.5 s", "0.0 s", "1.0 s", "2.0 s"]
    assert [each["value"] for each in read.of("input", name="gallery-0")] == ["0", "1", "-1"]
    assert [each["value"] for each in read.of("input", name="gallery-1")] == ["0", "-1"]


def test_text_from_outside_stays_text():
    hostile = run()
    hostile["video"]["path"] = hostile["model"] = HOSTILE
    hostile["notes"] = [HOSTILE]
    hostile["arms"][0]["answers"][0]["options"] = [{"text": HOSTILE, "probability": 0.5, "log_likelihood": -1.0}] * 2
    text = page(hostile, {HOSTILE: kept(), "dense": both()["dense"]})
    read = Page(text)
    shown = HOSTILE.replace("\x1b", "\ufffd").replace("\x07", "\ufffd")
    assert shown in read.text("h1")
    assert shown in read.text("title")
    assert read.text("dd")[0].startswith(shown)
    assert shown in read.text("td")
    assert "\x1b" not in text
    assert len(read.of("script")) == 2, "the gallery's data and the page's own"
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    policy = read.of("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_a_page_has_its_own_suffix(tmp_path):
    with pytest.raises(InputError, match=r"--report x\.htm: must be a file that ends in \.html"):
        plots.check_target("x.htm", "--report", ".html")


def test_ask_writes_its_page(tmp_path, clip_file):
    target = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask", str(clip_file), "Is it <b>?", "-q", "--keep-ratio", "0.5", "--report", str(target)])
    assert ended.value.code in (0, None)
    read = Page(target.read_text(encoding="utf-8"))
    assert "Is it <b>?" in read.text("h3")
    data = json.loads(next(text for text in read.text("script") if text.startswith("{")))
    (arm,) = data["arms"]
    assert arm["kept"][0].count("0") == 0
    later = [*zip("".join(arm["kept"][1:]), np.ravel(arm["scores"][1:]), strict=True)]  # the first frame stays whole
    lowest_kept = min(score for bit, score in later if bit == "1")
    assert lowest_kept >= max(score for bit, score in later if bit == "0"), "what scored lowest was dropped"
    assert len(read.of("img")) == len(arm["kept"])


@pytest.mark.browser
def test_in_a_browser(tmp_path):
    target = tmp_path / "page.html"
    write_page(
        str(target), run(notes=[HOSTILE]), {**both(), "random": kept(keep_mask=~KEEP | ~KEEP[::-1], scores=None)}
    )
    with Browser(tmp_path / "profile") as browser:
        browser.open(target)
        says = "document.querySelector('output').textContent"
        browser.point("figure:nth-of-type(2) .picture", 0.75, 0.25)
        assert browser.run(says) == "1.5 s, window 1: kept by pruned, score 0.750"
        browser.point("figure:nth-of-type(2) .picture", 0.25, 0.25)
        assert browser.run(says) == "1.5 s, window 0: dropped by pruned, score 0.0100"
        browser.point("h1", 0.5, 0.5)
        assert browser.run(says) == ""

        dark = "[...document.querySelectorAll('figure:nth-of-type(2) .dropped')].map(e => getComputedStyle(e).display)"
        assert browser.run(dark) == ["inline", "none"]
        browser.press("Tab", "ArrowRight")
        assert browser.run(dark) == ["none", "inline"], "the next arm, by the keyboard"
        browser.press("ArrowRight")
        assert browser.run(dark) == ["none", "none"], "dense"
        browser.press("ArrowRight", "Tab", "ArrowRight")
        assert browser.run(says) == "0.0 s, window 0: kept by pruned, score 0.500"
        browser.press("ArrowRight", "ArrowDown")
        assert browser.run(says) == "0.0 s, window 3: kept by pruned, score 0.125"
        browser.press("ArrowRight")
        assert browser.run(says) == "1.5 s, window 2: dropped by pruned, score 0.0200", "the next frame"
        browser.press("PageUp")
        assert browser.run(says) == "0.0 s, window 2: kept by pruned, score 1.00"
        browser.press("ArrowDown", "ArrowLeft")
        assert browser.run(says) == "0.0 s, window 2: kept by pruned, score 1.00", "there is nothing beyond"
        browser.press("Escape")
        assert browser.run(says) == ""

        colors = []
        for scheme in ("light", "dark"):
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            colors.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        assert colors == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]
        browser.assert_quiet()
