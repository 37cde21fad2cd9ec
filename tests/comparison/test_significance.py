"""McNemar against scipy's binomial test, Holm against a hand-made table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from bench.comparison.paired import holm, mcnemar


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(a_only, b_only):
    expected = binomtest(a_only, a_only + b_only, 0.5).pvalue if a_only + b_only else 1.0
    assert mcnemar(a_only, b_only) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    assert mcnemar(0, 5) == 2 / 32
    assert mcnemar(1, 5) == 2 * (1 + 6) / 64
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1.0
    assert mcnemar(2, 3) == 1.0
    assert mcnemar(4000, 6000) == pytest.approx(binomtest(4000, 10000, 0.5).pvalue, rel=1e-9)
    assert mcnemar(0, 9000) == 0.0  # below the smallest float


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1 and never smaller than the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_stepping_down_rejects(ps, alpha):
    """The procedure as Holm wrote it: while the smallest p left is at most alpha / how many are left, reject it."""
    rejected = set()
    for step, number in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[number] * (len(ps) - step) > alpha:
            break
        rejected.add(number)
    assert {number for number, p in enumerate(holm(ps)) if p <= alpha} == rejected
