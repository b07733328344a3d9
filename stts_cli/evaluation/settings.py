"""What a run was made with, so that two runs can be distinguished: settings, weights, questions, versions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from stts_cli import __version__
from stts_cli.data.items import QaItem
from stts_cli.versions import installed

PACKAGES = ("torch", "transformers", "decord2", "av", "numpy")


def items_hash(items: Iterable[QaItem]) -> str:
    """Return 16 hex digits that stand for the questions, their options and answers."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.id, item.video, item.question, item.options, item.answer, item.also)).encode())
        source = item.source
        digest.update(repr((source.start_s, source.end_s, source.end_frame, item.subtitles)).encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of stts and of the packages that can change an answer."""
    return {"stts": __version__, **installed(*PACKAGES)}
