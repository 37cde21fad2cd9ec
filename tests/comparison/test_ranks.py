"""Rank ranges: by hand where everything is clear, and pair by pair what `compare` would call significant."""

from itertools import combinations

import numpy as np
import pytest

from bench.comparison.paired import difference_p, holm, standard_error
from bench.comparison.ranks import rank_ranges
from bench.evaluation.statistics import resampled_sums


def test_clear_differences_are_ranks():
    counts = np.full(60, 5)
    hits = np.column_stack([np.full(60, 1), np.full(60, 4), np.full(60, 3)])
    assert rank_ranges(hits, counts) == [(3, 3), (1, 1), (2, 2)]
    assert rank_ranges([[9, 1]], [9]) == [(1, 2), (1, 2)]  # one image proves nothing


def test_ties_share_their_range():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, 80)
    base = rng.binomial(counts, 0.8)
    hits = np.column_stack([base, rng.permuted(base), base // 4, base // 4, base])
    ranges = rank_ranges(hits, counts)
    assert ranges[0] == ranges[4] == (1, 3) and ranges[2] == ranges[3] == (4, 5)
    assert rank_ranges(hits[:, :1], counts) == [(1, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_significant_is_what_compare_calls_so(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, 40)
    hard = rng.normal(0, 0.15, 40)
    rates = np.clip(np.linspace(0.4, 0.75, 6) + hard[:, None], 0, 1)
    hits = rng.binomial(counts[:, None], rates)
    sums = resampled_sums(np.column_stack([hits, counts]), 500, 3)
    pairs = list(combinations(range(6), 2))
    gains = [hits[:, b] - hits[:, a] for a, b in pairs]
    ps = [
        difference_p(
            (sums[:, b] - sums[:, a]) / sums[:, 6], 40, gain.sum() / counts.sum() / standard_error(gain, counts)
        )
        for (a, b), gain in zip(pairs, gains, strict=True)
    ]
    better = np.zeros((6, 6), int)
    for (a, b), gain, p in zip(pairs, gains, holm(ps), strict=True):
        better[(b, a) if gain.sum() > 0 else (a, b)] = p <= 0.1
    expected = [(1 + better[:, run].sum(), 6 - better[run].sum()) for run in range(6)]
    assert rank_ranges(hits, counts, 500, 3, 0.9) == expected
    assert len(set(expected)) > 2, "a case that tells something"
    alone = np.array([p <= 0.1 for p in ps])
    assert alone.sum() > better.sum() or seed, "and one in which the correction matters"


def test_images_without_expressions_are_no_part_of_the_sample():
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 7, 30)
    hits = rng.binomial(counts[:, None], [0.5, 0.62, 0.7])
    padded_hits, padded_counts = np.zeros((40, 3)), np.zeros(40)
    padded_hits[5:35], padded_counts[5:35] = hits, counts
    assert rank_ranges(padded_hits, padded_counts) == rank_ranges(hits, counts)
