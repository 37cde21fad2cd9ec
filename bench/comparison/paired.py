"""Estimate the difference of two runs on the same images: interval, p-value, smallest detectable difference.

Both come from one paired bootstrap over images: a draw of images is a draw for both runs, so what makes an image
hard for everybody cancels. The draws are those of bench/evaluation/statistics.py.

A percentile interval of few images is too narrow, for two reasons that have nothing to do with the data: the spread
of bootstrap means is sqrt((m - 1) / m) of what it should be for m images, and quantiles of the normal stand where
Student's belong. Both are mended by taking quantiles a little further out, at normal_cdf(-sqrt(m / (m - 1)) * t) with
t from Student's distribution of m - 1 degrees of freedom ("expanded percentile", Hesterberg 2015). With
1,500 images the 2.5 % become 2.49 %, with 20 they become 1.6 %. The p-value is the same map backwards, so it is at
most 1 - confidence exactly when the interval leaves out 0.

Where the runs differ on fewer than ten images, that interval covers a true difference in 70 to 99 % of simulated data
sets of 5 and 10 images instead of 95 %; `few_difference` covers it in 92 % or more
(tools/benchmarks/compare_simulation.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.evaluation.statistics import Interval, equal_images, student_quantile

Float = NDArray[np.float64]
Int = NDArray[np.int64]

POWER = 0.8
FEW_DIFFERENT = 10  # images on which two runs have other numbers of hits
BLOCK = 500  # draws compared at once: of 300 runs 1.2 MB
UNKNOWN: Interval = (-1.0, 1.0)  # a difference of accuracies is nowhere else
NORMAL = NormalDist()


@lru_cache
def expanded_tail(images: int, confidence: float) -> float:
    """Return the part of the draws to leave out at each end; 0 for fewer than two images."""
    if images < 2:
        return 0.0
    t = student_quantile(1 - (1 - confidence) / 2, images - 1)  # where Student's interval would end
    return NORMAL.cdf(-math.sqrt(images / (images - 1)) * t)


def excluded(draws: int, images: int, confidence: float) -> int:
    """Count the ordered draws that lie beyond an end of the interval, that end included; 0 = it has no end."""
    return math.floor(expanded_tail(images, confidence) * (draws + 1))


def difference_interval(drawn: Float, images: int, confidence: float) -> Interval:
    """Return the interval from (draws,) differences of resampled images; (-1, 1) where images or draws are too few."""
    place = excluded(len(drawn), images, confidence)
    if place < 1:
        return UNKNOWN
    low, high = np.partition(drawn, (place - 1, len(drawn) - place))[[place - 1, len(drawn) - place]]
    return (float(low) + 0.0, float(high) + 0.0)  # + 0.0: no "-0.0" in a table


def few_different(gains: Float) -> int | None:
    """Count the images on which two runs have other numbers of hits, where they are few; else None."""
    images = int(np.count_nonzero(gains))
    return images if images < FEW_DIFFERENT else None


def few_difference(gains: Float, counts: Float, confidence: float = 0.95) -> tuple[Interval, float]:
    """Return interval and p of the difference from few images' gains and expressions (m,); nothing known for m < 2.

    Student's, with one more expression that only A hits and one that only B hits (Agresti and Min 2005). The variance
    is the jackknife's over images, at least that of independent expressions; the degrees of freedom are those of images
    of equal size.
    """
    if len(counts) < 2:
        return UNKNOWN, 1.0
    total, gained, images = float(counts.sum()), float(gains.sum()), len(counts)
    for_b, for_a = float(gains[gains > 0].sum()) + 1, float(-gains[gains < 0].sum()) + 1
    centre = gained / (total + 2)
    without = (gained - gains) / (total - counts)
    jackknife = (images - 1) / images * float(((without - gained / total) ** 2).sum())
    independent = ((for_a + for_b) / (total + 2) - centre**2) / (total + 2)
    error, freedom = math.sqrt(max(jackknife, independent)), max(equal_images(counts) - 1, 1.0)
    half = student_quantile(1 - (1 - confidence) / 2, freedom) * error
    p = 2 * student_cdf(-abs(centre) / error, freedom)
    return (round(max(-1.0, centre - half), 6), round(min(1.0, centre + half), 6)), p


def paired_p(drawn: Float, gains: Float, counts: Float) -> float:
    """Return the p of a pair by the draws (draws,) of its difference, or of few images by gains and counts (m,)."""
    if few_different(gains) is not None:
        return few_difference(gains, counts)[1]
    return difference_p(drawn, len(counts), statistic(gains, counts))


def paired_interval(drawn: Float, gains: Float, counts: Float, confidence: float) -> Interval:
    """Return the interval of a pair's difference from its draws (draws,), or of few images from gains and counts."""
    if few_different(gains) is not None:
        return few_difference(gains, counts, confidence)[0]
    return difference_interval(drawn, len(counts), confidence)


