"""Read a time of a video: seconds, or what a clock shows. Standard library only."""

from __future__ import annotations

import math
import re

ALLOWED = "must be seconds from 0 on, or a clock time such as 0:01, 1:02.5 or 00:01:02,500"
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_CLOCK = re.compile(r"(?:([0-9]{1,2}):)?([0-9]{1,4}):([0-9]{1,2}(?:[.,][0-9]+)?)")


def read_time(value: object) -> float:
    """Return a time in seconds.

    Args:
        value: a number of seconds, its digits, or "[hh:]mm:ss[.fff]" with a point or a comma before the fraction;
            minutes go beyond 59 only where there are no hours, hours never beyond 99.

    Raises:
        ValueError: it is none of these; the text says what is allowed.
    """
    time = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        time = float(value)
    elif isinstance(value, str) and _SECONDS.fullmatch(value.strip()):
        time = float(value)
    elif isinstance(value, str) and (clock := _CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = int(clock[1] or 0), int(clock[2]), float(clock[3].replace(",", "."))
        if seconds < 60 and (minutes < 60 or clock[1] is None):
            time = hours * 3600 + minutes * 60 + seconds
    if not 0 <= time < math.inf:
        raise ValueError(ALLOWED)
    return time
