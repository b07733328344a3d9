"""What `stts ask --chat` does: a conversation about one video, until the questions end."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from stts_cli.commands.asking import Kept, Shown, Wanted, Worded, answers
from stts_cli.errors import InputError
from stts_cli.media.fetch import STDIN
from stts_cli.media.resize import check_resize
from stts_cli.report.ask import note_lines, show
from stts_cli.report.progress import Progress
from stts_cli.report.terminal import print_lines, print_note, print_piece
from stts_cli.settings import Arm
from stts_cli.text import to_json

if TYPE_CHECKING:
    from stts_cli.engine.ask import Asked, AskRun
    from stts_cli.engine.chat import Chat

PROMPT = "> "
ALONE = "the demonstration model was trained on questions asked alone; what was said before may mislead it"


def run(wanted: Wanted, arms: Sequence[Arm], shown: Shown, kept: Kept, worded: Worded, *, device: str) -> None:
    """Answer the questions that were named and then those that are typed, or piped in, a line each.

    On a terminal Ctrl-D leaves, and Ctrl-C stops an answer. A question that cannot be answered costs itself alone.

    Raises:
        InputError: flags that cannot stand with a conversation, the video, or, after all others were answered, a
            question that came through a pipe.
    """
    check_resize(arms[0].resize)
    videos, asked = wanted.read()
    if len(videos) > 1 or videos[0].is_expanded:
        raise InputError("--chat: is about one video; ask several without it.")
    if len(arms) > 1:
        raise InputError("--chat: is with one model; it cannot stand with --compare or --budget.")
    if any(options for _, options in asked):
        raise InputError("--chat: its answers are worded; it cannot stand with --options.")
    if shown.output:
        raise InputError(f"--output {shown.output}: keeps a line a video; it cannot stand with --chat.")
    if videos[0].address == STDIN:
        raise InputError("--chat: reads questions from standard input; name the video's file.")
    shown.drawing.check(1)
    kept.check()
    is_quiet = shown.mode == "quiet"

    def note(line: str) -> None:
        if not is_quiet:
            print_note(line)

    context = wanted.context(note)

    def prepare() -> Asked:
        from stts_cli.engine.ask import Asked

        cache = kept.open(shown.drawing.is_wanted, note)
        return Asked([], worded.max_new_tokens, cache=cache, answering=worded.how)

    (done,) = answers(videos, arms, prepare, device, Progress(quiet=is_quiet))
    document = done.to_dict()
    if "error" in document:
        raise InputError(document["error"])
    from stts_cli.engine.chat import Chat

    for line in [*note_lines(document), *([ALONE] if document["is_demonstration"] else ())]:
        note(line)
    first: AskRun = done  # type: ignore[assignment]
    arm = first.arms[0]
    chat = Chat(arm.model, arm.video, context(first.source, arm.video.timestamps_s))
    failed = 0
    for question in _questions([text for text, _ in asked], shown.mode):
        failed += not _turn(chat, question, first, shown.mode)
    if arm.answers and shown.mode == "table":
        show(first.to_dict(), mode="table", notes=False, is_answered=True)
    shown.drawing.draw(first)
    if failed and not sys.stdin.isatty():
        raise InputError(f"{failed} of {failed + len(arm.answers)} questions were not answered; see above.")


def _turn(chat: Chat, question: str, run: AskRun, mode: str) -> bool:
    """Ask, and show the answer; return whether there is one. Ctrl-C stops it on a terminal."""
    from stts_cli.engine.results import cut_notes

    arm = run.arms[0]
    streams = mode == "table" and sys.stdout.isatty()
    try:
        answer = chat.ask(question, on_text=print_piece if streams else None)
    except InputError as error:
        print_note(str(error))
        return False
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print_piece("\n" if streams else "")
        print_note("stopped; this question is not part of the conversation.")
        return False
    arm.answers.append(answer)
    if mode == "json":
        alone = dataclasses.replace(run, arms=[dataclasses.replace(arm, answers=[answer])])
        print_lines(to_json(alone.to_dict()))
    elif mode == "quiet":
        print_lines(" ".join(answer.text.split()))
    else:
        print_lines("" if streams else answer.text)
    for line in cut_notes([answer]) if mode != "quiet" else ():
        print_note(line)
    return True


def _questions(named: Sequence[str], mode: str) -> Iterator[str]:
    """Yield the questions that were named, then those that are typed or piped in; empty lines are none."""
    for text in named:
        if sys.stdin.isatty() and mode == "table":
            print_lines(PROMPT + text)
        yield text
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (lets `input` edit lines)
    while True:
        try:
            if sys.stdout.isatty():
                text = input(PROMPT)
            elif not (text := sys.stdin.readline()):
                return
        except EOFError:
            print_piece("\n")
            return
        except KeyboardInterrupt:
            print_piece("\n")
            continue
        if text.strip():
            yield text.strip()
