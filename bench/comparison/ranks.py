"""Ranks as ranges: where the paired comparison cannot tell two runs apart, neither is ranked before the other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from bench.comparison.paired import difference_p, statistic
from bench.comparison.significance import holm
from bench.evaluation.statistics import resampled_sums

RankRange = tuple[int, int]


def rank_ranges(
    hits: ArrayLike, counts: ArrayLike, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> list[RankRange]:
    """(pictures, runs) hits and (pictures,) expressions -> for each run its best and its worst rank, from 1.

    The best is 1 + the runs that are significantly better, the worst the number of runs less those significantly worse,
    as `compare` would say of all of them together: from one set of draws, with Holm's correction over the pairs.
    Pictures without expressions are not part of the sample.
    """
    asked = np.asarray(counts) > 0
    size, table = np.asarray(counts, np.float64)[asked], np.asarray(hits, np.float64)[asked]
    pictures, runs = table.shape
    # The sign of a difference does not need the draw's number of expressions, so hits are all that is drawn.
    sums = resampled_sums(table, draws, seed)
    pairs = list(combinations(range(runs), 2))
    gains = [table[:, b] - table[:, a] for a, b in pairs]
    ps = [
        difference_p(sums[:, b] - sums[:, a], pictures, statistic(gain, size))
        for (a, b), gain in zip(pairs, gains, strict=True)
    ]
    better, worse = [0] * runs, [0] * runs  # how many runs are significantly so
    for (a, b), gain, p in zip(pairs, gains, holm(ps), strict=True):
        if p <= 1 - confidence:
            ahead, behind = (b, a) if gain.sum() > 0 else (a, b)
            better[behind] += 1
            worse[ahead] += 1
    return [(1 + better[run], runs - worse[run]) for run in range(runs)]
