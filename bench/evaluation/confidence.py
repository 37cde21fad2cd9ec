"""What the scores of a run are worth: accuracy among the expressions it is surest of, and calibration.

At coverage c only the share c of the expressions with the highest scores is answered. The risk there is the share of
misses among them; its mean over all coverages is the area under the risk-coverage curve (Geifman and El-Yaniv,
NeurIPS 2017). Of expressions with one score any may come first, so what counts is the mean over all their orders. An
expression without a box has no score and comes last.

A score in 0..1 can be compared with the share of hits among such scores: the expected calibration error is the mean
distance of the two over bins of equal width, in their sizes (Guo et al., ICML 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError
from bench.evaluation.outcomes import Outcomes
from bench.evaluation.statistics import ratio_intervals
from bench.runs.numbers import Bootstrap, Interval

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

COVERAGES = (1.0, 0.9, 0.8, 0.5)
BINS = 10
DRAWN = 200  # points of the curve


@dataclass(frozen=True, slots=True)
class Covered:
    """Accuracy at one coverage: of `n` expressions, those with a score of at least `score` (None: no score is left).

    Where the last ones have equal scores, each counts in part, so `n` need not be whole. The interval is over images,
    for that score.
    """

    coverage: float
    n: float
    accuracy: float
    ci95: Interval | None
    ci95_note: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions with a score from `low` to below `high` (1 belongs to the last): their mean score and accuracy."""

    low: float
    high: float
    n: int
    score: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Bins that have a prediction, and the expected calibration error."""

    bins: tuple[Bin, ...]
    ece: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """What scores are worth: `curve` is (coverages, accuracies), `aurc` the area, which of the same hits is
    `best_aurc` for perfect scores and the error rate for scores that mean nothing.

    `calibration` is None where scores are no probabilities, and `uncalibrated` says why. `unscored` counts
    expressions without a box.
    """

    covered: tuple[Covered, ...]
    curve: tuple[tuple[float, ...], tuple[float, ...]]
    aurc: float
    best_aurc: float
    calibration: Calibration | None
    uncalibrated: str
    unscored: int


def confidence(results: Outcomes, bootstrap: Bootstrap) -> Confidence:
    """Compute what a run's scores are worth. Raises DataError where its predictions have none, or some have none."""
    scores, hit = results.scores, results.hit
    given = np.isfinite(scores)
    # 1. Refuse what would rank boxes without a score, or sets of boxes by the score of one.
    if results.sets is not None:
        raise DataError("no scores of sets of boxes")
    lacking = int((results.answered & ~given).sum())
    if not given.any():
        raise DataError("no scores")
    if lacking:
        raise DataError(f"{lacking:,} of {int(results.answered.sum()):,} boxes have no score")
    # 2. The highest scores first; groups of equal ones.
    ends, errors, group = _groups(scores, ~hit)
    whole, k = len(hit), np.arange(1, len(hit) + 1)
    drawn = np.unique(np.concatenate([ends, [whole]]) if len(ends) <= DRAWN else np.linspace(1, whole, DRAWN).round())
    calibration, why = _calibration(scores[given], hit[given])
    return Confidence(
        covered=tuple(_covered(results, ends, group, share, bootstrap) for share in COVERAGES),
        curve=(tuple((drawn / whole).tolist()), tuple((1 - _at(drawn, ends, errors) / drawn).tolist())),
        aurc=_area(k, ends, errors),
        best_aurc=_area(k, *_groups(hit.astype(np.float64), ~hit)[:2]),
        calibration=calibration,
        uncalibrated=why,
        unscored=int((~given).sum()),
    )


def _groups(scores: Float, wrong: Bool) -> tuple[Float, Float, NDArray[np.int64]]:
    """Group equal scores, highest first, NaN last -> how many expressions and misses there are up to each group's end,
    and each expression's group (N,)."""
    ranked = np.where(np.isfinite(scores), scores, -np.inf)
    _, group = np.unique(-ranked, return_inverse=True)
    counts = np.bincount(group)
    return counts.cumsum().astype(np.float64), np.bincount(group, weights=wrong).cumsum(), group


def _at(k: Float | NDArray[np.int64], ends: Float, errors: Float) -> Float:
    """Return the expected misses among the first k: within a group they come evenly."""
    return np.asarray(np.interp(k, np.concatenate([[0.0], ends]), np.concatenate([[0.0], errors])))


def _area(k: NDArray[np.int64], ends: Float, errors: Float) -> float:
    return math.fsum((_at(k, ends, errors) / k).tolist()) / len(k)


def _covered(results: Outcomes, ends: Float, group: NDArray[np.int64], share: float, bootstrap: Bootstrap) -> Covered:
    """Compute the accuracy among the share of expressions with the highest scores."""
    # 1. How much of each expression is in: all of the groups before the last one, and of that what is missing.
    wanted = share * len(group)
    last = int(np.searchsorted(ends, wanted - 1e-9))
    before = ends[last - 1] if last else 0.0
    part = np.where(group < last, 1.0, np.where(group == last, (wanted - before) / (ends[last] - before), 0.0))
    # 2. The ratio of hits to expressions, and its interval over images.
    used = np.bincount(results.image, minlength=len(results.unreadable)) > 0
    sums = [np.bincount(results.image, weights=w, minlength=len(used))[used] for w in (part * results.hit, part)]
    above, below = (each[:, None] for each in sums)
    [(interval, note)] = ratio_intervals(above, below, bootstrap.draws, bootstrap.seed, bootstrap.confidence)
    scores = results.scores[group == last]
    return Covered(
        coverage=share,
        n=math.fsum(part.tolist()),
        accuracy=math.fsum((part * results.hit).tolist()) / wanted,
        ci95=interval,
        ci95_note=note,
        score=float(scores[0]) if np.isfinite(scores[0]) else None,
    )


def _calibration(scores: Float, hit: Bool) -> tuple[Calibration | None, str]:
    """Compute the calibration of predictions with a score, or say why there is none."""
    low, high = float(scores.min()), float(scores.max())
    if low < 0 or high > 1:
        return None, f"scores from {low:.3g} to {high:.3g} are no probabilities"
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    bins = []
    for number in np.unique(place).tolist():
        own = place == number
        mean, accuracy = (math.fsum(values[own].tolist()) / int(own.sum()) for values in (scores, hit.astype(float)))
        bins.append(Bin(number / BINS, (number + 1) / BINS, int(own.sum()), mean, accuracy))
    ece = math.fsum(each.n * abs(each.score - each.accuracy) for each in bins) / len(scores)
    return Calibration(tuple(bins), ece), ""
