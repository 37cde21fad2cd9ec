"""Rank ranges: by hand where everything is clear, and pair by pair what `compare` would call significant."""

import numpy as np
import pytest

from bench.comparison.paired import difference_interval
from bench.comparison.ranks import rank_ranges
from bench.evaluation.statistics import resampled_sums


def test_clear_differences_are_ranks():
    counts = np.full(60, 5)
    hits = np.column_stack([np.full(60, 1), np.full(60, 4), np.full(60, 3)])
    assert rank_ranges(hits, counts) == [(3, 3), (1, 1), (2, 2)]


def test_ties_share_their_range():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, 80)
    base = rng.binomial(counts, 0.8)
    hits = np.column_stack([base, rng.permuted(base), base // 4, base // 4, base])
    ranges = rank_ranges(hits, counts)
    assert ranges[0] == ranges[4] == (1, 3)
    assert ranges[2] == ranges[3] == (4, 5)
    assert rank_ranges(hits[:, :1], counts) == [(1, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_significant_is_that_the_interval_leaves_out_zero(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, 40)
    hard = rng.normal(0, 0.15, 40)
    rates = np.clip(np.linspace(0.45, 0.7, 6) + hard[:, None], 0, 1)
    hits = rng.binomial(counts[:, None], rates)
    sums = resampled_sums(np.column_stack([hits, counts]), 500, 3)
    better = np.zeros((6, 6), int)
    for one in range(6):
        for other in range(6):
            low, _ = difference_interval((sums[:, one] - sums[:, other]) / sums[:, 6], 40, 0.9)
            better[one, other] = low > 0
    expected = [(1 + better[:, run].sum(), 6 - better[run].sum()) for run in range(6)]
    assert rank_ranges(hits, counts, 500, 3, 0.9) == expected
    assert len(set(expected)) > 2, "a case that tells something"


def test_pictures_without_expressions_are_no_part_of_the_sample():
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 7, 30)
    hits = rng.binomial(counts[:, None], [0.5, 0.62, 0.7])
    padded_hits, padded_counts = np.zeros((40, 3)), np.zeros(40)
    padded_hits[5:35], padded_counts[5:35] = hits, counts
    assert rank_ranges(padded_hits, padded_counts) == rank_ranges(hits, counts)


def test_one_picture_tells_nothing():
    assert rank_ranges([[9, 1]], [9]) == [(1, 2), (1, 2)]