def every_pair_p(sums: Float, table: Float, counts: Float) -> list[float]:
    """Return `paired_p` of every pair of runs, in the order of `combinations`, from the same draws.

    `sums` (draws, R) are the runs' hits in each draw, `table` (m, R) on each image, `counts` (m,) the expressions.
    """
    hits, runs, (draws, _) = np.ascontiguousarray(table.T), table.shape[1], sums.shape
    ps, total, each = [], float(counts.sum()), [float(own.sum()) for own in hits]
    for a, beyond in enumerate(_other_sides(sums)):
        for b in range(a + 1, runs):
            gains, other_side, t = hits[b] - hits[a], int(beyond[b]), 0.0
            if few_different(gains) is not None:
                ps.append(few_difference(gains, counts)[1])
                continue
            if not other_side:  # else p does not depend on it; hits are whole numbers, so their sums are exact
                t = _t(*_ratio_and_error(gains, counts, each[b] - each[a], total))
            ps.append(counted_p(other_side, draws, len(counts), t))
    return ps


def _other_sides(sums: Float) -> Int:
    """Count for runs a < b (R, R) the draws of (draws, R) in which b - a is not on the side of the most."""
    draws, runs = sums.shape
    below, above = np.zeros((2, runs, runs), np.int64)
    for start in range(0, draws, BLOCK):
        block = np.ascontiguousarray(sums[start : start + BLOCK].T)
        for a in range(runs):
            below[a, a + 1 :] += np.count_nonzero(block[a + 1 :] <= block[a], axis=1)
            above[a, a + 1 :] += np.count_nonzero(block[a + 1 :] >= block[a], axis=1)
    return np.minimum(below, above)


def difference_p(drawn: Float, images: int, statistic: float = 0.0) -> float:
    """Return the two-sided p of "no difference" by the draws (draws,).

    It is 1 - the widest confidence whose interval leaves out 0.

    Draws cannot tell parts below 1 / (draws + 1) apart, which is too coarse to correct for many pairs: where none lies
    on the other side of 0, p is Student's of `statistic`, the difference over its clustered standard error, if that is
    smaller still. The interval leaves out 0 either way.
    """
    return counted_p(min(int((drawn <= 0).sum()), int((drawn >= 0).sum())), len(drawn), images, statistic)


def counted_p(other_side: int, draws: int, images: int, statistic: float) -> float:
    """Return the p of `difference_p` from the number of draws on the other side of 0."""
    if images < 2:
        return 1.0
    p = p_of_part((other_side + 1) / (draws + 1), images)  # the bootstrap's sign test, on the interval's own scale
    return p if other_side else min(p, 2 * student_cdf(-abs(statistic), images - 1))


@lru_cache(maxsize=16_384)
def p_of_part(part: float, images: int) -> float:
    """Return the two-sided p where `part` of the draws lie on the other side of 0: `expanded_tail` backwards."""
    if part >= 0.5:
        return 1.0
    t = NORMAL.inv_cdf(part) * math.sqrt((images - 1) / images)
    return 2 * student_cdf(t, images - 1)


def standard_error(differences: Float, counts: Float) -> float:
    """Return the clustered standard error of sum(differences) / sum(counts), both per image (m,); NaN for m < 2."""
    return _ratio_and_error(differences, counts, float(differences.sum()), float(counts.sum()))[1]


def statistic(differences: Float, counts: Float) -> float:
    """Return the difference over its clustered standard error, both per image (m,); 0 where the error says nothing."""
    return _t(*_ratio_and_error(differences, counts, float(differences.sum()), float(counts.sum())))


def _ratio_and_error(differences: Float, counts: Float, gained: float, total: float) -> tuple[float, float]:
    """Return gained / total, the sums of both, and its clustered standard error."""
    images = len(counts)
    if images < 2:
        return 0.0, math.nan
    ratio = gained / total
    residuals = differences - ratio * counts
    return ratio, math.sqrt(images / (images - 1) * float(residuals @ residuals)) / total


def _t(ratio: float, error: float) -> float:
    return ratio / error if error > 0 else 0.0


def detectable(error: float, images: int, confidence: float, power: float = POWER) -> float | None:
    """Return the smallest true difference that is significant with probability `power`, from the standard error.

    None where the error says nothing: fewer than two images, or runs that agree on every one.
    """
    if not error > 0:
        return None
    return error * (student_quantile(1 - (1 - confidence) / 2, images - 1) + NORMAL.inv_cdf(power))


def student_cdf(value: float, freedom: float) -> float:
    """Return Student's distribution function."""
    from scipy.special import stdtr

    return float(stdtr(freedom, value))


def mcnemar(a_only: int, b_only: int) -> float:
    """Return the exact p that flips go either way equally often (McNemar 1947, binomial); 1 without flips.

    It takes flips for independent, which those of one image are not: see docs/comparing.md.
    """
    flips, fewer = a_only + b_only, min(a_only, b_only)
    if 2 * fewer == flips:
        return 1.0
    term = total = 1
    # The lower tail of the binomial, doubled, in whole numbers: exact however many flips.
    for wins in range(fewer):
        term = term * (flips - wins) // (wins + 1)
        total += term
    p: float = 2 * total / (1 << flips)
    return p


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979), in their order.

    At most alpha together means that the chance of any false alarm among them is at most alpha.
    """
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for place, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        # The smallest times their number, the next times one less, and never below the one before.
        highest = max(highest, min(1.0, (len(ps) - place) * ps[number]))
        adjusted[number] = highest
    return adjusted
