"""What a model gives back: an encoded video, and answers about it. Both show themselves in a notebook."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from stts_cli.cost.savings import Savings, count
from stts_cli.engine.device import PeakMemory
from stts_cli.media.clip import Clip
from stts_cli.settings import GREEDY, Answering, Pruning

if TYPE_CHECKING:
    from stts_cli.engine.generate import VideoPrefix
    from stts_cli.engine.remote import RemoteAnswer
    from stts_cli.families.base import EncodedVideo, Family, Prompt


@dataclass(eq=False)
class Video:
    """A video that a model has looked at. `VideoModel.ask` takes it any number of times.

    Attributes:
        clip: the frames and their times.
        family: the model that encoded it.
        pruning: who scored, and how much was to stay; scorer "none" where nothing was dropped.
        tokens: the visual tokens, and how they came about.
        seconds: time by stage: "preprocess", "vit_dense", "score_select_pack", "vit_packed", "connector".
        encode_s: seconds from the frames in memory to the visual tokens.
        notes: what a user should know: fallbacks, settings that had no effect.
        memory: the most memory held since it was encoded.
        prefix: the language model's state after the video, once a question was asked.
        prefill_s: seconds that making prefixes took.
        num_questions: questions so far.
    """

    clip: Clip = field(repr=False)
    family: Family = field(repr=False)
    pruning: Pruning
    tokens: EncodedVideo = field(repr=False)
    seconds: dict[str, float]
    encode_s: float
    notes: list[str]
    memory: PeakMemory = field(repr=False)
    prefix: VideoPrefix | None = field(default=None, repr=False)
    prefill_s: float = 0.0
    num_questions: int = 0

    @property
    def keep_mask(self) -> torch.Tensor:
        """Kept windows: bool (T, W) on the CPU, True = kept; (U, W) where a unit is several frames."""
        return self.tokens.keep_mask.cpu()

    @property
    def timestamps_s(self) -> list[float]:
        """Time of each frame in seconds from the start of the video; T of them."""
        return self.clip.timestamps_s

    @property
    def savings(self) -> Savings:
        """Tokens and FLOPs up to the question: vision encoder, connector, and the language model's prefill of it."""
        prompt = self.prompt("?")
        behind = prompt.input_ids.shape[1] - prompt.num_prefix
        return self.count(prompt.dense_length - behind, prompt.num_prefix, 1)

    def prompt(self, question: str, context: str = "", answering: Answering = GREEDY) -> Prompt:
        """Word a question about it; see `Family.build_prompt`."""
        clip, tokens = self.clip, self.tokens
        return self.family.build_prompt(
            clip.timestamps_s, question, tokens.keep_mask, layout=tokens.layout, context=context,
            duration_s=clip.length_s, system=answering.system, think=answering.think,
        )  # fmt: skip

    def count(self, dense_length: int, length: int, num_new_tokens: int, option_tokens: Sequence[int] = ()) -> Savings:
        """Count tokens and FLOPs of one question; see `savings.count`.

        Args:
            dense_length: tokens of the prompt before any was dropped.
            length: tokens of the prompt as it was run.
            num_new_tokens: decoding steps, the first of which comes with the prefill.
            option_tokens: tokens of each option that was scored instead.
        """
        return count(
            self.family.shape(self.tokens.layout),
            self.tokens.keep_mask.sum(1).tolist(),
            (dense_length, length),
            self.pruning.prune_layer,
            new_tokens=num_new_tokens,
            option_tokens=option_tokens,
            scorer=self.tokens.scorer,
            packed_patches=self.tokens.packed_patches,
        )

    def costs(self, answer: Answer) -> dict[str, Any]:
        """Return what a row of an evaluation's journal says of the cost of one question."""
        return {
            "tokens_in": answer.num_prompt_tokens,
            "visual_tokens": int(self.keep_mask.sum()),
            "visual_tokens_dense": self.keep_mask.numel(),
            "flops": answer.savings.total[1],
            "peak_bytes": answer.peak_bytes,
        }

    def __str__(self) -> str:
        """Say how many frames it has and what was kept."""
        kept, total = int(self.keep_mask.sum()), self.keep_mask.numel()
        num_frames = len(self.timestamps_s)
        return f"{num_frames} {'frame' if num_frames == 1 else 'frames'}, {kept} of {total} windows kept"

    def _repr_html_(self) -> str:
        from stts_cli.report.notebook import video_html

        return video_html(self)


@dataclass(frozen=True)
class Option:
    """A given option, and how likely it is as the whole answer.

    Attributes:
        text: of the option.
        log_likelihood: natural logarithm, <= 0.
        probability: over the options.
    """

    text: str
    log_likelihood: float
    probability: float


@dataclass(frozen=True)
class Said:
    """What a model said to one question, and how long it took; see `Answer`, whose names these are.

    Attributes:
        prefill_s: seconds from the question's tokens to the first token.
        decode_s: seconds for the rest.
        option_tokens: tokens of each option that was scored.
    """

    text: str
    finished: bool
    num_new_tokens: int
    prefill_s: float
    decode_s: float
    options: list[Option] | None = None
    option_tokens: tuple[int, ...] = ()


def cut_notes(answers: Iterable[Answer | RemoteAnswer]) -> list[str]:
    """Say of which answers the limit of new tokens cut the end."""
    cut = [answer.num_new_tokens for answer in answers if not answer.finished]
    return [f"an answer was cut{'' if num is None else f' at {num} tokens'}; raise --max-new-tokens" for num in cut]


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        question: as it was asked.
        text: the answer; with options, the likeliest one.
        finished: False when the answer was cut at the limit of new tokens.
        options: with options, each with its probability; else None.
        num_prompt_tokens: language-model tokens of the prompt after pruning.
        num_new_tokens: decoding steps; with options, the tokens scored.
        ttft_s: seconds to the first token. A video's first question pays for the video, later ones reuse it.
        seconds: "llm_prefill" and "decode" of this question alone.
        prefix_s: seconds the language model spent on the part before the question, which questions share.
        peak_bytes: the most memory held since the video was encoded; None where it cannot be measured.
        savings: tokens and FLOPs of this question asked alone.
    """

    question: str
    text: str
    finished: bool
    options: list[Option] | None
    num_prompt_tokens: int
    num_new_tokens: int
    ttft_s: float
    seconds: dict[str, float]
    prefix_s: float
    peak_bytes: int | None
    savings: Savings

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON; `peak_bytes` is an arm's, so it stands there."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "peak_bytes"}
        options = None if self.options is None else [dataclasses.asdict(option) for option in self.options]
        return {**values, "options": options, "savings": self.savings.to_dict()}

    def _repr_html_(self) -> str:
        from stts_cli.report.notebook import answer_html

        return answer_html(self)
