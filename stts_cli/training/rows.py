"""From tokens to the language model's rows: several questions behind one video, several videos in one row.

The attention mask keeps apart what does not belong together: a conversation sees its own video and itself, never
another conversation or video. So a row gives the very losses that its conversations would give alone, and a video is
encoded once for all its questions. A language model that heeds no such mask in all of its layers gets a row for each
conversation. Source: arXiv 2603.18004, training (sequence packing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class VideoTokens:
    """One video's share of a row; a conversation is what follows the video, and which of it the model has to say."""

    prefix: Tensor  # ids up to the end of the video, one placeholder a kept window
    is_visual: Tensor  # bool (len(prefix),), True for the video's own tokens
    conversations: tuple[tuple[list[int], list[bool]], ...]  # (ids, is_answer) of each
    positions: Tensor | None = None  # int64 (..., len(prefix)) of the prefix; None for 0, 1, 2...

    def __len__(self) -> int:
        """Return the tokens of the row that this video takes; an answer's last token is never an input."""
        return len(self.prefix) + sum(len(ids) - 1 for ids, _ in self.conversations)


@dataclass(frozen=True)
class Rows:
    """What the language model reads; B rows of L tokens, padded on the right."""

    input_ids: Tensor  # int64 (B, L)
    # int64 (..., B, L), as the videos have them, every conversation going on from the end of its own video; None where
    # rows are apart and the model counts
    position_ids: Tensor | None
    # float (B, 1, L, L), 0 where a token may look, else the lowest number of its dtype; None where rows are apart and
    # plainly causal, so that padding, which stands behind, is never seen
    attention_mask: Tensor | None
    is_visual: Tensor  # int64 (B, L), 1 for the tokens of a video
    labels: Tensor  # int64 (B, L), the token that should follow, IGNORED where no loss is taken
    answer_ids: Tensor  # int64 (B, L), which answer a label is of, counted over the videos in the order given; -1 none
    order: list[int]  # which videos stand in the rows, row after row; visual tokens have to come in this order
    num_answers: int


def assign_rows(lengths: Sequence[int], seq_len: int | None) -> list[list[int]]:
    """Return the videos of each row: first fit, the longest first; one longer than `seq_len` has a row of its own.

    `lengths` are tokens; `seq_len` None is for a row a video.
    """
    if seq_len is None:
        return [[k] for k in range(len(lengths))]
    rows: list[list[int]] = []
    for k in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        fitting = (row for row in rows if sum(lengths[j] for j in row) + lengths[k] <= seq_len)
        row = next(fitting, None)
        if row is None:
            rows.append([k])
        else:
            row.append(k)
    return rows


def write_rows(
    videos: Sequence[VideoTokens], pad_id: int, dtype: torch.dtype, seq_len: int | None = None, *, two_way: bool = True
) -> Rows:
    """Write videos, at least one, and their conversations into rows, on the CPU; `pad_id` fills the ends of rows.

    `dtype` is of the mask; a row that several videos share has at most `seq_len` tokens, None for a row a video.
    `two_way` lets the tokens of a video see each other in both directions.
    """
    rows, owner, block = _write(videos, pad_id, assign_rows([len(v) for v in videos], seq_len))
    return replace(rows, attention_mask=_mask(owner, block, rows.is_visual.bool() & two_way, dtype))


def write_apart(videos: Sequence[VideoTokens], pad_id: int) -> Rows:
    """Write each conversation into a row of its own, behind its video, which is read once for each of its own."""
    apart = [replace(video, conversations=(talk,)) for video in videos for talk in video.conversations]
    owners = [k for k, video in enumerate(videos) for _ in video.conversations]
    rows, _, _ = _write(apart, pad_id, [[k] for k in range(len(apart))])
    counted = apart[0].positions is None
    return replace(rows, order=owners, position_ids=None if counted else rows.position_ids)


def _write(videos: Sequence[VideoTokens], pad_id: int, rows: list[list[int]]) -> tuple[Rows, Tensor, Tensor]:
    """Write videos into the rows given, without a mask; also return the video and the conversation of each token."""
    counts = [sum(_num_answers(is_answer) for _, is_answer in video.conversations) for video in videos]
    shape = (len(rows), max(sum(len(videos[k]) for k in row) for row in rows))
    starts = [torch.arange(len(v.prefix)) if v.positions is None else v.positions for v in videos]
    ids, positions = torch.full(shape, pad_id), torch.zeros(*starts[0].shape[:-1], *shape, dtype=torch.long)
    visual, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    answers, owner, block = torch.full(shape, -1), torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    for r, row in enumerate(rows):
        at = 0
        for k in row:
            video, answer, n = videos[k], sum(counts[:k]), len(videos[k].prefix)
            owner[r, at : at + len(video)] = k
            ids[r, at : at + n], visual[r, at : at + n] = video.prefix, video.is_visual.long()
            positions[..., r, at : at + n] = starts[k]
            at += n
            for number, (tokens, is_answer) in enumerate(video.conversations, start=1):
                m, asked = len(tokens) - 1, torch.tensor(is_answer)
                place = slice(at, at + m)
                ids[r, place], block[r, place] = torch.tensor(tokens[:-1]), number
                positions[..., r, place] = starts[k][..., -1:] + 1 + torch.arange(m)
                labels[r, place] = torch.where(asked[1:], torch.tensor(tokens[1:]), IGNORED)
                begins = asked[1:] & ~asked[:-1]
                answers[r, place] = torch.where(asked[1:], begins.long().cumsum(0) - 1 + answer, -1)
                answer += _num_answers(is_answer)
                at += m
    found = Rows(ids, positions, None, visual, labels, answers, [k for row in rows for k in row], sum(counts))
    return found, owner, block


def _num_answers(is_answer: list[bool]) -> int:
    return sum(now and not before for before, now in zip([False, *is_answer], is_answer, strict=False))


def _mask(owner: Tensor, block: Tensor, two_way: Tensor, dtype: torch.dtype) -> Tensor:
    length = owner.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same_video = (owner[:, :, None] == owner[:, None, :]) & (owner >= 0)[:, :, None]
    prefix_or_own = (block[:, None, :] == 0) | (block[:, :, None] == block[:, None, :])
    seen = same_video & ((causal & prefix_or_own) | (two_way[:, :, None] & two_way[:, None, :]))
    seen |= torch.eye(length, dtype=torch.bool)  # padding looks at itself: a row without any key would be nan
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
