"""What is in each window of each frame: a `Scene` and times in, float labels (T, W, L) out.

The labels supervise the ViT before it has a language model, and stand in for it while the language model learns to
read a clip. They are never used to answer.
"""

from __future__ import annotations

import numpy as np

from stts_cli.toy.world import COLORS, SHAPES, Scene

GRID = 4  # windows a side; they are numbered row by row
NUM_WINDOWS = GRID * GRID
NUM_PAIRS = len(COLORS) * len(SHAPES)
NUM_BINARY = NUM_PAIRS + len(COLORS) + len(SHAPES)
NUM_LABELS = NUM_BINARY + 2
_COLOR_INDEX = {name: k for k, name in enumerate(COLORS)}


def window_labels(scene: Scene, times_s: np.ndarray, grid: tuple[int, int] = (GRID, GRID)) -> np.ndarray:
    """Return the labels of every window of a scene at times (T,), in seconds: float32 (T, W, NUM_LABELS).

    `grid` is how many rows and columns of windows a frame has, numbered row by row.

    40 flags "the centre of a thing of this colour and shape is here", 8 "this colour covers a good part", 5 "this shape
    does", and the centre's place (x, y) in the frame, in [-1, 1], 0 without one.
    """
    rows, cols = grid
    labels = np.zeros((len(times_s), rows, cols, NUM_LABELS), dtype=np.float32)
    for thing in scene.things:
        x, y, visible, turned = thing.at(times_s)
        color = np.where(turned, _COLOR_INDEX[thing.turn_color or thing.color], _COLOR_INDEX[thing.color])
        shape = SHAPES.index(thing.shape)
        over_x, over_y = (_overlap(centre, thing.radius * 0.85, n) for centre, n in ((x, cols), (y, rows)))
        covered = (over_y[:, :, None] * over_x[:, None, :] * rows * cols > 0.15) & visible[:, None, None]
        t, row, col = np.nonzero(covered)
        labels[t, row, col, NUM_PAIRS + color[t]] = 1
        labels[t, row, col, NUM_PAIRS + len(COLORS) + shape] = 1
        seen = np.flatnonzero(visible)
        col_c = np.clip((x[seen] * cols).astype(int), 0, cols - 1)
        row_c = np.clip((y[seen] * rows).astype(int), 0, rows - 1)
        labels[seen, row_c, col_c, color[seen] * len(SHAPES) + shape] = 1
        labels[seen, row_c, col_c, NUM_BINARY] = x[seen] * 2 - 1
        labels[seen, row_c, col_c, NUM_BINARY + 1] = y[seen] * 2 - 1
    return labels.reshape(len(times_s), rows * cols, NUM_LABELS)


def _overlap(centre: np.ndarray, reach: float, number: int) -> np.ndarray:
    """Return how much of each window's side a thing's box covers along an axis of so many, for centres (T,)."""
    edges, middle = np.arange(number) / number, centre[:, None]
    return np.clip(np.minimum(middle + reach, edges + 1 / number) - np.maximum(middle - reach, edges), 0, None)
