"""What scores are worth: equal to the definitions over every order of ties, and absent where scores are."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import DataError
from bench.evaluation.confidence import COVERAGES, confidence
from bench.evaluation.statistics import ratio_intervals
from bench.runs.numbers import Bootstrap

FEW = Bootstrap(draws=50, seed=0, confidence=0.95)
LEVELS = (0.1, 0.25, 0.25, 0.5, 0.9, None)  # None: no box
rows_of = st.lists(st.tuples(st.sampled_from(LEVELS), st.booleans(), st.integers(0, 3)), min_size=1, max_size=6)


def made(rows, lacking=()):
    """Outcomes of rows (score, hit, image); a row without a score has no box, unless its place is in `lacking`."""
    scores, hit, image = zip(*rows, strict=True)
    answered = np.array([score is not None or n in lacking for n, score in enumerate(scores)])
    values = np.array([np.nan if score is None else score for score in scores])
    fields = {
        "scores": values,
        "hit": np.array(hit) & answered,
        "image": np.array(image),
        "answered": answered,
        "sets": None,
    }
    return SimpleNamespace(**fields, unreadable=np.zeros(4, bool))


def scored(rows):
    return any(score is not None for score, *_ in rows)


def orders(results):
    """Every order of the expressions in which scores fall, those without one last."""
    ranked = np.where(np.isfinite(results.scores), results.scores, -1)
    for order in itertools.permutations(range(len(ranked))):
        if (np.diff(ranked[list(order)]) <= 0).all():
            yield np.array(order)


@given(rows_of.filter(scored))
def test_the_area_and_the_accuracies_are_the_mean_over_all_orders_of_ties(rows):
    results = made(rows)
    worth = confidence(results, FEW)
    n = len(rows)
    risks, tops = [], {share: [] for share in COVERAGES}
    for order in orders(results):
        hits = results.hit[order]
        risks.append(np.mean([1 - hits[:k].mean() for k in range(1, n + 1)]))
        for share in COVERAGES:
            k = share * n
            whole = int(k + 1e-9)
            part = (k - whole) * hits[whole] if whole < n else 0
            tops[share].append((hits[:whole].sum() + part) / k)
    assert worth.aurc == pytest.approx(np.mean(risks), abs=1e-9)
    for covered in worth.covered:
        assert covered.accuracy == pytest.approx(np.mean(tops[covered.coverage]), abs=1e-9)
        assert covered.n == pytest.approx(covered.coverage * n)
    assert worth.best_aurc <= worth.aurc + 1e-9


many = st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 3)), min_size=2, max_size=60)


@given(many, st.randoms(use_true_random=False))
def test_the_order_of_expressions_does_not_matter_nor_a_rising_function_of_scores(rows, random):
    worth = confidence(made(rows), FEW)
    mixed = list(rows)
    random.shuffle(mixed)
    again = confidence(made(mixed), FEW)
    assert again.aurc == pytest.approx(worth.aurc) and again.calibration.ece == pytest.approx(worth.calibration.ece)
    assert [c.accuracy for c in again.covered] == pytest.approx([c.accuracy for c in worth.covered])
    ranks = {score: float(n) for n, score in enumerate(sorted({row[0] for row in rows}))}
    other = confidence(made([(ranks[score] * 7 - 3, *rest) for score, *rest in rows]), FEW)
    assert other.aurc == pytest.approx(worth.aurc) and other.curve == worth.curve
    assert [c.ci95 for c in other.covered] == [c.ci95 for c in worth.covered]
    assert other.calibration is None and "no probabilities" in other.uncalibrated


def test_all_are_covered_at_100_percent_with_the_runs_own_interval():
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(60), 3)
    hit = rng.random(180) < 0.7
    results = SimpleNamespace(
        scores=rng.random(180),
        hit=hit,
        image=image,
        answered=np.ones(180, bool),
        unreadable=np.zeros(60, bool),
        sets=None,
    )
    worth = confidence(results, FEW)
    above = np.bincount(image, weights=hit)[:, None]
    assert worth.covered[0].accuracy == pytest.approx(hit.mean())
    assert [(worth.covered[0].ci95, "")] == ratio_intervals(above, np.full((60, 1), 3.0), 50, 0)
    assert worth.curve[0][-1] == 1 and worth.curve[1][-1] == pytest.approx(hit.mean())


def test_scores_that_tell_and_scores_that_mean_nothing():
    hit = np.arange(200) % 4 > 0
    perfect = confidence(made([(float(h), h, n % 4) for n, h in enumerate(hit)]), FEW)
    assert perfect.aurc == pytest.approx(perfect.best_aurc) and perfect.covered[-1].accuracy == 1
    assert perfect.calibration.ece == 0
    same = confidence(made([(0.75, h, n % 4) for n, h in enumerate(hit)]), FEW)
    assert same.aurc == pytest.approx(0.25) and {c.accuracy for c in same.covered} == {0.75}
    assert same.calibration.ece == pytest.approx(0) and len(same.calibration.bins) == 1
    wrong = confidence(made([(1.0, h, n % 4) for n, h in enumerate(hit)]), FEW)
    assert wrong.calibration.ece == pytest.approx(0.25) and wrong.calibration.bins[0].low == 0.9


@given(many)
def test_the_calibration_error_is_the_plain_loops(rows):
    bins = {}
    for score, hit, _ in rows:
        bins.setdefault(min(int(score * 10), 9), []).append((score, hit))
    gaps = [abs(np.mean([s for s, _ in b]) - np.mean([h for _, h in b])) * len(b) for b in bins.values()]
    worth = confidence(made(rows), FEW)
    assert worth.calibration.ece == pytest.approx(sum(gaps) / len(rows))
    assert sum(b.n for b in worth.calibration.bins) == len(rows)


def test_an_expression_without_a_box_comes_last_and_is_in_no_bin():
    worth = confidence(made([(0.9, True, 0), (0.8, True, 1), (None, False, 2), (None, False, 3)]), FEW)
    assert (worth.covered[-1].accuracy, worth.covered[0].accuracy, worth.unscored) == (1, 0.5, 2)
    assert worth.covered[-1].score == 0.8 and worth.covered[0].score is None
    assert sum(b.n for b in worth.calibration.bins) == 2


def test_runs_without_scores_are_refused():
    with pytest.raises(DataError, match="no scores"):
        confidence(made([(None, True, 0), (None, False, 1)], lacking=(0,)), FEW)
    several = made([(0.5, True, 0), (0.4, False, 1)])
    several.sets = object()
    with pytest.raises(DataError, match="no scores of sets of boxes"):
        confidence(several, FEW)
    with pytest.raises(DataError, match="1 of 2 boxes have no score"):
        confidence(made([(0.5, True, 0), (None, False, 1)], lacking=(1,)), FEW)
