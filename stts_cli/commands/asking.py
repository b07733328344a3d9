"""What `stts ask` does with its flags: find the videos and the questions, answer, show and keep what came."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stts_cli.commands.drawing import Drawing
from stts_cli.config.arms import parse_arms
from stts_cli.data.asked import read_asked
from stts_cli.data.items import Cue
from stts_cli.data.prompts import subtitle_block
from stts_cli.data.subtitles import cut, read_embedded, read_subtitles
from stts_cli.errors import InputError, Interrupted, writing
from stts_cli.media.container import probe
from stts_cli.media.fetch import STDIN
from stts_cli.media.inputs import Named, split_words
from stts_cli.media.pictures import holds_pictures
from stts_cli.media.resize import check_resize
from stts_cli.media.source import Part, Source
from stts_cli.report.ask import show, show_line
from stts_cli.report.progress import Progress
from stts_cli.report.terminal import print_note, print_piece
from stts_cli.settings import GREEDY, Answering, Arm
from stts_cli.text import to_json

if TYPE_CHECKING:
    from stts_cli.engine.ask import Asked, AskRun, Unanswered
    from stts_cli.engine.ask_server import ServedRun
    from stts_cli.engine.remote import Engine
    from stts_cli.engine.token_cache import TokenCache

DEFAULT_GIGABYTES = 10.0
AUTO = "auto"  # the subtitles inside the video file


@dataclass(frozen=True)
class Wanted:
    """What is asked, of what: the command's words and the flags that say which part of a video is meant."""

    words: Sequence[str]
    questions: str | None
    options: tuple[str, ...]
    start_s: float | None
    end_s: float | None
    at_s: tuple[float, ...] | None
    fps: float | None
    subtitles: str | None
    is_chat: bool = False
    is_together: bool = False

    def read(self) -> tuple[list[Named], list[tuple[str, Sequence[str]]]]:
        """Return the videos, and the questions with their options.

        Raises:
            InputError: there is no question, or a flag does not fit.
        """
        videos, texts = split_words(self.words)
        asked: list[tuple[str, Sequence[str]]] = [(text, self.options) for text in texts]
        if self.questions is not None:
            asked += [(text, options or self.options) for text, options in read_asked(self.questions)]
        if not asked and not self.is_chat:
            raise InputError(f"QUESTION: is missing; must follow the {'videos' if len(videos) > 1 else 'video'}.")
        if self.fps is not None and not any(holds_pictures(video.source) for video in videos):
            raise InputError(f"--fps {self.fps:g}: is for pictures; a video has times of its own.")
        if self.subtitles not in (None, AUTO) and len(videos) > 1:
            raise InputError("--subtitles: belongs to one video; ask the videos one by one, or give auto.")
        if self.is_together:
            videos = [self._joined(videos)]
        part = Part(self.start_s, self.end_s, self.at_s, self.fps)
        return [dataclasses.replace(video, source=part.of(video.source)) for video in videos], asked

    def _joined(self, videos: list[Named]) -> Named:
        """Return several files as one clip."""
        if len(videos) < 2:
            raise InputError("--together: joins several videos; name at least two.")
        if self.start_s is not None or self.end_s is not None or self.at_s or self.subtitles is not None:
            raise InputError(
                "--together: cannot stand with --start, --end, --at or --subtitles, which are of one video."
            )
        for video in videos:
            if video.address or holds_pictures(video.source):
                raise InputError(f"{video.name}: is no video file; --together joins files alone.")
            probe(video.source.path)
        first, *others = [video.source.path for video in videos]
        more = f"{others[0]}" if len(others) == 1 else f"{len(others)} more"
        return Named(f"{first} and {more}", Source(first, joined=tuple(others)))

    def context(self, note: Callable[[str], None]) -> Callable[[Source, Sequence[float]], str]:
        """Return what gives the subtitles around frames; `note` is called with what was put right in them."""
        if self.subtitles is None:
            return lambda source, times: ""

        own = None if self.subtitles == AUTO else Path(self.subtitles)

        @functools.cache
        def cues(path: Path) -> tuple[Cue, ...]:
            notes: list[str] = []
            found = read_subtitles(path, notes) if own else read_embedded(path, notes)
            for line in notes:
                note(line)
            return found

        if own:
            cues(own)  # a wrong file is an error at once
        return lambda source, times: subtitle_block(cut(cues(own or source.path), self.start_s, self.end_s), times)


@dataclass(frozen=True)
class Shown:
    """Where the answers go: `mode` of `report.ask.show`, files that are drawn of one video, a file of lines."""

    mode: str
    drawing: Drawing
    output: str | None


@dataclass(frozen=True)
class Worded:
    """How answers are worded, the most tokens of each, the server that gives them, or None, and how many at once."""

    max_new_tokens: int
    how: Answering = GREEDY
    engine: Engine | None = None
    batch_size: int = 1

    def identity(self) -> list[Any]:
        """Return what answers depend on; a server may move to another address."""
        more = [self.engine.send] if self.engine else [self.batch_size] if self.batch_size > 1 else []
        return [self.max_new_tokens, dataclasses.astuple(self.how), *more]


