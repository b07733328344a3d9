"""What Trainer trains: a family's stock model and its scorer, from decoded clips to the sums that make the loss.

The forward pass is the family's own `encode` with gradients, then the stock language model. Sums rather than means go
out, so that any number of processes and accumulated batches gives one and the same loss. Source: arXiv 2603.18004,
training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stts_cli.errors import EnvironmentFailure, is_out_of_memory
from stts_cli.families.base import EncodedVideo, Family
from stts_cli.pruning.losses import temporal_loss
from stts_cli.settings import Execution, Layout
from stts_cli.training.clips import TrainingClip
from stts_cli.training.rows import Rows, VideoTokens, write_apart, write_rows
from stts_cli.training.settings import FinetuneSettings


class Step(NamedTuple):
    """Sums over one batch of clips."""

    lm_sum: Tensor  # cross-entropy in nats over the answers' tokens; differentiable
    # what the training loss takes of the answers, their weights and the z-loss included; differentiable
    answer_sum: Tensor
    num_tokens: int  # answers' tokens
    temporal_sum: Tensor  # squared error of the scores over the scored windows; differentiable
    num_windows: int  # windows that the temporal loss counts; 0 where nothing was scored
    right: Tensor  # bool (num_answers,), True where greedy decoding gives the answer word for word
    num_inputs: int  # tokens that the language model read
    # bool (U, W) of all clips' units, True for windows that reached the language model; (K,) of clips not cut alike
    keep_mask: Tensor
    packed_patches: Sequence[int] = ()  # patches of each unit that the ViT's packed blocks ran on

    def sums(self) -> Tensor:
        """Return what batches add up, float64 (9,): lm_sum, num_tokens, temporal_sum, num_windows, then counts.

        These are of windows kept, windows there were, num_inputs, right answers and answers.
        """
        answers = (int(self.num_inputs), int(self.right.sum()), len(self.right))
        windows = (self.num_windows, int(self.keep_mask.sum()), self.keep_mask.numel())
        losses = (self.lm_sum.item(), self.num_tokens, self.temporal_sum.item())
        return torch.tensor((*losses, *windows, *answers), dtype=torch.float64)


def _joined(steps: Sequence[Step]) -> Step:
    """Add up the steps of clips that are not cut alike."""
    lm_sum, answer_sum, temporal_sum = (
        torch.stack([getattr(step, name) for step in steps]).sum() for name in ("lm_sum", "answer_sum", "temporal_sum")
    )
    return Step(
        lm_sum,
        answer_sum,
        sum(step.num_tokens for step in steps),
        temporal_sum,
        sum(step.num_windows for step in steps),
        torch.cat([step.right for step in steps]),
        sum(step.num_inputs for step in steps),
        torch.cat([step.keep_mask.flatten() for step in steps]),
        [number for step in steps for number in step.packed_patches],
    )


class TrainingModel(nn.Module):
    """A family's stock model and scorer as one module; the family's weights lie where they are to be trained.

    Of the settings, the scorer, the losses and the rows matter here; None for the defaults. `note` is called with what
    a user should know, the same line again for every clip that it holds for.
    """

    def __init__(
        self, family: Family, settings: FinetuneSettings | None = None, note: Callable[[str], None] = lambda text: None
    ) -> None:
        super().__init__()
        self.family, self.settings, self.note = family, settings or FinetuneSettings(), note
        self.stock: Any = family.model
        self.scorer: nn.Module | None = family.scorer

    def forward(
        self,
        clips: Sequence[TrainingClip],
        keep_ratio: float,
        *,
        scorer: str | None = None,
        seed: int = 0,
        temporal_only: bool = False,
        score_bound: float | None = None,
    ) -> Step:
        """Encode clips and read their conversations.

        Args:
            clips: a batch; those that the family cuts alike are encoded together.
            keep_ratio: fraction of windows kept of each clip, in (0, 1].
            scorer: who chooses; None for the one that is trained with.
            seed: of the random scorer.
            temporal_only: score, and leave the language model out: for a scorer's first steps.
            score_bound: the hardest pull at a score, see `_bound`; None for 1 / the scores of this batch.

        Returns:
            The sums.

        Raises:
            EnvironmentFailure: out of memory, with the stage and what to lower.
        """
        groups: dict[Layout, list[TrainingClip]] = {}
        for clip in clips:
            groups.setdefault(self._layout(clip), []).append(clip)
        how = (keep_ratio, self.settings.scorer if scorer is None else scorer, seed, temporal_only, score_bound)
        steps = [self._step(layout, alike, *how) for layout, alike in groups.items()]
        return steps[0] if len(steps) == 1 else _joined(steps)

    def _step(
        self,
        layout: Layout,
        clips: Sequence[TrainingClip],
        keep_ratio: float,
        name: str,
        seed: int,
        temporal_only: bool,
        score_bound: float | None,
    ) -> Step:
        """Take `forward`'s step on clips that are cut alike."""
        lengths = [layout.num_units(len(clip.frames)) for clip in clips]
        pruning = self.family.settings.override(keep_ratio=keep_ratio, scorer=name)
        for length in lengths:
            if text := pruning.clamp_note(length, layout.num_windows):
                self.note(text)
        with stage("the vision encoder", "--frames, --batch-size or --keep-ratio"):
            encoded = self._encode(clips, keep_ratio, name if keep_ratio < 1 else "none", seed)
        temporal, num_windows = self._temporal(encoded, lengths, score_bound)
        if temporal_only:
            nothing, right = temporal.new_zeros(()), torch.zeros(0, dtype=torch.bool)
            return Step(nothing, nothing, 0, self._anchor(temporal), num_windows, right, 0, encoded.keep_mask)
        rows = self.write(clips, encoded.keep_mask.cpu())
        with stage("the language model", "--batch-size, --seq-len or --frames"):
            logits, labels, answers = self._read(rows, encoded, lengths)
            lm_sum = self._anchor(functional.cross_entropy(logits, labels, reduction="sum"))
            answer_sum = self._weigh(logits, labels, answers)
        wrong = torch.zeros(rows.num_answers, dtype=torch.long, device=labels.device)
        wrong.index_add_(0, answers, (logits.argmax(-1) != labels).long())
        return Step(
            lm_sum, lm_sum if answer_sum is None else answer_sum, len(labels), temporal, num_windows, wrong == 0,
            rows.input_ids.numel(), encoded.keep_mask, encoded.packed_patches,
        )  # fmt: skip

    def count(self, clips: Sequence[TrainingClip]) -> tuple[float, int]:
        """Return what a batch's `answer_sum` and `temporal_sum` are divided by, without running it.

        These are the weights of the answers' tokens added up, and the windows that the temporal loss would count.
        """
        said = [talk.tokens(self.family)[1] for clip in clips for talk in clip.conversations]
        lengths = [sum(answer) for each in said for is_answer, answer in groupby(each) if is_answer]
        layouts = [self._layout(clip) for clip in clips]
        units = [layout.num_units(len(clip.frames)) for clip, layout in zip(clips, layouts, strict=True)]
        windows = sum((n - 1) * layout.num_windows for n, layout in zip(units, layouts, strict=True))
        root = self.settings.answer_weights == "root-length"
        return sum(n**0.5 if root else n for n in lengths), windows

    def write(self, clips: Sequence[TrainingClip], keep_mask: Tensor) -> Rows:
        """Write the rows of clips that are cut alike; the mask, bool (U, W) of all their units, is on the CPU."""
        layout, videos = self._layout(clips[0]), []
        units = [layout.num_units(len(clip.frames)) for clip in clips]
        for clip, mask in zip(clips, keep_mask.split(units), strict=True):
            prefix = self.family.video_prefix(list(clip.timestamps_s), mask, layout, clip.duration_s)
            conversations = tuple(talk.tokens(self.family) for talk in clip.conversations)
            videos.append(VideoTokens(prefix.ids, prefix.is_visual, conversations, prefix.positions))
        pad = self.family.tokenizer.pad_token_id
        pad = self.family.eos_token_ids[0] if pad is None else pad
        if not self.family.shared_rows:
            return write_apart(videos, pad)
        dtype = next(self.stock.parameters()).dtype
        return write_rows(videos, pad, dtype, self.settings.seq_len, two_way=self.family.two_way)

    def _layout(self, clip: TrainingClip) -> Layout:
        height, width = clip.frames.shape[1:3]
        return self.family.layout_rule(height, width, len(clip.frames))

    def _weigh(self, logits: Tensor, labels: Tensor, answers: Tensor) -> Tensor | None:
        """Add up cross-entropy and z-loss of the answers' tokens, each by its weight; None where all weigh the same."""
        root_length, z_loss = self.settings.answer_weights == "root-length", self.settings.z_loss
        if not root_length and not z_loss:
            return None
        each = functional.cross_entropy(logits, labels, reduction="none")
        if z_loss:
            each = each + z_loss * logits.logsumexp(-1).square()
        if root_length:
            each = each * answers.bincount()[answers] ** -0.5
        return self._anchor(each.sum())

    def _anchor(self, loss: Tensor) -> Tensor:
        """Tie a loss to what is trained: clips too short to drop anything teach a scorer nothing, but make a step."""
        if not torch.is_grad_enabled() or loss.requires_grad:
            return loss
        return loss + 0 * sum(p.sum() for p in self.parameters() if p.requires_grad)

    def _encode(self, clips: Sequence[TrainingClip], keep_ratio: float, scorer: str, seed: int) -> EncodedVideo:
        patches = self.family.preprocess(*[clip.frames for clip in clips])
        pruning = self.family.settings.override(keep_ratio=keep_ratio, scorer=scorer, seed=seed)
        again = self.settings.gradient_checkpointing and torch.is_grad_enabled()
        execution = Execution(checkpoint=again, keep_scored=True)
        return self.family.encode(patches, pruning, execution=execution)

    def _temporal(self, encoded: EncodedVideo, lengths: list[int], bound: float | None) -> tuple[Tensor, int]:
        """Return the temporal loss's sum, and the windows that it is over."""
        scores = encoded.scores
        if scores is None or encoded.scorer != "learned":
            return encoded.visual_tokens.new_zeros((), dtype=torch.float32), 0
        assert encoded.scored_hidden is not None
        if self.settings.clamp_scorer_gradient and scores.requires_grad:
            scores.register_hook(functools.partial(_bound, limit=bound or 1 / scores.numel()))
        target = self.settings.target_gradient
        windows = self.family.window_index(encoded.layout)
        mean = temporal_loss(scores, encoded.scored_hidden, windows, lengths, target_gradient=target)
        num_windows = (len(scores) - len(lengths)) * scores.shape[1]
        return mean * num_windows, num_windows

    def _read(self, rows: Rows, encoded: EncodedVideo, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return float32 logits (A, vocabulary) of the answers' tokens, these (A,), and which answer each is of."""
        device = encoded.visual_tokens.device
        parts = encoded.visual_tokens.split([int(mask.sum()) for mask in encoded.keep_mask.split(lengths)])
        videos = [parts[k] for k in rows.order]
        hidden = self.stock.model(
            **self.family.language_inputs(rows.input_ids.to(device), rows.is_visual.to(device), videos),
            **{
                name: x.to(device)
                for name in ("position_ids", "attention_mask")
                if (x := getattr(rows, name)) is not None
            },
            use_cache=False,
        ).last_hidden_state
        labels, answers = rows.labels.to(device), rows.answer_ids.to(device)
        wanted = answers >= 0
        return self.stock.get_output_embeddings()(hidden[wanted]).float(), labels[wanted], answers[wanted]


def part_of(name: str, part_names: Mapping[str, str]) -> str:
    """Return which part a parameter of `TrainingModel` belongs to: "scorer", "lora", or one of the family's."""
    if name.startswith("scorer."):
        return "scorer"
    if ".lora_" in name:
        return "lora"
    return next((part for part, fragment in part_names.items() if fragment in name), "llm")


def _bound(gradient: Tensor, limit: float) -> Tensor:
    """Bound the gradient of the scores, by element, by what the temporal loss could pull. Ours, not the paper's.

    Where scores hardly differ, the soft bias's min-max multiplies it a thousandfold, which saturates the sigmoid for
    good.
    """
    return gradient.clamp(-limit, limit)


@contextmanager
def stage(what: str, lower: str) -> Iterator[None]:
    """Say of a stage that it ran out of memory, and which flags to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise EnvironmentFailure(f"{what}: out of memory; lower {lower}, or add --gradient-checkpointing.") from error
