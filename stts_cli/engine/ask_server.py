"""What `stts ask --engine` does: the same questions, put to a model on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from stts_cli import __version__
from stts_cli.engine.ask import WORKERS, Asked, Unanswered, describe_clip, fetch_source
from stts_cli.engine.model import check_question
from stts_cli.engine.remote import Engine, RemoteAnswer, RemoteModel, RemoteVideo, load_remote
from stts_cli.engine.results import cut_notes
from stts_cli.errors import InputError
from stts_cli.media.inputs import Named
from stts_cli.media.reader import Readers
from stts_cli.media.source import Source
from stts_cli.settings import Arm


@dataclass(frozen=True)
class ServedArm:
    """What one arm gave on a server.

    Attributes:
        model: that answered.
        video: as the server got it.
        answers: one a question.
    """

    model: RemoteModel
    video: RemoteVideo
    answers: list[RemoteAnswer]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        replies = [
            {
                "question": answer.question,
                "text": answer.text,
                "finished": answer.finished,
                "options": None,
                "num_prompt_tokens": answer.num_prompt_tokens,
                "num_expected_tokens": answer.num_expected,
                "num_new_tokens": answer.num_new_tokens,
                "num_visual_tokens": self.video.costs(answer)["visual_tokens"],
                "ttft_s": answer.ttft_s,
                "seconds": answer.seconds,
            }
            for answer in self.answers
        ]
        shown = {"name": self.model.arm.name, **self.model.describe()}
        return {**shown, "num_frames": len(self.video.timestamps_s), "answers": replies}

    def notes(self) -> list[str]:
        """Return what a user should know: what was read, and prompts that have another length than expected."""
        lines, name, ratio = list(self.video.notes), self.model.arm.name, self.model.arm.keep_ratio
        for answer in self.answers:
            counted, expected = answer.num_prompt_tokens, answer.num_expected
            if counted is None or expected is None:
                if ratio is not None:
                    lines.append(f"{name}: whether the server applies keep ratio {ratio:g} cannot be checked here")
            elif counted != expected:
                otherwise = (
                    "prunes by its own setting, or cuts" if ratio is None else f"does not keep {ratio:g}, or cuts"
                )
                lines.append(
                    f"{name}: the server counts {counted} prompt tokens, {expected} were expected; it {otherwise} or "
                    "words videos otherwise"
                )
        return lines


@dataclass(frozen=True)
class ServedRun:
    """Questions about one video, answered by a server; see `ask.AskRun`."""

    name: str
    source: Source
    arms: list[ServedArm]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain data, ready for JSON."""
        first = self.arms[0]
        return {
            "stts": __version__,
            "command": "ask",
            "engine": first.model.server.url,
            "model": first.model.name,
            "is_demonstration": False,
            "answering": first.model.answering.to_dict(),
            "video": describe_clip(self.name, self.source, first.video.clip),
            "arms": [arm.to_dict() for arm in self.arms],
            "seconds": self.seconds,
            "notes": [*self.notes, *cut_notes(first.answers)],
        }


def ask_server(
    engine: Engine,
    arms: Sequence[Arm],
    videos: Sequence[Named],
    asked: Asked,
    *,
    progress: Callable[[str], None] = lambda stage: None,
) -> Iterator[ServedRun | Unanswered]:
    """Answer questions about videos under every arm, one request after the other; the arguments are those of `ask`.

    Yields:
        A run for each video, or why there is none.

    Raises:
        InputError: a question, a model's name or a setting is wrong.
        EnvironmentFailure: no server answers, it would refuse every question, or an address cannot be reached.
    """
    for question in asked.questions:
        check_question(question.text, question.options)
    with ExitStack() as stack:
        progress("asking the server")
        models = load_remote(engine, arms, asked.answering)
        sources = [fetch_source(video, len(videos) > 1, stack, progress) for video in videos]
        readers = stack.enter_context(Readers(WORKERS))
        requests = [
            request
            for source in sources
            if not isinstance(source, str)
            for request in dict.fromkeys(model.request(source) for model in models)
        ]
        results = readers.read(requests)
        for video, source in zip(videos, sources, strict=True):
            if isinstance(source, str):
                yield Unanswered(video.name, source)
                continue
            progress("reading the video")
            read = {request: next(results) for request in dict.fromkeys(model.request(source) for model in models)}
            clips = {request: result.clip for request, result in read.items()}
            try:
                served = []
                for model in models:
                    clip = clips[model.request(source)]
                    if clip is None:
                        raise InputError(read[model.request(source)].error or "no clip")
                    progress("answering")
                    served.append(_ask_all(model, model.encode(clip), source, asked))
            except InputError as error:
                yield Unanswered(video.name, str(error).replace(str(source.path), video.name))
                continue
            notes = list(dict.fromkeys(line for arm in served for line in arm.notes()))
            read_s = sum(result.read_s for result in read.values())
            yield ServedRun(video.name, source, served, {"read": read_s}, notes)


def _ask_all(model: RemoteModel, video: RemoteVideo, source: Source, asked: Asked) -> ServedArm:
    context = asked.context(source, video.timestamps_s)
    answers = [
        model.ask(
            video,
            each.text,
            options=each.options,
            context=context,
            max_new_tokens=asked.max_new_tokens,
            on_text=asked.stream(number) if asked.stream else None,
        )
        for number, each in enumerate(asked.questions)
    ]
    return ServedArm(model, video, answers)
