"""What `stts ask` does: questions about videos, answered by one or more arms."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from stts_cli import __version__
from stts_cli.engine.model import Begun, Loaded, VideoModel, check_question, load_arm
from stts_cli.engine.results import Answer, Video, cut_notes
from stts_cli.engine.token_cache import TokenCache
from stts_cli.errors import InputError, SttsError
from stts_cli.media.clip import Clip
from stts_cli.media.fetch import fetched
from stts_cli.media.inputs import Named
from stts_cli.media.reader import Readers
from stts_cli.media.source import ReadRequest, Source
from stts_cli.pruning.stopwatch import clock
from stts_cli.settings import GREEDY, Answering, Arm, FixedLayout

Progress = Callable[[str], None]
WARM_UP_FRAMES = 2
WORKERS = 1


@dataclass(frozen=True)
class ArmRun:
    """What one arm gave.

    Attributes:
        name: for tables.
        model: that answered.
        video: as it saw it.
        answers: one a question.
    """

    name: str
    model: VideoModel
    video: Video
    answers: list[Answer]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        video, pruning = self.video, self.video.pruning
        kept = video.keep_mask.sum(1).tolist()
        shared = {"llm_prefill": video.prefill_s, "decode": 0.0}
        for answer in self.answers:
            shared = {stage: shared[stage] + answer.seconds[stage] for stage in shared}
        return {
            "name": self.name,
            "revision": self.model.family.revision,
            "quantize": self.model.arm.quantize,
            "device_map": self.model.arm.device_map,
            "scorer": pruning.scorer,
            "keep_ratio": pruning.keep_ratio,
            "prune_layer": pruning.prune_layer,
            "kernel": video.tokens.kernel,
            "kernel_reason": video.tokens.kernel_reason,
            "num_frames": len(video.timestamps_s),
            "frame_size": list(video.tokens.layout.frame_size),
            "frames_per_unit": video.tokens.layout.frames_per_unit,
            "num_windows": video.keep_mask.numel(),
            "num_windows_kept": sum(kept),
            "kept_per_frame": kept,
            "seconds": {**video.seconds, **shared},
            "peak_bytes": self.answers[-1].peak_bytes if self.answers else video.memory.peak_bytes(),
            "answers": [answer.to_dict() for answer in self.answers],
        }


@dataclass(frozen=True)
class Question:
    """A question, and options of which the likeliest is the answer; with none the model words it."""

    text: str
    options: Sequence[str] = ()


@dataclass(frozen=True)
class AskRun:
    """Questions about one video, answered.

    Attributes:
        name: of the video, as it was named.
        source: where its frames came from.
        arms: at least one.
        seconds: "load" and "read".
        notes: what a user should know.
    """

    name: str
    source: Source
    arms: list[ArmRun]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain data, ready for JSON."""
        first = self.arms[0]
        return {
            "stts": __version__,
            "command": "ask",
            "model": first.model.name,
            "is_demonstration": first.model.family.is_demonstration,
            "device": str(first.model.device),
            "dtype": first.model.dtype,
            "answering": first.model.answering.to_dict(),
            "video": {**describe_clip(self.name, self.source, first.video.clip), "resize": first.model.arm.resize},
            "arms": [arm.to_dict() for arm in self.arms],
            "seconds": self.seconds,
            "notes": [*self.notes, *cut_notes(first.answers)],
        }


@dataclass(frozen=True)
class Unanswered:
    """A video that could not be read or asked about: its name, and the line that says why."""

    name: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return {"stts": __version__, "command": "ask", "video": {"path": self.name}, "error": self.error}


