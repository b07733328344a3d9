"""The parts that HTML pages are made of: templates with what stands in them, pictures, galleries of frames, bars.

A page is one file that asks nothing of a network or a server: its policy lets a browser run its own script and nothing
else, so text that slipped through unescaped would do nothing. Text comes in as it is and goes out escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import re
from collections.abc import Iterable, Mapping
from importlib import resources

import numpy as np

from stts_cli.report.pictures import Kept
from stts_cli.report.savings import HEADINGS, TOTAL, Row
from stts_cli.text import printable, to_json

QUALITY = 80  # of a JPEG


def escape(text: str) -> str:
    """Write text so that HTML shows it as it is, also inside an attribute in quotes."""
    return html.escape(printable(text))


def fill(kind: str, scripts: Iterable[str], **parts: str) -> str:
    """Write a page, "ask" or "results"; parts, which are HTML already, stand where a template says {{name}}."""
    script = "".join(map(_read, scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    parts |= {"kind": kind, "style": _read("style.css"), "script": script, "policy": policy}
    parts["body"] = _put(f"{kind}.html", parts)
    return _put("page.html", parts)


def _put(template: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read(template))


def _read(name: str) -> str:
    return (resources.files("stts_cli.report") / "pages" / name).read_text(encoding="utf-8")


def paragraphs(lines: Iterable[str], kind: str = "") -> str:
    """Write lines of text as paragraphs of a CSS class."""
    return "\n".join(f'<p class="{kind}">{escape(line)}</p>' for line in lines)


def jpeg(pixels: np.ndarray) -> bytes:
    """Return uint8 (H, W, 3) as a JPEG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def alike(kept: Mapping[str, Kept]) -> list[dict[str, Kept]]:
    """Put arms together that saw the same frames, cut alike; a dense one adds nothing to those that pruned."""
    groups: dict[tuple[int, bytes], dict[str, Kept]] = {}
    for name, each in kept.items():
        groups.setdefault((id(each.frames), each.owner.tobytes()), {})[name] = each
    pruned = [{name: each for name, each in group.items() if not each.keep_mask.all()} for group in groups.values()]
    return sorted(
        (some or group for some, group in zip(pruned, groups.values(), strict=True)),
        key=lambda group: all(each.keep_mask.all() for each in group.values()),
    )


def gallery(kept: Mapping[str, Kept], key: str) -> str:
    """Write the frames of a clip, with what each arm dropped dark and a switch between arms and dense.

    Args:
        kept: by arm, what it kept of the same frames, cut alike.
        key: a word that no other gallery of the page has.
    """
    first = next(iter(kept.values()))
    switch = "".join(
        f'<label><input type="radio" name="{key}" value="{value}"{"" if value else " checked"}> {escape(name)}</label>'
        for value, name in [*enumerate(kept), (-1, "dense: all windows")]
    )
    arms = [
        {
            "name": name,
            "kept": ["".join("01"[int(bit)] for bit in mask) for mask in each.keep_mask],
            "scores": None if each.scores is None else [[float(f"{s:.4g}") for s in row] for row in each.scores],
        }
        for name, each in kept.items()
    ]
    data = to_json({"owner": first.owner.tolist(), "arms": arms}).replace("<", "\\u003c")
    figures = "\n".join(_figure(list(kept.values()), frame) for frame in range(len(first.frames)))
    return (
        f'<div class="gallery"><fieldset><legend>What was kept</legend>{switch}</fieldset>\n'
        f'<output aria-live="polite"></output>\n<div class="frames">{figures}</div>\n'
        f'<script type="application/json">{data}</script></div>'
    )


def _figure(arms: list[Kept], frame: int) -> str:
    first = arms[0]
    rows, columns = first.owner.shape
    uri = base64.b64encode(jpeg(first.frames[frame])).decode()
    dark = counts = ""
    for number, each in enumerate(arms):
        mark, mask = f'data-arm="{number}"{" hidden" if number else ""}', each.keep_mask[frame]
        dark += f'<path class="dropped" {mark} d="{_outline(~mask[each.owner])}"/>'
        counts += f"<span {mark}>, {int(mask.sum())} of {len(mask)} windows</span>"
    time = f"{first.timestamps_s[frame]:.1f} s"
    return (
        f'<figure><div class="picture"><img alt="{time}" src="data:image/jpeg;base64,{uri}">'
        f'<svg viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" aria-hidden="true">{dark}'
        f'<path class="window" hidden/></svg></div><figcaption>{time}{counts}</figcaption></figure>'
    )


def _outline(mask: np.ndarray) -> str:
    """Return an SVG path that covers the True cells of (rows, columns), a rectangle a run of them in a row."""
    path = ""
    for row, cells in enumerate(mask):
        column = 0
        for value, run in itertools.groupby(cells.tolist()):
            length = len(list(run))
            path += f"M{column} {row}h{length}v1h-{length}z" if value else ""
            column += length
    return path


def savings_table(rows: Iterable[Row]) -> str:
    """Write the rows of a savings table, each with a bar: the pruned part of the dense whole."""
    lines = [f"<tr>{''.join(f'<th>{heading}</th>' for heading in HEADINGS)}<th></th></tr>"]
    for row in rows:
        tag = "th" if row.label == TOTAL else "td"
        cells = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row.cells)
        lines.append(f"<tr>{cells}<td>{'' if row.ratio is None else bar(row.ratio)}</td></tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def bar(share: float) -> str:
    """Draw a share of a whole; more than the whole is full and of another color."""
    over = ' class="over"' if share > 1 else ""
    return f'<div class="bar"><div><div{over} style="width: {100 * min(share, 1.0):.1f}%"></div></div></div>'
