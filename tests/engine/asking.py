"""Ask one video through `engine.ask`, reading it in this process."""

from __future__ import annotations

from pathlib import Path

from stts_cli.engine.ask import Asked, Question, ask
from stts_cli.media.inputs import Named
from stts_cli.media.source import Source


def ask_one(arms, path, questions, *, options=(), max_new_tokens=64, **settings):
    """Return the run of one video."""
    asked = Asked([Question(text, options) for text in questions], max_new_tokens)
    (run,) = ask(arms, [Named(str(path), Source(Path(path)))], asked, workers=0, **settings)
    return run
