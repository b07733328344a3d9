"""What Trainer trains: a family's stock model and its scorer, from decoded clips to the sums that make the loss.

The forward pass is the family's own `encode`, the one that `stts ask` runs, with gradients: windows that are
dropped cost nothing in the backward pass either. The language model is the stock one, through `mm_encoder_outputs`.
Sums rather than means go out, so that any number of processes and accumulated batches gives one and the same loss.
Source: arXiv 2603.18004, training.
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

from stts_cli.errors import EnvironmentFailure
from stts_cli.families.base import EncodedVideo, Family, clamp_note
from stts_cli.pruning.losses import temporal_loss
from stts_cli.settings import Execution
from stts_cli.training.clips import TrainingClip
from stts_cli.training.rows import Rows, VideoTokens, write_rows


class Step(NamedTuple):
    """Sums over one batch of clips.

    Attributes:
        lm_sum: cross-entropy in nats over the answers' tokens; differentiable.
        answer_sum: what the training loss takes of the answers, their weights and the z-loss included; differentiable.
        num_tokens: answers' tokens.
        temporal_sum: squared error of the scores over the scored windows; differentiable.
        num_windows: windows that the temporal loss counts; 0 where nothing was scored.
        right: bool (num_answers,), True where greedy decoding gives the answer word for word.
        num_kept: windows that reached the language model.
        num_total: windows there were.
        num_inputs: tokens that the language model read.
        keep_mask: bool (T, W) of all clips' frames.
        packed_patches: patches of each frame that the ViT's packed blocks ran on.
    """

    lm_sum: Tensor
    answer_sum: Tensor
    num_tokens: int
    temporal_sum: Tensor
    num_windows: int
    right: Tensor
    num_kept: int
    num_total: int
    num_inputs: int
    keep_mask: Tensor
    packed_patches: Sequence[int] = ()


class TrainingModel(nn.Module):
    """A family's stock model and scorer as one module.

    Args:
        family: loaded, its weights where they are to be trained.
        scorer: who chooses the windows while training, one of `settings.SCORERS`; "none" trains dense.
        seq_len: pack videos into rows of at most this many tokens; None for a row a video.
        checkpoint_blocks: compute the ViT's blocks again in the backward pass instead of keeping their activations.
        clamp_scorer_gradient: bound what one window may pull at the scorer; see `_bound`.
        target_gradient: let the temporal loss's target pass gradient on into the ViT.
        answer_weights: "equal", or "root-length": a token of an answer of n tokens counts 1 / sqrt(n).
        z_loss: weight of the squared logarithm of the softmax's denominator, added to each token's cross-entropy.
        note: called with what a user should know, the same line again for every clip that it holds for.
    """

    def __init__(
        self,
        family: Family,
        *,
        scorer: str = "learned",
        seq_len: int | None = None,
        checkpoint_blocks: bool = False,
        clamp_scorer_gradient: bool = False,
        target_gradient: bool = False,
        answer_weights: str = "equal",
        z_loss: float = 0.0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__()
        self.family = family
        self.stock: Any = family.model
        self.scorer: nn.Module | None = family.scorer
        self.scorer_name, self.seq_len = scorer, seq_len
        self.target_gradient, self.root_length, self.z_loss = target_gradient, answer_weights == "root-length", z_loss
        self.checkpoint_blocks, self.clamp, self.note = checkpoint_blocks, clamp_scorer_gradient, note

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
            clips: a batch; all frames of one size.
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
        lengths = [len(clip.frames) for clip in clips]
        name = self.scorer_name if scorer is None else scorer
        if name != "none":
            for length in lengths:
                if text := clamp_note(self.family, length, keep_ratio, name):
                    self.note(text)
        with _stage("the vision encoder", "--frames, --batch-size or --keep-ratio, or add --gradient-checkpointing"):
            encoded = self._encode(clips, keep_ratio, name if keep_ratio < 1 else "none", seed)
        temporal, num_windows = self._temporal(encoded, lengths, score_bound)
        kept, total = int(encoded.keep_mask.sum()), encoded.keep_mask.numel()
        if temporal_only:
            temporal = self._anchor(temporal)
            nothing = encoded.visual_tokens.new_zeros((), dtype=torch.float32)
            right = torch.zeros(0, dtype=torch.bool)
            return Step(nothing, nothing, 0, temporal, num_windows, right, kept, total, 0, encoded.keep_mask)
        rows = self.write(clips, encoded.keep_mask.cpu())
        with _stage("the language model", "--batch-size, --seq-len or --frames, or add --gradient-checkpointing"):
            logits, labels, answers = self._read(rows, encoded.visual_tokens, encoded.keep_mask, lengths)
            logits = logits.float()
            lm_sum = self._anchor(functional.cross_entropy(logits, labels, reduction="sum"))
            answer_sum = self._weigh(logits, labels, answers) if self.root_length or self.z_loss else lm_sum
        wrong = torch.zeros(rows.num_answers, dtype=torch.long, device=labels.device)
        wrong.index_add_(0, answers, (logits.argmax(-1) != labels).long())
        right, n = wrong == 0, rows.input_ids.numel()
        figures = (temporal, num_windows, right, kept, total, n, encoded.keep_mask, encoded.packed_patches)
        return Step(lm_sum, answer_sum, len(labels), *figures)

    def count(self, clips: Sequence[TrainingClip]) -> tuple[float, int]:
        """Return what a batch's `answer_sum` and `temporal_sum` are divided by, without running it.

        Args:
            clips: the batch.

        Returns:
            (the weights of the answers' tokens added up: with equal weights how many there are, windows that the
            temporal loss would count).
        """
        said = [self._tokens(c)[1] for clip in clips for c in clip.conversations]
        lengths = [sum(answer) for each in said for is_answer, answer in groupby(each) if is_answer]
        frames = sum(len(clip.frames) - 1 for clip in clips)
        return sum(n**0.5 if self.root_length else n for n in lengths), frames * self.family.shape().num_windows

    def write(self, clips: Sequence[TrainingClip], keep_mask: Tensor) -> Rows:
        """Write a batch's rows.

        Args:
            clips: the batch.
            keep_mask: bool (T, W) of all clips' frames, on the CPU.
        """
        videos, start = [], 0
        for clip in clips:
            mask = keep_mask[start : start + len(clip.frames)]
            start += len(clip.frames)
            prefix, is_visual = self.family.video_prefix(list(clip.timestamps_s), mask)
            conversations = tuple(self._tokens(c) for c in clip.conversations)
            videos.append(VideoTokens(prefix, is_visual, conversations))
        pad = self.family.tokenizer.pad_token_id
        pad = self.family.eos_token_ids[0] if pad is None else pad
        return write_rows(videos, pad, next(self.stock.parameters()).dtype, self.seq_len)

    def _weigh(self, logits: Tensor, labels: Tensor, answers: Tensor) -> Tensor:
        """Add up cross-entropy and z-loss of the answers' tokens, each by its weight."""
        each = functional.cross_entropy(logits, labels, reduction="none")
        if self.z_loss:
            each = each + self.z_loss * logits.logsumexp(-1).square()
        if self.root_length:
            each = each * answers.bincount()[answers] ** -0.5
        return self._anchor(each.sum())

    def _anchor(self, loss: Tensor) -> Tensor:
        """Tie a loss to what is trained: clips too short to drop anything teach a scorer nothing, but make a step."""
        if not torch.is_grad_enabled() or loss.requires_grad:
            return loss
        return loss + 0 * sum(p.sum() for p in self.parameters() if p.requires_grad)

    def _tokens(self, conversation: Any) -> tuple[list[int], list[bool]]:
        return conversation.tokens(self.family)

    def _encode(self, clips: Sequence[TrainingClip], keep_ratio: float, scorer: str, seed: int) -> EncodedVideo:
        patches = self.family.preprocess(*[clip.frames for clip in clips])
        pruning = self.family.settings.override(keep_ratio=keep_ratio, scorer=scorer, seed=seed)
        again = self.checkpoint_blocks and torch.is_grad_enabled()
        execution = Execution(checkpoint=again, keep_scored=True)
        return self.family.encode(patches, pruning, execution=execution)

    def _temporal(self, encoded: EncodedVideo, lengths: list[int], bound: float | None) -> tuple[Tensor, int]:
        if encoded.scores is None or encoded.scorer != "learned":
            return encoded.visual_tokens.new_zeros((), dtype=torch.float32), 0
        assert encoded.scored_hidden is not None
        num_windows = (len(encoded.scores) - len(lengths)) * encoded.scores.shape[1]
        if self.clamp and encoded.scores.requires_grad:
            encoded.scores.register_hook(functools.partial(_bound, limit=bound or 1 / encoded.scores.numel()))
        mean = temporal_loss(
            encoded.scores,
            encoded.scored_hidden,
            self.family.window_index(encoded.layout),
            lengths,
            target_gradient=self.target_gradient,
        )
        return mean * num_windows, num_windows

    def _read(
        self, rows: Rows, visual_tokens: Tensor, keep_mask: Tensor, lengths: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (A, vocabulary) of the answers' tokens, the tokens (A,), and which answer each belongs to."""
        device = visual_tokens.device
        counts = [int(mask.sum()) for mask in keep_mask.split(lengths)]
        parts = visual_tokens.split(counts)
        hidden = self.stock.model(
            **self.family.language_inputs(
                rows.input_ids.to(device), rows.is_visual.to(device), [parts[k] for k in rows.order]
            ),
            position_ids=rows.position_ids.to(device),
            attention_mask=rows.attention_mask.to(device),
            use_cache=False,
        ).last_hidden_state
        labels, answers = rows.labels.to(device), rows.answer_ids.to(device)
        wanted = answers >= 0
        logits: Tensor = self.stock.lm_head(hidden[wanted])
        return logits, labels[wanted], answers[wanted]


def part_of(name: str, part_names: Mapping[str, str]) -> str:
    """Return which of `settings.PARTS` a parameter of `TrainingModel` belongs to.

    Args:
        name: the parameter's.
        part_names: the family's.
    """
    if name.startswith("scorer."):
        return "scorer"
    if ".lora_" in name:
        return "lora"
    return next((part for part, fragment in part_names.items() if fragment in name), "llm")


def _bound(gradient: Tensor, limit: float) -> Tensor:
    """Bound the gradient of the scores, element by element.

    Where the scores of a row of windows hardly differ, the min-max of the soft bias multiplies the gradient a
    thousandfold, and one such step saturates the sigmoid for good. No window may pull harder than the temporal loss
    could: 1 / the number of windows of the whole step. Ours, not the paper's.
    """
    return gradient.clamp(-limit, limit)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextmanager
def _stage(what: str, lower: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise EnvironmentFailure(f"out of memory in {what} -> lower {lower}") from error
        raise