@dataclass(frozen=True)
class Kept:
    """Where encoded videos are kept, and the most gigabytes of it; None where a flag was not given."""

    folder: str | None = None
    gigabytes: float | None = None

    def check(self) -> None:
        """Refuse a size without a folder, or one that holds nothing."""
        if self.gigabytes is not None and self.folder is None:
            raise InputError(f"--cache-size {self.gigabytes:g}: says how large --cache may be; give --cache too.")
        if self.gigabytes is not None and not 0 < self.gigabytes < math.inf:
            raise InputError(f"--cache-size {self.gigabytes:g}: must be greater than 0, and finite.")

    def open(self, with_frames: bool, note: Callable[[str], None]) -> TokenCache | None:
        """Return the cache; see `TokenCache`."""
        if self.folder is None:
            return None
        from stts_cli.engine.token_cache import TokenCache

        most = DEFAULT_GIGABYTES if self.gigabytes is None else self.gigabytes
        return TokenCache(Path(self.folder), int(most * 1e9), with_frames=with_frames, note=note)


@dataclass(frozen=True)
class Budget:
    """How many frames are to be paid for, and what is held equal; None where a flag was not given."""

    frames: int | None = None
    by: str | None = None
    pixels: str | None = None

    def spent_by(self, arm: Arm) -> Arm:
        """Return the arm that spends it."""
        return arm.override(frames=self.frames, spend_savings=True, spend_by=self.by, spend_pixels=self.pixels)


def plan_arms(arm: Arm, compare: Sequence[str] | None, budget: Budget, at_s: Sequence[float] | None) -> list[Arm]:
    """Return the arms of a run; with a budget of frames the first spends it, and dense at that many is beside it.

    Raises:
        InputError: two arms are the same run, or flags that cannot stand together.
    """
    if budget.frames is None:
        if budget.by is not None:
            raise InputError(f"--budget-by {budget.by}: says how --budget is counted; give --budget too.")
        if budget.pixels is not None:
            raise InputError(f"--budget-pixels {budget.pixels}: says what --budget holds; give --budget too.")
        arms = parse_arms(arm, compare)
    else:
        arms = parse_arms(budget.spent_by(arm), ["dense", *(compare or ())])
        arms[1] = dataclasses.replace(arms[1], name=f"dense, at most {budget.frames} frames", spend_savings=False)
    if at_s and (other := [each.name for each in arms if each.frames != arm.frames]):
        raise InputError(f"--compare {other[0]}: says how many frames; it cannot stand with --at.")
    seen: dict[Arm, str] = {}
    for each in arms:
        same = {"name": "", "scorer": "none", "keep_ratio": 1.0}
        same |= {"spend_savings": False, "spend_by": "tokens", "spend_pixels": "frame"}
        alike = dataclasses.replace(each, **(same if each.is_dense else {"name": ""}))
        if alike in seen:
            raise InputError(f"--compare {each.name}: is the same run as {seen[alike]}; leave it out.")
        seen[alike] = each.name if seen else "the one that it is compared with"
    return arms


def run(wanted: Wanted, arms: Sequence[Arm], shown: Shown, kept: Kept, worded: Worded, *, device: str) -> None:
    """Answer every question about every video.

    Raises:
        InputError: something is wrong with what was named; of several videos, after all others were answered.
    """
    check_resize(arms[0].resize)
    videos, asked = wanted.read()
    is_one = len(videos) == 1 and not videos[0].is_expanded
    if is_one and not videos[0].address and not holds_pictures(videos[0].source):
        probe(videos[0].source.path)  # a bad file is reported at once, before torch loads
    if worded.engine and any(options for _, options in asked):
        raise InputError("--options: a server tells no likelihoods; ask without, and name them in the question.")
    shown.drawing.check(len(videos))
    kept.check()
    is_quiet = shown.mode == "quiet"

    def note(line: str) -> None:
        if not is_quiet:
            print_note(line)

    if (worded.how.temperature or worded.how.stop) and all(options for _, options in asked):
        note("--temperature, --stop: no effect with --options, of which the likeliest is the answer.")
    if worded.batch_size > 1 and any(options for _, options in asked):
        note(f"--batch-size {worded.batch_size}: no effect where a question has options.")
    context = wanted.context(note)
    lines = None
    if shown.output:
        part = dataclasses.astuple(wanted)[3:8]
        settings = [dataclasses.astuple(arm) for arm in arms], asked, part, worded.identity()
        lines = Lines(Path(shown.output), to_json(settings))
        videos = [video for video in videos if identity(video) not in lines.done]
    if not videos:
        note(f"{shown.output}: all videos are answered in it.")
        return
    failed: list[str] = []

    bar = Progress(quiet=is_quiet)
    streams = is_one and len(arms) == 1 and shown.mode == "table" and sys.stdout.isatty()
    streams = streams and not any(options for _, options in asked)

    def stream(number: int) -> Callable[[str], None]:
        bar.stop()
        print_piece(("\n" if number else "") + (f"{asked[number][0]}\n" if len(asked) > 1 else ""))
        return print_piece

    def prepare() -> Asked:
        from stts_cli.engine import ask as engine

        questions = [engine.Question(text, options) for text, options in asked]
        cache = kept.open(shown.drawing.is_wanted, note)
        on_text = stream if streams else None
        return engine.Asked(questions, worded.max_new_tokens, context, cache, on_text, worded.how, worded.batch_size)

    runs = answers(videos, arms, prepare, device, bar, worded.engine, shown.output)
    for number, (video, done) in enumerate(zip(videos, runs, strict=True)):
        document = done.to_dict()
        if lines:
            lines.append(identity(video), document)
        if "error" in document:
            if is_one:
                raise InputError(document["error"])
            failed.append(document["error"])
        if is_one:
            print_piece("\n" if streams else "")
            show(document, mode=shown.mode, notes=not is_quiet, is_answered=streams)
        else:
            show_line(document, mode=shown.mode, is_first=not number)
        if "error" not in document:
            shown.drawing.draw(done)  # type: ignore[arg-type]
    if failed:
        raise InputError(f"{len(failed)} of {len(videos)} videos were not answered; the first, {failed[0]}")


