"""Read and check what a model is to be trained on: a file or a dataset of the hub in, `VideoSample`s out.

All questions about one video stand together, so that training encodes it once (arXiv 2603.18004, training). `validate`
looks at everything before the first step: a run must not die of its data after a day.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stts_cli.data.conversations import FORM, Conversation, converse, supported
from stts_cli.data.files import DataFolder
from stts_cli.data.questions import TURNS, read_items
from stts_cli.data.rows import own_rows
from stts_cli.errors import InputError
from stts_cli.media.container import VideoInfo, probe

MAX_QUESTIONS = 8
PROBES_AT_ONCE = 8
PROBLEMS_SHOWN = 20
TOLERANCE_S = 0.005  # headers round their times


@dataclass(frozen=True)
class VideoSample:
    """One video, or the cut of it from start to end, with what is asked about it."""

    video: str  # path of the file
    start: float | None  # in seconds; None from the beginning
    end: float | None  # in seconds; None to the very end
    conversations: tuple[Conversation, ...]  # at least one


@dataclass(frozen=True)
class Problem:
    """Something that training would trip over."""

    line: int  # where it stands in the file, 0 where that is unknown
    video: str  # path of the file
    what: str  # in words
    kind: str  # for counting: a key of the report's last line


def read_samples(
    source: str,
    *,
    video_root: str | None = None,
    max_questions: int = MAX_QUESTIONS,
    notes: list[str] | None = None,
    skip_invalid: bool = False,
) -> list[VideoSample]:
    """Read every sample of a file or a dataset, or refuse a source without any, and a row that cannot be read.

    The samples come in the order in which their videos first appear.

    Args:
        source: a .jsonl, .json or .csv file (rows.py of data), or "hf:OWNER/NAME[:split]".
        video_root: folder that relative paths of videos start from; None for the file's own, or the dataset's.
        max_questions: the most conversations of one sample; a video with more becomes several samples.
        notes: gets what was guessed, put right or not read.
        skip_invalid: leave out rows that cannot be read, and note how many and which; else the first is an error.
    """
    if source.startswith("hf:"):
        from stts_cli.training.hub_samples import hub_rows

        rows, folder = hub_rows(source, video_root)
    else:
        path = Path(source)
        rows = own_rows(path, ", or hf:OWNER/NAME[:split], or shapes")
        folder = Path(video_root) if video_root else path.parent
    rows = [supported(row) for row in rows]
    files = DataFolder(folder, name=source, where="your own data")
    notes = [] if notes is None else notes
    grouped: dict[tuple[str, float | None, float | None], list[Conversation]] = {}
    unread: list[InputError] = []
    for row, item in zip(rows, read_items(rows, files.own, notes, more_keys=TURNS), strict=True):
        try:
            if isinstance(item, InputError):
                raise item
            conversation = converse(row, item)
        except InputError as error:
            if not skip_invalid:
                raise
            unread.append(error)
            continue
        key = (str(item.source.path), item.source.start_s, item.source.end_s)
        grouped.setdefault(key, []).append(conversation)
    if unread:
        first = f"left out: {len(unread)} of {len(rows)} rows cannot be read:"
        notes.append("\n".join([first, *_first_of([str(error) for error in unread])]))
    if not grouped:
        raise InputError(f"{source}: holds no sample; must be {FORM} a line.")
    return [
        VideoSample(*key, tuple(conversations[first : first + max_questions]))
        for key, conversations in grouped.items()
        for first in range(0, len(conversations), max_questions)
    ]


def split_held_out(
    samples: Sequence[VideoSample], num_videos: int, seed: int
) -> tuple[list[VideoSample], list[VideoSample]]:
    """Return the samples to train on and those held out, or refuse to leave nothing to train on.

    A video is held out with everything asked about it; which ones is settled by the seed, the number and the order.
    """
    videos = list(dict.fromkeys(sample.video for sample in samples))
    if not 0 <= num_videos < len(videos):
        raise InputError(
            f"--eval-videos {num_videos}: must be at least 0 and fewer than the {len(videos)} videos of the data."
        )
    chosen = {videos[k] for k in np.random.default_rng(seed).permutation(len(videos))[:num_videos]}
    return [s for s in samples if s.video not in chosen], [s for s in samples if s.video in chosen]


def validate(
    samples: Sequence[VideoSample],
    *,
    max_frames: int,
    max_fps: float,
    measure: Callable[[VideoInfo, int, Conversation], int],
    limit: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Problem]:
    """Look for what training would trip over; every video is opened once, none is decoded.

    `measure` returns the tokens that (header, frames, conversation) take in a sequence, `limit` is the most of one;
    `progress` is called with (videos looked at, all). Return the problems by line, those of a video at its first.
    """
    by_video: dict[str, list[VideoSample]] = {}
    for sample in samples:
        by_video.setdefault(sample.video, []).append(sample)
    problems: list[Problem] = []
    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        headers = pool.map(_header, by_video)
        for done, (cuts, header) in enumerate(zip(by_video.values(), headers, strict=True), start=1):
            if isinstance(header, Problem):
                lines = [conversation.line for sample in cuts for conversation in sample.conversations]
                more = f" (named in {len(lines)} lines)" if len(lines) > 1 else ""
                problems.append(dataclasses.replace(header, line=min(lines), what=header.what + more))
            for sample in cuts:
                if isinstance(header, VideoInfo):
                    problems += _check_sample(sample, header, max_frames, max_fps, measure, limit)
                problems += _check_texts(sample)
            progress(done, len(by_video))
    return sorted(problems, key=lambda problem: problem.line)


def report_problems(problems: Sequence[Problem]) -> str:
    """Word problems, at least one, for a person: a line each of the first, then how many there are of each kind."""
    lines = _first_of([f"line {p.line}: {p.video}: {p.what}." for p in problems])
    counts = Counter(problem.kind for problem in problems)
    return "\n".join([*lines, ", ".join(f"{kind}: {count}" for kind, count in counts.most_common())])


def _first_of(lines: list[str]) -> list[str]:
    """Return as many lines as a person reads, and how many more there are."""
    more = len(lines) - PROBLEMS_SHOWN
    return [*lines[:PROBLEMS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]


def leave_out(samples: Sequence[VideoSample], problems: Sequence[Problem]) -> list[VideoSample]:
    """Return validated samples without the conversations that have a problem and the videos that cannot be read."""
    unreadable = {p.video for p in problems if p.kind in ("missing video", "unreadable video")}
    bad = {(p.video, p.line) for p in problems}
    rest = []
    for sample in samples:
        good = tuple(c for c in sample.conversations if (sample.video, c.line) not in bad)
        if good and sample.video not in unreadable:
            rest.append(dataclasses.replace(sample, conversations=good))
    return rest


def _what(error: InputError, subject: str = "") -> str:
    """Return what an error says is wrong, without its subject and without what to do."""
    return str(error).removeprefix(f"{subject}:").split("; ")[0].strip().rstrip(".")


def _header(video: str) -> VideoInfo | Problem:
    """Return what the file's header says, or what is wrong with it."""
    try:
        return probe(video)
    except InputError as error:
        kind = "unreadable video" if Path(video).exists() else "missing video"
        return Problem(0, video, _what(error, video), kind)


