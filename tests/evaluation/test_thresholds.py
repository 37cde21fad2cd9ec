"""Thresholds of scores: intervals of each expression against scoring with every threshold, and what chooses none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol, with_threshold
from bench.evaluation.thresholds import best_threshold, right_between
from bench.grounding import Expression, Prediction, Scene, ScoredBox
from bench.runs.predictions import SceneAnswers

SEVERAL = protocol("several")
PLACES = [(20.0 * n, 0.0, 20.0 * n + 10, 10.0) for n in range(4)]
SCORES = (0.1, 0.25, 0.5, 0.75, 0.9)
scored = st.tuples(st.sampled_from(PLACES), st.none() | st.sampled_from(SCORES))
case = st.tuples(
    st.lists(st.sampled_from(PLACES), max_size=3, unique=True),
    st.lists(scored, max_size=4),
    st.none() | st.sampled_from((0.05, 0.3, 0.8)),
)


def world(cases):
    expressions, answers = [], []
    for n, (targets, boxes, none) in enumerate(cases):
        box, *also = targets or [(math.nan,) * 4]
        expressions.append(Expression(str(n), "it", box, also=tuple(also)))
        (first, score), *others = boxes or [(None, None)]
        answers.append(Prediction(str(n), first, score, others=tuple(ScoredBox(*each) for each in others), none=none))
    return [Scene("a", "a.jpg", 100, 100, tuple(expressions))], [SceneAnswers("a", tuple(answers))]


@given(st.lists(case, min_size=1, max_size=8))
def test_intervals_are_where_f1_is_1_and_the_best_threshold_lies_in_most(cases):
    scenes, answers = world(cases)
    low, high = right_between(outcomes(scenes, answers, SEVERAL).sets)
    counts = []
    for threshold in np.unique([*SCORES, *(s - 0.01 for s in SCORES), *(s + 0.01 for s in SCORES)]):
        hit = outcomes(scenes, answers, with_threshold(SEVERAL, threshold)).hit
        assert hit.tolist() == ((low < threshold) & (threshold <= high)).tolist()
        counts.append(int(hit.sum()))
    try:
        best, right = best_threshold(low, high)
    except UsageError as error:
        assert "no answer has boxes with scores" in str(error) and not np.isfinite([low, high]).any()
        return
    assert right == outcomes(scenes, answers, with_threshold(SEVERAL, best)).hit.sum()
    if any(low < high):
        assert right == max(counts)


def test_the_middle_of_the_best_range_is_taken():
    low, high = np.array([0.2, 0.3, -math.inf, math.nan]), np.array([0.8, 0.6, 0.5, math.nan])
    assert best_threshold(low, high) == (0.4, 3)
    assert best_threshold(np.array([0.5]), np.array([math.inf])) == pytest.approx((0.5, 1), abs=1e-5)
    with pytest.raises(UsageError, match="no threshold can be chosen"):
        best_threshold(np.array([-math.inf]), np.array([math.inf]))