def answers(
    videos: Sequence[Named],
    arms: Sequence[Arm],
    prepare: Callable[[], Asked],
    device: str,
    bar: Progress,
    engine: Engine | None = None,
    output: str | None = None,
) -> Iterator[AskRun | ServedRun | Unanswered]:
    """Yield what comes of each video, with a sign of life on a terminal until it is there.

    Args:
        videos: at least one.
        arms: at least one.
        prepare: returns the questions, once something heavy may be imported.
        device: as for `model.load`.
        bar: the sign of life.
        engine: the server that answers, or None.
        output: the file of lines that a stopped run goes on with, or None.

    Raises:
        Interrupted: stopped by Ctrl-C; it says how to go on.
    """
    which = ""

    def say(stage: str) -> None:
        bar(which + stage)

    runs: Iterator[AskRun | ServedRun | Unanswered] | None = None
    for number, video in enumerate(videos, 1):
        which = f"{number} of {len(videos)}, {video.name}: " if len(videos) > 1 else ""
        with bar:
            if runs is None:
                say("starting")
                from stts_cli.engine.ask import ask
                from stts_cli.engine.ask_server import ask_server

                if engine is None:
                    runs = ask(arms, videos, prepare(), device=device, progress=say)
                else:
                    runs = ask_server(engine, arms, videos, prepare(), progress=say)
            try:
                done = next(runs)
            except KeyboardInterrupt:
                if len(videos) == 1 and output is None:
                    raise
                how = "with --output FILE the" if output is None else f"{output} has them; the"
                raise Interrupted(
                    f"stopped after {number - 1} of {len(videos)} videos; {how} same command goes on."
                ) from None
        yield done
    if runs is not None:
        next(runs, None)  # lets the processes that read go


def identity(video: Named) -> str:
    """Return what a video is known by in a file of lines.

    Raises:
        InputError: it comes from a pipe, which is another one each time.
    """
    if video.address == STDIN:
        raise InputError("--output: cannot go on with what a pipe held; name a file.")
    paths = [os.path.realpath(path) for path in video.source.pictures or (video.source.path, *video.source.joined)]
    return video.address or hashlib.sha256(to_json(paths).encode()).hexdigest()[:16]


class Lines:
    """A file of JSON lines, one a video, that a stopped run goes on with.

    Args:
        path: of the file, which may be there already.
        settings: of the run; a file of another run is refused.

    Attributes:
        done: the `identity` of each video that is answered in it.

    Raises:
        InputError: it is another run's, or no such file.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self.path, self.key = path, hashlib.sha256(settings.encode()).hexdigest()[:16]
        self.done: set[str] = set()
        with writing(path):
            text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
        for number, line in enumerate(text.split("\n")[:-1], 1):
            try:
                row = json.loads(line)
                key, name, is_answered = row["run"], row["of"], "error" not in row
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}:{number}: is no line of `stts ask --output`; name another file.") from error
            if key != self.key:
                raise InputError(f"{path}:{number}: is of other questions or settings; name another file.")
            if is_answered:
                self.done.add(name)
        with writing(path), path.open("a"):
            pass  # what cannot be written is said before the work
        if whole := text.rpartition("\n")[0]:
            whole += "\n"
        if whole != text:
            print_note(f"{path}: its last line was cut; that video is asked again.")
            with writing(path):
                os.truncate(path, len(whole.encode()))

    def append(self, of: str, document: dict[str, Any]) -> None:
        """Write a video's line, so that it is on the disk."""
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(to_json({"run": self.key, "of": of, **document}) + "\n")
            file.flush()
            os.fsync(file.fileno())
