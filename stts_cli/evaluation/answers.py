"""Answer the questions about one clip under one arm, and score them: a row a question, handed over at once.

In: a loaded arm, a clip that was read, and items. Out: rows for the journal, with what the answer cost. A question that
cannot be asked, and a clip that could not be read, become rows with an error.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stts_cli.data.items import QaItem
from stts_cli.data.prompts import prompt_hash, subtitle_block
from stts_cli.engine.model import Begun, Loaded, VideoModel, load_arm
from stts_cli.engine.remote import RemoteAnswer, RemoteModel, RemoteVideo
from stts_cli.engine.results import Answer, Video
from stts_cli.errors import InputError
from stts_cli.evaluation.benchmarks.benchmark import Benchmark
from stts_cli.evaluation.journal import Row
from stts_cli.media.clip import Clip
from stts_cli.media.reader import ReadResult
from stts_cli.settings import GREEDY, Answering, Arm

AnyModel = VideoModel | RemoteModel  # both are asked in the same way


@dataclass(frozen=True)
class Asking:
    """How questions are put and replies are read; `scoring` is a key of the benchmark's scorers."""

    benchmark: Benchmark
    scoring: str
    max_new_tokens: int
    seed: int  # of guesses


def load_arms(
    arms: Sequence[Arm], device: str, loaded: Loaded, seed: int = 0, answering: Answering = GREEDY
) -> tuple[list[VideoModel], list[str]]:
    """Load every arm's model, each checkpoint once, or refuse two arms that turn out to be the same.

    `loaded` holds models, and gets those loaded here; `seed` is for arms that name none. Return
    the models, one an arm, and notes for the user.
    """
    models: list[VideoModel] = []
    for arm in arms:
        arm = arm if arm.seed is not None else dataclasses.replace(arm, seed=seed)
        model = load_arm(arm, device, loaded=loaded, answering=answering)
        for earlier in models:
            if _essence(earlier) == _essence(model):
                raise same_arms(earlier.arm.name, arm.name)
        models.append(model)
    return models, list(dict.fromkeys(note for model in models for note in model.notes))


def _essence(model: VideoModel) -> tuple[Any, ...]:
    """Everything that decides an arm's answers."""
    layer = None if model.is_dense else model.pruning.prune_layer
    pruning = dataclasses.replace(model.pruning, prune_layer=layer or 0)
    return id(model.family), model.frames, model.arm.max_fps, pruning


def same_arms(one: str, other: str) -> InputError:
    """Return the error that two arms would be the same run."""
    which = f"two arms are {one}" if one == other else f"the arms {one} and {other} are the same"
    return InputError(f"{which}; arms must differ: change --compare, --keep-ratio or --scorer.")


def answer(
    asking: Asking, model: AnyModel, asked: Sequence[QaItem], read: ReadResult, keep: Callable[[Row], None]
) -> float | None:
    """Answer questions about one clip and keep each row; return its seconds, None where a question failed."""
    clip = read.clip
    if clip is None:
        for item in asked:
            keep(_row(model, item, error=read.error or "no clip"))
        return None
    seconds, failed = 0.0, False
    video: Any = None
    for item, context in _in_order(asked, clip):
        try:
            video = video or model.encode(clip)
            reply = model.ask(
                video, asking.benchmark.prompt(item), context=context, max_new_tokens=asking.max_new_tokens
            )
        except InputError as error:  # of this question, such as one that is too long; the others are asked
            keep(_row(model, item, error=str(error)))
            failed = True
            continue
        seconds += sum(reply.seconds.values())
        keep(_answer_row(asking, model, item, context, video, reply))
    if failed or video is None:
        return None
    return seconds + sum(video.seconds.values()) + video.prefill_s


class Batch:
    """Questions of one arm whose answers are decoded together, whatever clips they are about.

    Args:
        asking: how questions are put and replies are read.
        model: that answers.
        size: how many answers are decoded together at most.
        keep: called with each row.
    """

    def __init__(self, asking: Asking, model: VideoModel, size: int, keep: Callable[[Row], None]) -> None:
        self.asking, self.model, self.size, self.keep = asking, model, size, keep
        self._begun: list[tuple[QaItem, str, Begun]] = []

    def add(self, asked: Sequence[QaItem], read: ReadResult) -> None:
        """Read questions about one clip, and answer whenever there are enough; one that cannot be asked is kept."""
        video = None
        if read.clip is None:
            for item in asked:
                self.keep(_row(self.model, item, error=read.error or "no clip"))
            return
        for item, context in _in_order(asked, read.clip):
            try:
                video = video or self.model.encode(read.clip)
                begun = self.model.begin(video, self.asking.benchmark.prompt(item), context=context)
            except InputError as error:
                self.keep(_row(self.model, item, error=str(error)))
                continue
            self._begun.append((item, context, begun))
            if len(self._begun) == self.size:
                self.answer()

    def answer(self) -> None:
        """Answer what was read."""
        waiting, self._begun = self._begun, []
        if not waiting:
            return
        replies = self.model.finish([begun for *_, begun in waiting], max_new_tokens=self.asking.max_new_tokens)
        for (item, context, begun), reply in zip(waiting, replies, strict=True):
            self.keep(_answer_row(self.asking, self.model, item, context, begun.video, reply))


def _in_order(asked: Sequence[QaItem], clip: Clip) -> list[tuple[QaItem, str]]:
    """Return questions with their subtitles, those that share them, and so a prefix, in a row."""
    contexts = {item.id: subtitle_block(item.subtitles, clip.timestamps_s) for item in asked}
    order = list(dict.fromkeys(contexts.values()))
    return [(item, contexts[item.id]) for item in sorted(asked, key=lambda item: order.index(contexts[item.id]))]


def _answer_row(
    asking: Asking,
    model: AnyModel,
    item: QaItem,
    context: str,
    video: Video | RemoteVideo,
    answer: Answer | RemoteAnswer,
) -> Row:
    text = answer.text.strip()
    verdict = asking.benchmark.scorers[asking.scoring](text, item, random.Random(f"{asking.seed} {item.id}"))
    return _row(
        model,
        item,
        prompt=prompt_hash(f"{video.timestamps_s} {context} {answer.question}"),
        text=text,
        finished=answer.finished,
        parsed=verdict.parsed,
        correct=None if item.answer is None else int(verdict.correct),
        counted=verdict.counted,
        num_frames=len(video.timestamps_s),
        **video.costs(answer),  # type: ignore[arg-type]  # an answer about this very video
        backend=video.clip.backend,
        reading=[*video.clip.damage, *video.clip.notes],
    )


def _row(model: AnyModel, item: QaItem, *, error: str | None = None, **answer: Any) -> Row:
    return {
        "arm": model.arm.name,
        "id": item.id,
        "video": item.video,
        "segment": f"{item.video} {item.source.start_s}-{item.source.end_s}",
        "groups": {name: list(values) for name, values in item.groups.items()},
        "question": item.question,
        "answer": item.answer,
        "chance": item.chance,
        **({"error": error, "correct": None} if error else answer),
    }