def _check_texts(sample: VideoSample) -> Iterator[Problem]:
    for conversation in sample.conversations:
        for number, (asked, answer) in enumerate(conversation.turns, start=1):
            where = f" (exchange {number} of {len(conversation.turns)})" if len(conversation.turns) > 1 else ""
            for what, text in (("question", asked), ("answer", answer)):
                if not text.strip():
                    yield Problem(conversation.line, sample.video, f"the {what} is empty{where}", f"empty {what}")


def _check_sample(
    sample: VideoSample,
    info: VideoInfo,
    max_frames: int,
    max_fps: float,
    measure: Callable[[VideoInfo, int, Conversation], int],
    limit: int,
) -> Iterator[Problem]:
    """Check the cut, then the length of every conversation behind it."""
    wrong = _check_cut(sample, info)
    times = [] if wrong else _expected_times(sample, info, max_frames, max_fps)
    for talk in sample.conversations:
        if wrong:
            yield Problem(talk.line, sample.video, wrong, "bad start or end")
            continue
        try:
            tokens = measure(info, len(times), talk.with_subtitles(times))
        except InputError as error:
            yield Problem(talk.line, sample.video, _what(error), "unusable text")
            continue
        if tokens > limit:
            what = f"{tokens} tokens with {len(times)} frames, a sequence takes {limit}"
            yield Problem(talk.line, sample.video, what, "too long")


def _check_cut(sample: VideoSample, info: VideoInfo) -> str:
    """Return what is wrong with start and end, or ""."""
    start, end = sample.start or 0.0, math.inf if sample.end is None else sample.end
    if not (math.isfinite(start) and start >= 0) or math.isnan(end):
        return f"start {start:g} and end {end:g} are no times in seconds from 0 on"
    if end <= start:
        return f"end {end:g} s does not lie behind start {start:g} s"
    last = _last_frame_s(info)
    if last is not None and start > last + TOLERANCE_S:
        return f"start {start:g} s lies behind the last frame, at {last:.1f} s"
    if info.fps and math.ceil((start - TOLERANCE_S) * info.fps) / info.fps > end + TOLERANCE_S:
        return f"no frame lies between {start:g} and {end:g} s"
    return ""


def _last_frame_s(info: VideoInfo) -> float | None:
    """Return when the last frame is shown, as far as the header says."""
    duration = info.duration_s or info.container_duration_s
    return None if duration is None else max(0.0, duration - (1 / info.fps if info.fps else 0.0))


def _expected_times(sample: VideoSample, info: VideoInfo, max_frames: int, max_fps: float) -> list[float]:
    """Return about the times that will be looked at, from the start of the cut on; their number is never too low."""
    last = _last_frame_s(info)
    ends = [time for time in (last, sample.end) if time is not None]
    if not ends:
        return [0.0] * max_frames
    span = max(0.0, min(ends) - (sample.start or 0.0))
    num_frames = min(max_frames, math.ceil(span * max_fps) + 1)
    return np.linspace(0.0, span, num_frames).tolist()
