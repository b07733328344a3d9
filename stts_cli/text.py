"""Text from outside (file names, answers, names in data) made safe to show. Standard library only."""

from __future__ import annotations

import json
import re
from typing import Any

DEMONSTRATION = (
    "demonstration model: it knows only its own world of moving coloured shapes; "
    "for real videos name a real one, e.g. --preset molmo2-4b or --model allenai/Molmo2-4B"
)
# C0 but tab and newline, DEL and C1, marks that turn the direction of writing, line separators, lone surrogates (what
# Python makes of bytes of a file name that are not UTF-8)
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Replace each character that could steer a terminal by U+FFFD; newlines and tabs stay."""
    return STEERING.sub("\ufffd", text)


def to_json(value: Any, indent: int | None = None) -> str:
    """Return plain data as JSON in readable letters; what could steer a terminal is escaped, so nothing is lost."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
