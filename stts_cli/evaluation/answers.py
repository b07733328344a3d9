"""Answer the questions about one clip under one arm, and score them: a row a question, handed over at once.

In: a loaded arm, a clip that was read, and items. Out: rows for the journal, with what the answer cost. A question that
cannot be asked, and a clip that could not be read, become rows with an error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stts_cli.data.items import QaItem
from stts_cli.data.prompts import prompt_hash, subtitle_block
from stts_cli.engine import pipeline
from stts_cli.engine.pipeline import answer_questions, load, resolve_scorer
from stts_cli.errors import InputError
from stts_cli.evaluation.benchmarks.benchmark import Benchmark
from stts_cli.evaluation.journal import Row
from stts_cli.media.reader import ReadRequest, ReadResult
from stts_cli.media.resize import DECODER, NOTE, choose_filter
from stts_cli.media.source import Source
from stts_cli.settings import Arm

if TYPE_CHECKING:
    from stts_cli.families.base import Family


@dataclass(frozen=True)
class LoadedArm:
    """Settings with everything decided, and the model.

    Attributes:
        settings: as given.
        family: the model.
        frames: at most this many a video.
        keep_ratio: fraction of windows kept.
        scorer: one of `settings.SCORERS`.
        dtype: of the weights.
    """

    settings: Arm
    family: Family
    frames: int
    keep_ratio: float
    scorer: str
    dtype: str

    @property
    def prune_layer(self) -> int:
        """0-based ViT block after which windows are scored."""
        given = self.settings.prune_layer
        return self.family.settings.prune_layer if given is None else given

    def essence(self) -> tuple[Any, ...]:
        """Everything that decides its answers."""
        prune_layer = None if self.scorer == "none" else self.prune_layer
        return (
            id(self.family), self.frames, self.settings.max_fps, self.keep_ratio, self.scorer, prune_layer, self.dtype
        )  # fmt: skip

    def request(self, source: Source) -> ReadRequest:
        """Return what is to be read of a source."""
        resample = choose_filter(self.settings.resize, self.family.resample)
        return ReadRequest(source, self.frames, self.settings.max_fps, self.family.frame_size, resample)


@dataclass(frozen=True)
class Asking:
    """How questions are put and replies are read.

    Attributes:
        benchmark: words the prompt, and has the rules.
        scoring: a key of its scorers.
        max_new_tokens: the most tokens of an answer.
        seed: of guesses and of the random scorer.
    """

    benchmark: Benchmark
    scoring: str
    max_new_tokens: int
    seed: int


def load_arms(
    settings: Sequence[Arm], device: str, families: dict[tuple[str, str], Family]
) -> tuple[list[LoadedArm], list[str]]:
    """Load every arm's model, each once, and decide what its settings leave open.

    Args:
        settings: one an arm.
        device: "cpu" or "cuda".
        families: models that are loaded already, by name and dtype; what is loaded here is added.

    Returns:
        The arms, and notes for the user.

    Raises:
        InputError: two arms turn out to be the same.
    """
    arms: list[LoadedArm] = []
    notes = [NOTE] if any(each.resize == DECODER for each in settings) else []
    for each in settings:
        dtype = ("bfloat16" if device.startswith("cuda") else "float32") if each.dtype == "auto" else each.dtype
        if (each.model, dtype) not in families:
            families[each.model, dtype] = load(each.model, device=device, dtype=dtype)
        family = families[each.model, dtype]
        scorer, keep_ratio, more = resolve_scorer(family, each.scorer, each.keep_ratio, each.prune_layer)
        notes += [note for note in more if note not in notes]
        frames = round(each.frames / keep_ratio) if each.spend_savings else each.frames
        arm = LoadedArm(each, family, frames, keep_ratio, scorer, dtype)
        for earlier in arms:
            if earlier.essence() == arm.essence():
                raise same_arms(earlier.settings.name, each.name)
        arms.append(arm)
    return arms, notes


def same_arms(one: str, other: str) -> InputError:
    """Return the error that two arms would be the same run."""
    which = f"both arms are {one}" if one == other else f"the arms {one} and {other} are the same"
    return InputError(f"{which} -> arms that differ -> change --compare, --keep-ratio or --scorer")


def answer(
    asking: Asking,
    arm: LoadedArm,
    asked: Sequence[QaItem],
    read: ReadResult,
    keep: Callable[[Row], None],
) -> float | None:
    """Answer questions about one clip, each kept at once; a failure becomes its row's error.

    Args:
        asking: how to ask and score.
        arm: how to look.
        asked: the questions that are open.
        read: the clip.
        keep: takes each row.

    Returns:
        Seconds that encoding the clip and answering took; None where a question failed.
    """
    clip = read.clip
    if clip is None:
        for item in asked:
            keep(_row(arm, item, error=read.error or "no clip"))
        return None
    contexts = {item.id: subtitle_block(item, clip.timestamps_s) for item in asked}
    order = list(dict.fromkeys(contexts.values()))
    open_ones = sorted(asked, key=lambda item: order.index(contexts[item.id]))  # those with one prefix in a row

    while open_ones:
        answered = 0

        def keep_last(state: pipeline.Arm, items: Sequence[QaItem] = tuple(open_ones)) -> None:
            nonlocal answered
            item = items[answered]
            answered += 1
            keep(_answer_row(asking, arm, item, contexts[item.id], read, state))

        try:
            done = answer_questions(
                arm.family,
                clip,
                [asking.benchmark.prompt(item) for item in open_ones],
                contexts=[contexts[item.id] for item in open_ones],
                keep_ratio=arm.keep_ratio,
                scorer=arm.scorer,
                prune_layer=arm.settings.prune_layer,
                max_new_tokens=asking.max_new_tokens,
                seed=asking.seed,
                on_answer=keep_last,
            )
            return sum(done.seconds.values()) if len(open_ones) == len(asked) else None
        except InputError as error:  # of this question, such as one that is too long; the others are asked
            keep(_row(arm, open_ones[answered], error=str(error)))
            open_ones = open_ones[answered + 1 :]
    return None


def _answer_row(
    asking: Asking, arm: LoadedArm, item: QaItem, context: str, read: ReadResult, state: pipeline.Arm
) -> Row:
    """Score the latest answer."""
    assert read.clip is not None
    answer = state.answers[-1]
    text = answer.text.strip()
    verdict = asking.benchmark.scorers[asking.scoring](text, item, random.Random(f"{asking.seed} {item.id}"))
    return _row(
        arm,
        item,
        prompt=prompt_hash(f"{read.clip.timestamps_s} {context} {answer.question}"),
        text=text,
        finished=answer.finished,
        parsed=verdict.parsed,
        correct=None if item.answer is None else int(verdict.correct),
        counted=verdict.counted,
        num_frames=len(read.clip.timestamps_s),
        tokens_in=answer.num_prompt_tokens,
        visual_tokens=state.num_windows_kept,
        visual_tokens_dense=state.num_windows,
        flops=answer.savings["flops"]["total"]["pruned"],
        peak_bytes=state.peak_bytes,
        backend=read.clip.backend,
    )


def _row(arm: LoadedArm, item: QaItem, *, error: str | None = None, **answer: Any) -> Row:
    return {
        "arm": arm.settings.name,
        "id": item.id,
        "video": item.video,
        "segment": f"{item.video} {item.source.start_s}-{item.source.end_s}",
        "groups": {name: list(values) for name, values in item.groups.items()},
        "question": item.question,
        "answer": item.answer,
        "chance": item.chance,
        **({"error": error, "correct": None} if error else answer),
    }
