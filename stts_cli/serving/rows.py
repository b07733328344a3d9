"""Where the rows of a picture or a video stand in the prompt. Plain functions of tensors, no vLLM.

vLLM needs the number of a video's tokens before it is encoded, which the budget tells, and which of them they are
afterwards. So the kept windows travel with the rows themselves: an encoded video is the whole stretch of the prompt,
times and marks included, in its true order, and behind each row stand columns that say where it belongs. Digits to the
base 256 keep them exact in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DIGITS = 3  # so numbers up to 2 ** 24 - 1
NUMBERS = (
    5  # of a row: time, row and column of its position, its place in the stretch, and that of the first visual token
)
COLUMNS = DIGITS * NUMBERS


def positions_of_image(rows: int, cols: int) -> Tensor:
    """Return the positions of a picture's tokens from its first on, int64 (rows * cols, 3)."""
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, col], -1).flatten(0, 1)


def positions_of_video(num_text: Sequence[int], rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """Return the positions of a whole video from its first token on, and which of them are visual.

    A unit is its time and a mark, `num_text` tokens, then its windows, then a mark. Text counts on by one; the windows
    of a unit share a time, and what follows counts on from the largest of them, as in the stock model.

    Returns:
        int64 (L, 3) and bool (L,).
    """
    grid, end = positions_of_image(rows, cols), torch.tensor([True])
    parts, visual, at = [], [], 0
    for number in num_text:
        parts += [torch.arange(at, at + number)[:, None].expand(-1, 3), grid + at + number]
        at += number + max(rows, cols)
        parts.append(torch.full((1, 3), at))
        at += 1
        visual += [torch.zeros(number, dtype=torch.bool), torch.ones(len(grid), dtype=torch.bool), ~end]
    return torch.cat(parts), torch.cat(visual)


def with_columns(rows: Tensor, positions: Tensor, first_visual: int) -> Tensor:
    """Put behind rows (L, D) where each stands; `positions` are int64 (L, 3). Returns (L, D + COLUMNS)."""
    place = torch.arange(len(rows), device=rows.device)[:, None]
    numbers = torch.cat([positions.to(rows.device), place, torch.full_like(place, first_visual)], 1)
    digits = torch.stack([numbers >> (8 * digit) & 255 for digit in range(DIGITS)], -1)
    return torch.cat([rows, digits.flatten(1).to(rows.dtype)], 1)


def without_columns(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Take from rows (L, D + COLUMNS) what `with_columns` put there: (L, D), and the numbers, int64 (L, NUMBERS)."""
    digits = rows[:, -COLUMNS:].long().view(-1, NUMBERS, DIGITS)
    return rows[:, :-COLUMNS], sum(digits[..., digit] << (8 * digit) for digit in range(DIGITS))  # type: ignore[return-value]


def positions_of_prompt(num_tokens: int, media: Sequence[tuple[int, int, int]]) -> tuple[Tensor, int]:
    """Return the positions of a prompt's text, and how far positions are ahead of tokens at its end.

    What belongs to media is filled in by `place`, once it is known which windows were kept; text behind a video does
    not depend on it, since positions are those of the whole video.

    Args:
        num_tokens: of the prompt, dropped ones left out.
        media: (first token, number of tokens, positions that it takes up) of each, in order.

    Returns:
        int64 (3, num_tokens), and that difference.
    """
    positions = torch.zeros(num_tokens, dtype=torch.long)
    at = token = 0
    for first, number, extent in [*media, (num_tokens, 0, 0)]:
        positions[token:first] = torch.arange(at, at + first - token)
        at += first - token
        positions[first : first + number] = at
        at, token = at + extent, first + number
    return positions.expand(3, -1).clone(), at - num_tokens


def place(positions: Tensor, numbers: Tensor, start: int) -> int:
    """Write the positions of a slice of a stretch, from the prompt's token `start` on; return the token behind it.

    Args:
        positions: int64 (3, N) of the prompt, changed.
        numbers: int64 (n, NUMBERS) of the slice.
        start: place in the prompt.
    """
    before = start - int(numbers[0, 3])
    base = int(positions[:, :before].max()) + 1 if before else 0
    positions[:, start : start + len(numbers)] = (numbers[:, :3] + base).T
    return start + len(numbers)