@dataclass(frozen=True)
class Asked:
    """What is asked of every video.

    Attributes:
        questions: at least one.
        max_new_tokens: the most tokens of an answer.
        context: gives the text between video and question, such as subtitles, for a source and the times in seconds of
            its frames.
        cache: where videos that were encoded before are kept, or None.
        answering: what the models are told before the video, and how they word answers.
        batch_size: how many answers of a model are decoded together, of one video or several, where none has options.
        stream: returns what is called with each piece of the answer to a question, by its number, as it comes; or None.
    """

    questions: Sequence[Question]
    max_new_tokens: int = 64
    context: Callable[[Source, Sequence[float]], str] = lambda source, times: ""
    cache: TokenCache | None = None
    stream: Callable[[int], Callable[[str], None]] | None = None
    answering: Answering = GREEDY
    batch_size: int = 1


def ask(
    arms: Sequence[Arm],
    videos: Sequence[Named],
    asked: Asked,
    *,
    device: str = "auto",
    progress: Progress = lambda stage: None,
    workers: int | None = None,
) -> Iterator[AskRun | Unanswered]:
    """Answer questions about videos under every arm, all after a warm-up where there are several arms.

    Each checkpoint is loaded once. Videos are read in a process of their own, ahead of the model.

    Args:
        arms: at least one.
        videos: at least one.
        asked: the questions.
        device: as for `model.load`.
        progress: called with the name of each stage as it starts.
        workers: processes that read; 0 reads in this one, None is `WORKERS`.

    Yields:
        A run for each video, or why there is none.

    Raises:
        InputError: a question, a model's name or a setting is wrong.
        EnvironmentFailure: the device is not there, or an address cannot be reached.
    """
    for question in asked.questions:
        check_question(question.text, question.options)
    batches: dict[int, _Batch] = {}
    held: deque[AskRun | Unanswered] = deque()  # in their order, until all before are answered
    for done in _look_at_each(arms, videos, asked, batches, device=device, progress=progress, workers=workers):
        held.append(done)
        while held and _is_answered(held[0], asked):
            yield held.popleft()
    for batch in batches.values():
        batch.end()
    yield from held


def _look_at_each(
    arms: Sequence[Arm],
    videos: Sequence[Named],
    asked: Asked,
    batches: dict[int, _Batch],
    *,
    device: str,
    progress: Progress,
    workers: int | None,
) -> Iterator[AskRun | Unanswered]:
    """Yield what `ask` does; runs whose answers wait in `batches`, by the number of their arm, get them later."""
    with ExitStack() as stack:
        sources = [fetch_source(video, len(videos) > 1, stack, progress) for video in videos]
        readers = stack.enter_context(Readers(WORKERS if workers is None else workers))  # they start beside the model
        progress("loading the model")
        started = clock("cpu")
        families: Loaded = {}
        how = {"max_new_tokens": asked.max_new_tokens, "answering": asked.answering}
        models = [load_arm(arm, device, loaded=families, **how) for arm in arms]  # type: ignore[arg-type]
        load_s = clock("cpu") - started
        alike = [model.is_dense and model.frames == models[0].frames for model in models]
        names = ["dense" if dense else arm.name for dense, arm in zip(alike, arms, strict=True)]
        is_joined = asked.batch_size > 1 and not any(question.options for question in asked.questions)
        for k, model in enumerate(models):
            if is_joined and model.is_joined:
                batches[k] = _Batch(model, asked)
        looks = _Looks(models, sources, asked.cache)
        results = readers.read(looks.requests())
        is_warm = len(models) == 1
        for number, (video, source) in enumerate(zip(videos, sources, strict=True)):
            progress("reading the video")
            look = looks.at(number)
            read = {request: next(results) for request in look.requests}
            failed = look.error or next((result.error for result in read.values() if result.clip is None), None)
            if failed or isinstance(source, str):
                where = "" if isinstance(source, str) else str(source.path)
                yield Unanswered(video.name, (failed or "").replace(where or video.name, video.name))
                continue
            clips = {request: result.clip for request, result in read.items() if result.clip is not None}
            if not is_warm and clips:
                progress("warming up")
                for model in models:
                    if clip := clips.get(model.request(source)):
                        model.ask(model.encode(clip.first(WARM_UP_FRAMES)), "?", max_new_tokens=2)
                is_warm = True
            runs, begun = [], {}
            try:
                for k, (name, model) in enumerate(zip(names, models, strict=True)):
                    seen = look.seen(k, model, clips.get(model.request(source)), progress)
                    if k in batches:
                        begun[k] = batches[k].begin(seen, source)
                        runs.append(ArmRun(name, model, seen, []))
                    else:
                        runs.append(_run(name, model, source, seen, asked, progress))
            except InputError as error:
                yield Unanswered(video.name, str(error).replace(str(source.path), video.name))
                continue
            for k, batch in batches.items():
                batch.add(runs[k], begun[k])
            notes = [note for run in runs for note in [*run.video.notes, *_budget_notes(run)]]
            notes += filter(None, [model.batch_note(asked.batch_size) for model in models])
            seconds = {"load": load_s, "read": sum(result.read_s for result in read.values())}
            yield AskRun(video.name, source, runs, seconds, list(dict.fromkeys(notes)))


