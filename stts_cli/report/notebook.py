"""What a notebook shows of an encoded video and of an answer: the savings, and the frames with what was dropped."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from stts_cli.errors import EnvironmentFailure
from stts_cli.report.pictures import Kept, kept_picture
from stts_cli.report.savings import as_html, counted_rows
from stts_cli.text import printable

if TYPE_CHECKING:
    from stts_cli.engine.results import Answer, Video


def kept_png(video: Video) -> bytes:
    """Draw a video as `pictures.kept_picture` does, a PNG; EnvironmentFailure without matplotlib."""
    title = f"{video.family.model_name}: {video.keep_mask.numpy().mean():.0%} of the windows kept"
    return kept_picture(Kept.of(video), title)


def video_html(video: Video) -> str:
    """Return an encoded video as HTML: its notes, the picture of what was kept where it can be drawn, the savings."""
    lines = [f"<p>{escape(printable(line))}</p>" for line in (str(video), *video.notes)]
    try:
        lines.append(f'<img src="data:image/png;base64,{base64.b64encode(kept_png(video)).decode()}">')
    except EnvironmentFailure as error:
        lines.append(f"<p>{escape(str(error))}</p>")
    return "\n".join([*lines, as_html(counted_rows(video.savings.to_dict()))])


def answer_html(answer: Answer) -> str:
    """Return an answer as HTML, with its savings."""
    said = f"<p>{escape(printable(answer.question))}<br><b>{escape(printable(answer.text))}</b></p>"
    return f"{said}\n{as_html(counted_rows(answer.savings.to_dict()))}"
