"""The statistics of a pair against slow loops, scipy and tables; p and interval say the same."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.comparison.paired import (
    detectable,
    difference_interval,
    difference_p,
    excluded,
    expanded_tail,
    holm,
    mcnemar,
    p_of_part,
    standard_error,
)


@pytest.mark.parametrize("images", [5, 10, 20, 40, 100, 1500])
def test_the_tail_gives_students_interval_back(images):
    """Where the draws are normal with the bootstrap's spread (sqrt((m - 1) / m) of the right one), the interval is
    Student's: the reason for the tail."""
    drawn = stats.norm(scale=math.sqrt((images - 1) / images))
    assert -drawn.ppf(expanded_tail(images, 0.95)) == pytest.approx(stats.t.ppf(0.975, images - 1), rel=1e-4)
    assert p_of_part(expanded_tail(images, 0.95), images) == pytest.approx(0.05, rel=1e-3)
    assert expanded_tail(10_000_000, 0.95) == pytest.approx(0.025, rel=1e-4) and expanded_tail(1, 0.95) == 0


def test_an_end_is_an_ordered_draw():
    drawn = np.random.default_rng(0).permutation(np.linspace(-1, 1, 2001))
    place = excluded(2001, 400, 0.95)
    assert place == math.floor(stats.norm.cdf(-math.sqrt(400 / 399) * stats.t.ppf(0.975, 399)) * 2002)
    ordered = sorted(drawn.tolist())
    assert difference_interval(drawn, 400, 0.95) == (ordered[place - 1], ordered[-place])


@pytest.mark.parametrize("images", [0, 1, 2])
def test_nothing_is_known_from_too_few_images(images):
    drawn = np.full(10_000, 0.5)
    assert difference_interval(drawn, images, 0.95) == (-1.0, 1.0)
    assert images == 2 or difference_p(drawn, images) == 1.0


@given(
    st.integers(2, 400), st.integers(100, 3000), st.floats(-3, 3), st.integers(0, 2**31),
    st.sampled_from([0.8, 0.9, 0.95, 0.99]),
)  # fmt: skip
def test_p_and_interval_say_the_same(images, draws, shift, seed, confidence):
    drawn = np.round(np.random.default_rng(seed).normal(shift, 1, draws), 1)  # with ties, also at 0
    low, high = difference_interval(drawn, images, confidence)
    assert (difference_p(drawn, images) <= 1 - confidence) == (low > 0 or high < 0)


def test_p_is_symmetric_never_zero_and_one_for_no_difference():
    drawn = np.random.default_rng(1).normal(0.4, 0.3, 5000)
    assert difference_p(drawn, 50) == difference_p(-drawn, 50) < 1
    assert difference_p(np.zeros(5000), 50) == 1.0
    assert difference_p(np.ones(5000), 50) == p_of_part(1 / 5001, 50) > 0
    # Student's t of many images is the normal: twice the part on the other side.
    assert p_of_part(0.01, 10_000_000) == pytest.approx(0.02, rel=1e-4)


def test_the_standard_error_is_the_loops():
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 9, 30).astype(float)
    differences = rng.integers(-3, 4, 30).astype(float)
    ratio = sum(differences) / sum(counts)
    variance = sum((d - ratio * n) ** 2 for d, n in zip(differences, counts, strict=True)) * 30 / 29
    assert standard_error(differences, counts) == pytest.approx(math.sqrt(variance) / sum(counts), rel=1e-12)
    # One expression an image: the standard error of a mean.
    alone = standard_error(differences, np.ones(30))
    assert alone == pytest.approx(stats.sem(differences), rel=1e-12)
    assert math.isnan(standard_error(np.ones(1), np.ones(1)))


def test_a_true_difference_of_that_size_is_found_four_times_in_five():
    rng = np.random.default_rng(4)
    size = detectable(0.02, 60, 0.95)
    assert size == pytest.approx(0.02 * (stats.t.ppf(0.975, 59) + stats.norm.ppf(0.8)))
    found = np.abs(rng.normal(size, 0.02, 20_000)) > 0.02 * stats.t.ppf(0.975, 59)
    assert abs(found.mean() - 0.8) < 0.01 and detectable(0.0, 60, 0.95) is None
    assert detectable(math.nan, 1, 0.95) is None


def test_beyond_the_draws_p_is_students():
    drawn = np.full(1000, 0.3)
    assert difference_p(drawn, 400, 6.0) == difference_p(-drawn, 400, -6.0)
    assert difference_p(drawn, 400, 6.0) == pytest.approx(2 * stats.t.sf(6.0, 399), rel=1e-9)
    assert difference_p(drawn, 400, 1.0) == p_of_part(1 / 1001, 400)  # never larger than the draws say
    drawn[0] = -0.1
    assert difference_p(drawn, 400, 6.0) == p_of_part(2 / 1001, 400)  # the draws' as long as they can tell


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(a_only, b_only):
    expected = stats.binomtest(a_only, a_only + b_only, 0.5).pvalue if a_only + b_only else 1.0
    assert mcnemar(a_only, b_only) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    assert mcnemar(0, 5) == 2 / 32 and mcnemar(1, 5) == 2 * (1 + 6) / 64
    assert mcnemar(0, 9000) == 0.0  # below the smallest float


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1 and never smaller than the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert (holm([0.5, 0.6]), holm([])) == ([1.0, 1.0], [])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_stepping_down_rejects(ps, alpha):
    """The procedure as Holm wrote it: while the smallest p left is at most alpha / how many are left, reject it."""
    rejected = set()
    for step, number in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[number] * (len(ps) - step) > alpha:
            break
        rejected.add(number)
    assert {number for number, p in enumerate(holm(ps)) if p <= alpha} == rejected