class _Looks:
    """How each video is looked at, decided when it is its turn to be read; `sources` come from `fetch_source`."""

    def __init__(self, models: Sequence[VideoModel], sources: Sequence[Source | str], cache: TokenCache | None) -> None:
        self.models, self.sources, self.cache = models, sources, cache
        self._decided: list[_Look] = []

    def requests(self) -> Iterator[ReadRequest]:
        """Yield what is to be read, video after video."""
        for number in range(len(self.sources)):
            yield from self.at(number).requests

    def at(self, number: int) -> _Look:
        """Return how a video is looked at; the ones before it are decided by then."""
        while len(self._decided) <= number:
            self._decided.append(self._decide(self.sources[len(self._decided)]))
        return self._decided[number]

    def _decide(self, source: Source | str) -> _Look:
        if isinstance(source, str):
            return _Look(None, [], error=source)
        requests = [model.request(source) for model in self.models]
        if self.cache is None:
            return _Look(None, list(dict.fromkeys(requests)), [None] * len(requests))
        try:
            keys = [self.cache.key(model, source) for model in self.models]
        except InputError as error:
            return _Look(None, [], error=str(error))
        loaded = [
            None if key is None else self.cache.load(key, model) for key, model in zip(keys, self.models, strict=True)
        ]
        missing = [
            request for request, video in zip(requests, loaded, strict=True) if video is None or self.cache.with_frames
        ]
        cached = {k: video for k, video in enumerate(loaded) if video is not None}
        return _Look(self.cache, list(dict.fromkeys(missing)), keys, cached)


@dataclass(frozen=True)
class _Look:
    """How one video is looked at.

    Attributes:
        cache: where its tokens are kept, or None.
        requests: what is to be read.
        keys: of its entry for each model, or None.
        cached: the video as it was seen before, by the model's number.
        error: why it cannot be looked at, or empty.
    """

    cache: TokenCache | None
    requests: list[ReadRequest]
    keys: list[str | None] = field(default_factory=list)
    cached: dict[int, Video] = field(default_factory=dict)
    error: str = ""

    def seen(self, number: int, model: VideoModel, clip: Clip | None, progress: Progress) -> Video:
        """Return the video as a model sees it, and keep it where it was not kept; `clip` is None where it was."""
        if number in self.cached:
            found = self.cached.pop(number)
            return found if clip is None else replace(found, clip=clip)
        assert clip is not None
        progress("looking at the video" + (", dense" if model.is_dense else ""))
        video, key = model.encode(clip), self.keys[number]
        if self.cache is not None and key is not None:
            self.cache.save(key, video)
        return video


def _is_answered(done: AskRun | Unanswered, asked: Asked) -> bool:
    return isinstance(done, Unanswered) or all(len(arm.answers) == len(asked.questions) for arm in done.arms)


