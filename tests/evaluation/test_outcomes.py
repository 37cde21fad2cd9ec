"""The rules of measurement, one by one, and the vectorised outcomes against a loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.boxes import iou_elementwise
from bench.errors import DataError
from bench.evaluation import outcomes as module
from bench.evaluation.metrics import compute
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Expression, Prediction, Scene
from bench.runs.predictions import SceneAnswers

IOU = protocol("iou")


def scene(name, *boxes, width=100, height=100, also=()):
    expressions = tuple(Expression(f"{name}{n}", "it", box, also=also) for n, box in enumerate(boxes))
    return Scene(name, f"{name}.jpg", width, height, expressions)


def answered(name, *boxes, proposals=None, error=None):
    answers = tuple(Prediction(f"{name}{n}", box) for n, box in enumerate(boxes))
    return SceneAnswers(name, answers, proposals, error)


UNIT = (0.0, 0.0, 10.0, 10.0)


def test_prediction_is_clipped_to_the_image_and_the_truth_is_not():
    inside = scene("a", (0, 0, 100, 100))
    assert outcomes([inside], [answered("a", (-50, -50, 150, 150))], IOU).iou.tolist() == [1]
    free = scene("a", (0, 0, 500, 500), width=None, height=None)  # only negative sides are clipped
    assert outcomes([free], [answered("a", (-100, -100, 500, 500))], IOU).iou.tolist() == [1]
    over = scene("b", (0, 0, 200, 100))
    assert outcomes([over], [answered("b", (0, 0, 200, 100))], IOU).iou.tolist() == [0.5]


@pytest.mark.parametrize("box", [
    None, (float("nan"), 0, 5, 5), (0, 0, float("inf"), 5), (10, 0, 0, 10), (0, 10, 10, 0), (3, 3, 3, 9),
    (9, 9, 1, 1),
])  # fmt: skip
def test_no_box_is_a_counted_miss(box):
    for name in ("iou", "strict", "giou", "letterbox-clamped"):
        results = outcomes([scene("a", UNIT, UNIT)], [answered("a", box, UNIT)], protocol(name))
        assert results.answered.tolist() == [False, True] and results.hit.tolist() == [False, True]
        assert results.iou[0] == 0


def test_the_first_of_two_answers_counts():
    twice = [answered("a", UNIT), answered("a", (50, 50, 60, 60)), answered("a", None)]
    results = outcomes([scene("a", UNIT)], twice, IOU)
    assert results.hit.tolist() == [True] and results.duplicates == 2
    no_first = outcomes([scene("a", UNIT)], [answered("a", None), answered("a", UNIT)], IOU)
    assert no_first.hit.tolist() == [False]


def test_an_expression_that_comes_twice_is_one_sample():
    once = scene("a", UNIT)
    results = outcomes([Scene("a", "a.jpg", 100, 100, once.expressions * 2)], [answered("a", UNIT)], IOU)
    assert len(results.expressions) == len(results.iou) == 1


def test_a_missing_prediction_is_no_miss_unless_a_part_is_wanted():
    scenes, lines = [scene("a", UNIT, UNIT), scene("b", UNIT, UNIT)], [answered("a", UNIT, UNIT)]
    message = r"{} of 4 expressions have no prediction \(the first is '{}', image 'b'\), and that is no miss"
    for answers, lacking in ((lines, (2, "b0")), ([*lines, answered("b", UNIT)], (1, "b1"))):
        with pytest.raises(DataError, match=message.format(*lacking)):
            outcomes(scenes, answers, IOU)
        with pytest.raises(DataError, match="that is no miss"):
            compute(scenes, answers)
        assert outcomes(scenes, answers, IOU, partial=True).answered.sum() == 4 - lacking[0]


def test_an_unreadable_image_and_no_box_are_misses():
    lines = [SceneAnswers("a", (), error="truncated"), answered("b", UNIT, None)]
    results = outcomes([scene("a", UNIT, UNIT), scene("b", UNIT, UNIT)], lines, IOU)
    assert results.hit.tolist() == [False, False, True, False] and results.image.tolist() == [0, 0, 1, 1]
    assert results.answered.tolist() == [False, False, True, False] and results.unreadable.tolist() == [True, False]


def test_any_of_several_right_boxes_will_do():
    other = (50.0, 50.0, 60.0, 60.0)
    results = outcomes([scene("a", UNIT, UNIT, also=(other,))], [answered("a", other, UNIT, proposals=(other,))], IOU)
    assert results.iou.tolist() == [1, 1] and results.oracle.tolist() == [1, 1]


@pytest.mark.parametrize(("line", "names"), [
    (answered("nowhere", UNIT), "'nowhere'"),
    (SceneAnswers("a", (Prediction("a7", UNIT),)), "'a7'"),
    (SceneAnswers("a", (Prediction("b0", UNIT),)), "'b0'.*'b'.*'a'"),
])  # fmt: skip
def test_answers_about_something_else_are_refused(line, names):
    with pytest.raises(DataError, match=names):
        outcomes([scene("a", UNIT), scene("b", UNIT)], [line], IOU)


def test_a_protocol_that_needs_sizes_says_whose_is_missing():
    with pytest.raises(DataError, match=r"letterbox-clamped.*b\.jpg"):
        outcomes([scene("a", UNIT), scene("b", UNIT, width=None)], [], protocol("letterbox-clamped"))


def test_nothing_at_all():
    for scenes in ([], [scene("a")]):
        results = outcomes(scenes, [], IOU)
        assert len(results.iou) == len(results.oracle) == 0


def test_absurd_numbers_warn_nobody():
    with np.errstate(all="raise"):
        for name in ("iou", "giou", "letterbox-clamped"):
            huge = (-1e308, -1e308, 1e308, 1e308)
            outcomes([scene("a", UNIT)], [answered("a", huge, proposals=(huge, UNIT))], protocol(name))


coordinate = st.floats(-20, 120, allow_nan=False).map(lambda v: round(v, 2))
box = st.tuples(coordinate, coordinate, coordinate, coordinate)
size = st.one_of(st.none(), st.just(100))


@st.composite
def worlds(draw):
    scenes, lines = [], []
    for n in range(draw(st.integers(1, 5))):
        truths = draw(st.lists(box, max_size=4))
        scenes.append(scene(f"s{n}-", *truths, width=draw(size), height=100))
        proposals = draw(st.one_of(st.none(), st.lists(box, max_size=5).map(tuple)))
        answers = [draw(st.one_of(st.none(), box)) for _ in truths]
        lines.append(answered(f"s{n}-", *answers, proposals=proposals))
    return scenes, draw(st.permutations(lines))


def slow(scenes, lines):
    """One expression and one proposal at a time."""
    by = {line.scene: line for line in lines}
    for one in scenes:
        limit = np.array([one.width or np.inf, 100, one.width or np.inf, 100])
        for n, expression in enumerate(one.expressions):
            line = by[one.id]
            answer = line.answers[n].box
            real = answer is not None and answer[2] > answer[0] and answer[3] > answer[1]
            iou = iou_elementwise(np.clip(answer, 0, limit), expression.box) if real else 0.0
            each = [float(iou_elementwise(np.clip(p, 0, limit), expression.box)) for p in line.proposals or ()]
            yield float(iou), max(each, default=np.nan)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(worlds(), st.sampled_from([1, 7, 10_000]))
def test_equals_a_loop(world, pairs):
    scenes, lines = world
    module.PAIRS, before = pairs, module.PAIRS  # small blocks must not change anything
    try:
        results = outcomes(scenes, lines, IOU)
    finally:
        module.PAIRS = before
    expected = np.array(list(slow(scenes, lines))).reshape(-1, 2)
    assert np.array_equal(results.iou, expected[:, 0])
    assert np.array_equal(results.oracle, expected[:, 1], equal_nan=True)
    proposals = {line.scene: line.proposals for line in lines}
    counts = [-1 if proposals[one.id] is None else len(proposals[one.id]) for one in scenes]
    assert results.proposals.tolist() == counts
