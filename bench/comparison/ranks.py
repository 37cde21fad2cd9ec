"""Ranks as ranges: where the paired comparison cannot tell two runs apart, neither is ranked before the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bench.comparison.paired import excluded
from bench.evaluation.statistics import resampled_sums

RankRange = tuple[int, int]


def rank_ranges(
    hits: ArrayLike, counts: ArrayLike, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> list[RankRange]:
    """(pictures, runs) hits and (pictures,) expressions -> for each run its best and its worst rank, from 1.

    The best is 1 + the runs that are significantly better, the worst the number of runs less those significantly worse,
    every pair by its own interval (no correction for their number), all from one set of draws. Pictures without
    expressions are not part of the sample.
    """
    asked = np.asarray(counts) > 0
    table = np.asarray(hits, np.float64)[asked]
    pictures, runs = table.shape
    # The sign of a difference does not need the draw's number of expressions, so hits are all that is drawn.
    sums = resampled_sums(table, draws, seed)
    place = excluded(draws, pictures, confidence)
    better = np.zeros((runs, runs), np.bool_)  # [i, j]: run i is significantly better than run j
    for one in range(runs):
        not_ahead = (sums[:, one, None] <= sums).sum(axis=0)
        better[one] = not_ahead < place  # exactly then the interval of one - other lies above 0
    return [(1 + int(better[:, run].sum()), runs - int(better[run].sum())) for run in range(runs)]