class _Batch:
    """Questions of one arm whose answers are decoded together."""

    def __init__(self, model: VideoModel, asked: Asked) -> None:
        self.model, self.asked = model, asked
        self._waiting: list[tuple[ArmRun, Begun]] = []

    def begin(self, seen: Video, source: Source) -> list[Begun]:
        """Read the questions about a video; InputError where one cannot be asked."""
        context = self.asked.context(source, seen.timestamps_s)
        return [self.model.begin(seen, each.text, context=context) for each in self.asked.questions]

    def add(self, run: ArmRun, begun: Sequence[Begun]) -> None:
        """Take a video's questions, and give answers to their runs whenever there are enough."""
        self._waiting += [(run, each) for each in begun]
        while len(self._waiting) >= self.asked.batch_size:
            self._answer()

    def end(self) -> None:
        """Answer what is left."""
        while self._waiting:
            self._answer()

    def _answer(self) -> None:
        size = self.asked.batch_size
        together, self._waiting = self._waiting[:size], self._waiting[size:]
        limit = self.asked.max_new_tokens
        replies = self.model.finish([begun for _, begun in together], max_new_tokens=limit)
        for (run, _), reply in zip(together, replies, strict=True):
            run.answers.append(reply)


def _run(name: str, model: VideoModel, source: Source, seen: Video, asked: Asked, progress: Progress) -> ArmRun:
    progress("answering")
    context = asked.context(source, seen.timestamps_s)
    answers = []
    for number, each in enumerate(asked.questions):
        on_text = asked.stream(number) if asked.stream else None
        answers.append(model.ask(seen, each.text, options=each.options, context=context, on_text=on_text))
    return ArmRun(name, model, seen, answers)


def fetch_source(video: Named, is_one_of_many: bool, stack: ExitStack, progress: Progress) -> Source | str:
    """Bring a video into a file where it is none; of several, return why it cannot be."""
    if not video.address:
        return video.source
    try:
        return replace(video.source, path=stack.enter_context(fetched(video.address, progress)))
    except SttsError as error:
        if not is_one_of_many:
            raise
        return str(error)


def _budget_notes(run: ArmRun) -> list[str]:
    """Say that a video has fewer frames than the budget pays for, and how large they are where that depends on it."""
    model, found, layout = run.model, len(run.video.timestamps_s), run.video.tokens.layout
    if not model.arm.spend_savings:
        return []
    notes, budget = [], f"--budget {model.arm.frames}"
    if found < model.frames:
        few = f"{found} were there at {model.arm.max_fps:g} a second; --max-fps may give more"
        all_of_it = found == run.video.clip.num_source_frames
        notes.append(f"{budget} pays for {model.frames} frames, {f'the video has {found}' if all_of_it else few}")
    if not isinstance(model.family.layout_rule, FixedLayout):
        held = {"frame": f"as large as {model.arm.frames} would be", "total": "the smaller the more there are"}
        (height, width), tokens = layout.frame_size, f"{layout.num_windows} tokens a unit of {layout.frames_per_unit}"
        pixels = f"--budget-pixels {model.arm.spend_pixels}"
        notes.append(f"{pixels}: {found} frames of {width}x{height} px, {tokens}, {held[model.arm.spend_pixels]}")
    return notes


def describe_clip(name: str, source: Source, clip: Clip) -> dict[str, Any]:
    """Return what was read of a video, as plain data."""
    return {
        "path": name,
        "start_s": source.start_s or 0.0,
        "end_s": source.end_s,
        "duration_s": clip.duration_s,
        "source_fps": clip.source_fps,
        "num_source_frames": clip.num_source_frames,
        "num_frames": len(clip.timestamps_s),
        "timestamps_s": clip.timestamps_s,
        "frames_per_s": _rate(clip.timestamps_s),
        "frame_size": list(clip.frames.shape[1:3]),
        "backend": clip.backend,
    }


def _rate(times: Sequence[float]) -> float | None:
    """Return the frames a second that were looked at; None of a single one."""
    return round((len(times) - 1) / (times[-1] - times[0]), 4) if len(times) > 1 else None
