"""Read subtitles: .srt and .vtt files as they are found, and lists in a row; bytes in, `Cue`s out.

Files come in any encoding, with hours or without, with or without blank lines and numbers, with tags, out of order, or
rolling as captions made by a machine. What cannot be read is an error with its line. Known parsers were tried: none
takes times without hours in .srt, and what they do with identifiers, entities and hours beyond 99 is silent.
"""

from __future__ import annotations

import codecs
import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from stts_cli.data.items import Cue
from stts_cli.data.times import read_time
from stts_cli.errors import InputError
from stts_cli.media.container import read_captions

SUFFIXES = (".srt", ".vtt")
ROLLING_GAP_S = 0.1  # a rolling caption repeats a line of the one that ends here
_TIME = r"(?:[0-9]+:)?[0-9]{1,4}:[0-9]{2}(?:[.,][0-9]{1,3})?"
_TIMING = re.compile(rf"\s*({_TIME})\s*-->\s*({_TIME})(?:\s.*)?")
_ALMOST = re.compile(r"\s*-?[0-9]+[:;][0-9]+\S*\s*(?:[-=]+>|[\u2013\u2014\u2192]).*|.*-->\s*-?[0-9]+:[0-9].*")
_TAG = re.compile(
    r"\{\\[^{}]*\}|</?(?:i|b|u|s|c|v|font|span|em|strong|lang|ruby|rt)(?:[.\s][^<>]*)?/?>|<(?:[0-9]+:)?[0-9]+:[0-9.]+>",
    re.IGNORECASE,
)
_BREAK = re.compile(r"<br\s*/?>|\\[Nn]", re.IGNORECASE)
WESTERN = "cp1252"  # holds all that Latin-1 can say
EASTERN = frozenset({"gb18030", "big5", "cp932", "euc_jp", "cp949"})
OTHERS = ("cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "utf_16_le", "utf_16_be")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _Caption(NamedTuple):
    start_s: float
    end_s: float
    lines: tuple[str, ...]


def cut(cues: Sequence[Cue], start_s: float | None, end_s: float | None) -> tuple[Cue, ...]:
    """Return what of the cues lies in a cut; of one that reaches over an end of it, the part inside.

    Ends are seconds, None for the file's. The cues' times count from the start of the video file; in the result from
    `start_s`, as the frames' do.
    """
    first, last = start_s or 0.0, float("inf") if end_s is None else end_s
    return tuple(
        replace(cue, start_s=max(cue.start_s, first) - first, end_s=min(cue.end_s, last) - first)
        for cue in cues
        if cue.end_s >= first and cue.start_s <= last
    )


def read_subtitles(path: Path, notes: list[str]) -> tuple[Cue, ...]:
    """Read a user's .srt or .vtt file: cues in the order of time, without tags.

    `notes` gets what was guessed or put right: the encoding, the order, rolling captions.

    Raises:
        InputError: no such file, no known encoding, a damaged line, or no text at all.
    """
    captions, faults = _parse(_decode(path, notes))
    if faults:
        line, what = faults[0]
        raise InputError(f"{path}:{line}: {what}")
    cues = _ordered(path, captions, notes)
    if not cues:
        raise InputError(f"{path}: holds no cue with text: must be subtitles in SubRip (.srt) or WebVTT (.vtt) form.")
    return cues


def read_embedded(path: Path, notes: list[str]) -> tuple[Cue, ...]:
    """Read the subtitles inside a video file, as `read_subtitles` reads a file of them.

    Raises:
        InputError: it has none of text.
    """
    found = read_captions(path)
    captions = [_Caption(start, end, tuple(filter(None, [_clean(text)]))) for start, end, text in found]
    if not (cues := _ordered(path, captions, notes)):
        raise InputError(f"--subtitles auto: {path} holds no subtitles of text; give a .srt or .vtt file.")
    return cues


def _ordered(path: Path, captions: list[_Caption], notes: list[str]) -> tuple[Cue, ...]:
    """Put captions in the order of time and leave out what rolling ones repeat; `notes` says so."""
    ordered = sorted(captions, key=lambda caption: caption.start_s)
    if ordered != captions:
        notes.append(f"{path}: its cues are out of order; they were sorted by their start.")
    unrolled = _unroll(ordered)
    if unrolled != ordered:
        notes.append(f"{path}: its captions roll, each repeating lines of the one before; repeats were left out.")
    return _cues(unrolled)


def read_published(path: Path, notes: list[str]) -> tuple[Cue, ...]:
    """Read a benchmark's .srt file as its publishers do, order and repeats kept; note how many cues were damaged."""
    captions, faults = _parse(_decode(path, notes))
    if faults:
        notes.append(f"{path}:{min(faults)[0]}: {len(faults)} damaged cues were left out.")
    return _cues(captions)


def _cues(captions: Sequence[_Caption]) -> tuple[Cue, ...]:
    return tuple(Cue(each.start_s, each.end_s, " ".join(each.lines)) for each in captions if each.lines)


def _decode(path: Path, notes: list[str]) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    marked = [name for mark, name in _BYTE_ORDER_MARKS if raw.startswith(mark)]
    try:
        text = raw.decode(marked[0] if marked else "utf-8")
        if "\0" not in text:  # else UTF-16 without its mark
            return text
    except UnicodeDecodeError as error:
        if marked:
            raise InputError(f"{path}: is no {marked[0]} text ({error.reason} at byte {error.start}).") from error
    encoding = _detect(path, raw)
    notes.append(f"{path}: is not UTF-8; it was read as {encoding}.")
    return raw.decode(encoding, errors="replace")


def _detect(path: Path, raw: bytes) -> str:
    """Return the encoding that makes the best sense of a file; of alphabets that make equal sense, the Western one."""
    import charset_normalizer

    found = list(charset_normalizer.from_bytes(raw, cp_isolation=[WESTERN, *OTHERS, *sorted(EASTERN)]))
    best = min(((each.chaos, -each.coherence) for each in found), default=None)
    names = [each.encoding for each in found if (each.chaos, -each.coherence) == best]
    texts = {raw.decode(name, errors="replace") for name in names}
    if raw.decode(WESTERN, errors="replace") in texts and not EASTERN.intersection(names):
        return WESTERN
    if len(texts) != 1:
        could = f"could be {', '.join(names)}" if names else "is unknown"
        raise InputError(f"{path}: its encoding {could}: must be certain; save the file as UTF-8.")
    return names[0]


def _parse(text: str) -> tuple[list[_Caption], list[tuple[int, str]]]:
    """Part a file into its whole captions, and (line, what is wrong) of each other one."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    is_vtt = text.lstrip().startswith("WEBVTT")
    timings = [(k, match) for k, line in enumerate(lines) if (match := _TIMING.fullmatch(line))]
    almost = {k for k, line in enumerate(lines) if _ALMOST.fullmatch(line)} - {k for k, _ in timings}
    if is_vtt:  # notes and styles may hold anything
        almost -= _in_other_blocks(lines)
    form = "must be START --> END, each [hh:]mm:ss.fff"
    faults = [(k + 1, f"'{lines[k].strip()[:60]}': {form}.") for k in sorted(almost)]
    numbered = bool(timings) and timings[0][0] > 0 and lines[timings[0][0] - 1].strip().isdecimal()
    ends = [*(_head(lines, k, numbered) for k, _ in timings[1:]), len(lines)][: len(timings)]
    captions = []
    for (k, match), end in zip(timings, ends, strict=True):
        own = lines[k + 1 : end]
        if is_vtt and "" in own:
            own = own[: own.index("")]
        if damaged := [j for j in almost if k < j < end]:
            own = lines[k + 1 : _head(lines, damaged[0], numbered)]
        try:
            start_s, end_s = read_time(match[1]), read_time(match[2])
            if end_s < start_s:
                raise ValueError("the end must not be before the start")
        except ValueError as error:
            faults.append((k + 1, f"'{match[0].strip()[:60]}': {error}."))
        else:
            captions.append(_Caption(start_s, end_s, tuple(filter(None, map(_clean, own)))))
    return captions, faults


def _head(lines: Sequence[str], timing: int, numbered: bool) -> int:
    """Return where a cue, not the first, begins: at its number or identifier if it has one, else at its timing."""
    before, stands_alone = lines[timing - 1].strip(), not lines[timing - 2].strip()
    return timing - 1 if before and (stands_alone or (numbered and before.isdecimal())) else timing


def _in_other_blocks(lines: Sequence[str]) -> set[int]:
    """Return the lines of a WebVTT file's header, notes, styles and regions."""
    found: set[int] = set()
    inside = True
    for k, line in enumerate(lines):
        if k and not lines[k - 1]:
            inside = line.split(maxsplit=1)[:1] in (["NOTE"], ["STYLE"], ["REGION"])
        if inside:
            found.add(k)
    return found


def _clean(line: str) -> str:
    """Return a line without tags; "if a < b" has none."""
    return " ".join(html.unescape(_TAG.sub("", _BREAK.sub(" ", line))).split())


def _unroll(captions: list[_Caption]) -> list[_Caption]:
    """Leave out lines that the caption before still shows, in a file where most captions repeat some."""
    shown = [caption for caption in captions if caption.lines]
    repeats = [_repeated(before, caption) for before, caption in itertools.pairwise(shown)]
    if 2 * sum(map(bool, repeats)) <= len(repeats):
        return captions
    unrolled = shown[:1]
    for caption, repeated in zip(shown[1:], repeats, strict=True):
        if repeated < len(caption.lines):
            unrolled.append(caption._replace(lines=caption.lines[repeated:]))
        else:  # nothing new: the last line stays for longer
            unrolled[-1] = unrolled[-1]._replace(end_s=max(unrolled[-1].end_s, caption.end_s))
    return unrolled


def _repeated(before: _Caption, caption: _Caption) -> int:
    """Return how many of a caption's first lines are the last ones of the caption before."""
    if caption.start_s > before.end_s + ROLLING_GAP_S:
        return 0
    return next((n for n in range(len(caption.lines), 0, -1) if before.lines[-n:] == caption.lines[:n]), 0)
