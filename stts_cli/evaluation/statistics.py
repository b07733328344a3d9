"""How far a difference between two arms can be trusted: paired, and with the questions of one video kept together.

Questions about one video are not independent, so the bootstrap draws videos, not questions. McNemar's test looks only
at the questions on which the arms disagree. Both arms answer the same items, so the noise of the items cancels; the
error bars of two separate accuracies say little about their difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
_CHUNK = 2_000_000  # draws held at a time


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    groups: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Return a 95 % bootstrap interval of a mean, resampling whole clusters; None with fewer than two of them.

    `values` are one a question: 1 or 0 for one arm, the difference of two arms' for a pair; `clusters` the video of
    each; `groups` those that each counts in, for the mean of the groups' means (macro), None for the mean of all
    (micro). A resample leaves out groups of which it drew nothing.
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < 2:
        return None
    where = np.fromiter((names[name] for name in clusters), int, len(clusters))
    columns = {name: index for index, name in enumerate(dict.fromkeys(g for own in groups or [("",)] for g in own))}
    sums, sizes = (np.zeros((len(names), len(columns))) for _ in range(2))
    for video, value, own in zip(where, values, groups or [("",)] * len(where), strict=True):
        for name in own:
            sums[video, columns[name]] += value
            sizes[video, columns[name]] += 1
    rng = np.random.default_rng(seed)
    means = []
    rows = max(1, _CHUNK // len(names))
    for start in range(0, resamples, rows):
        drawn = rng.integers(len(names), size=(min(rows, resamples - start), len(names)))
        times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
        totals, counts = times @ sums, times @ sizes
        of_groups = np.divide(totals, counts, out=np.zeros_like(totals), where=counts > 0)
        means.append(of_groups.sum(1) / np.maximum(1, (counts > 0).sum(1)))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value that two arms, each alone right on so many questions, are equally often right.

    It is the probability, under a fair coin, of a split at least as uneven; 1 where they never disagree.
    """
    total = only_a + only_b
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1)) / 2**total)
