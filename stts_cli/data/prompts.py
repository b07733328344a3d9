"""Word a question as the paper's base model was evaluated: the question, one option a line, then how to answer.

In: a `QaItem`, or subtitles and the times of the frames seen. Out: the text of the user's turn, and the block of
subtitles; the video itself stands before both (`families`). The wordings follow Molmo2's in substance; another wording
is another benchmark, so a hash of every prompt is kept with its answer. Standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from stts_cli.data.items import Cue, QaItem

LETTER_FROM_CHOICES = "Answer with the option's letter from the given choices directly."
ONLY_THE_LETTER = "Respond with only the letter of the correct answer."
SUBTITLE_REACH_S = 1.0  # a cue is shown if it is spoken within this many seconds of a frame


def option_lines(item: QaItem) -> str:
    """Return the options, one a line, as "A. text"."""
    return "\n".join(f"{name}. {option}" for name, option in zip(item.letters, item.options, strict=True))


def bare_question(item: QaItem) -> str:
    """The question and its options, nothing asked beyond them."""
    return f"{item.question}\n{option_lines(item)}" if item.options else item.question


def letter_from_choices(item: QaItem) -> str:
    """The question, the options, and a request for the option's letter."""
    return f"{bare_question(item)}\n{LETTER_FROM_CHOICES}" if item.options else item.question


def only_the_letter(item: QaItem) -> str:
    """The question, the options, and a request for only the letter."""
    return f"{bare_question(item)}\n{ONLY_THE_LETTER}" if item.options else item.question


def best_answer(item: QaItem) -> str:
    """Video-MME's own wrapper: what to do, the question, the options, and the start of an answer."""
    return (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        f"letter (A, B, C, or D) of the correct option.\n{item.question}\n{option_lines(item)}\nThe best answer is:"
    )


def subtitle_block(cues: Sequence[Cue], timestamps_s: Sequence[float]) -> str:
    """Return the subtitles around frames at these times, in seconds: "subtitle", then a line a cue; "" for none.

    As in Molmo2's evaluation it stands between the video and the user's turn (`build_prompt`'s context).
    """
    lines = [
        f"{cue.start_s:.1f} - {cue.end_s:.1f} {cue.text}"
        for cue in cues
        if any(cue.start_s <= time + SUBTITLE_REACH_S and cue.end_s >= time - SUBTITLE_REACH_S for time in timestamps_s)
    ]
    return "\n".join(["subtitle", *lines]) + "\n" if lines else ""


def prompt_hash(text: str) -> str:
    """Return 16 hex digits that stand for a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
