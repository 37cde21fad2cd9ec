"""Rules over boxes, against loops that say the same slowly, and what must hold whatever the boxes are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.boxes import box_area_xyxy
from pipelines.two_stage.language.parse import Phrase, parse
from pipelines.two_stage.language.relations import Geometry, exactly, multiplied, reason

SIZE = (200, 100)
ROW = np.array([[10, 40, 30, 60], [60, 40, 80, 60], [110, 40, 130, 60], [160, 40, 180, 60]], float)


def boxes_of(seed, count):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [180, 80], (count, 2))
    return np.concatenate([low, low + rng.uniform(2, 20, (count, 2))], axis=1)


def chances_of(seed, count):
    return np.random.default_rng(seed + 1).dirichlet(np.ones(count))


scenes = st.tuples(st.integers(0, 10_000), st.integers(1, 7))


@given(arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(0, 1)), st.integers(0, 7))
def test_exactly_so_many_events(chances, number):
    def by_hand(row):
        outcomes = product([0, 1], repeat=len(row))
        return sum(
            np.prod([c if hit else 1 - c for c, hit in zip(row, outcome, strict=True)])
            for outcome in outcomes
            if sum(outcome) == number
        )

    np.testing.assert_allclose(exactly(number, chances), [by_hand(row) for row in chances], atol=1e-12)


@given(scenes, st.sampled_from(["left", "right", "top", "bottom", "big", "small", "tall", "short", "middle"]))
def test_a_superlative_is_reclips_sum(scene, towards):
    boxes, p = boxes_of(*scene), chances_of(*scene)
    key = Geometry(boxes, SIZE).keys[towards]
    expected = [p[i] * sum(p[j] for j in range(len(p)) if key[i] > key[j]) for i in range(len(p))]
    expected = np.divide(expected, sum(expected)) if sum(expected) else p
    result = reason(Phrase("it", (((towards,), 0),)), {"it": p}, Geometry(boxes, SIZE))
    np.testing.assert_allclose(result, expected, atol=1e-12)


@given(scenes, st.sampled_from(["left", "right", "above", "below", "bigger", "smaller", "inside", "near", "far"]))
def test_a_relation_is_reclips_sum(scene, name):
    boxes, p, q = boxes_of(*scene), chances_of(*scene), chances_of(scene[0] + 5, scene[1])
    centre, area = (boxes[:, :2] + boxes[:, 2:]) / 2, box_area_xyxy(boxes)

    def rel(i, j):
        if i == j:
            return 0.0
        if name == "inside":
            sides = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
            return np.prod(sides.clip(0)) / area[i]
        if name in ("near", "far"):
            to = np.linalg.norm(centre - centre[j], axis=1)
            return sum(p[k] for k in range(len(p)) if (to[i] < to[k] if name == "near" else to[i] > to[k]))
        x, y = centre[i] - centre[j]
        sign = {"left": -x, "right": x, "above": -y, "below": y}
        sign |= {"bigger": area[i] - area[j], "smaller": area[j] - area[i]}
        return float(sign[name] > 0)

    expected = np.array([p[i] * sum(rel(i, j) * q[j] for j in range(len(p))) for i in range(len(p))])
    expected = expected / expected.sum() if expected.sum() else p
    result = reason(Phrase("it", (), ((name, Phrase("that")),)), {"it": p, "that": q}, Geometry(boxes, SIZE))
    np.testing.assert_allclose(result, expected, atol=1e-9)


@settings(max_examples=50)
@given(scenes, st.sampled_from(["second it from the left", "it left of that", "top right it near that", "biggest it"]))
def test_the_order_of_the_boxes_does_not_matter(scene, text):
    boxes, named = boxes_of(*scene), {"it": chances_of(*scene), "that": chances_of(scene[0] + 5, scene[1])}
    order = np.random.default_rng(scene[0]).permutation(len(boxes))
    phrase = parse(text.replace("it", "cat").replace("that", "dog"))
    named = {"cat": named["it"], "dog": named["that"]}
    straight = reason(phrase, named, Geometry(boxes, SIZE))
    shuffled = reason(phrase, {k: p[order] for k, p in named.items()}, Geometry(boxes[order], SIZE))
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-9)
    assert np.isclose(straight.sum(), 1) and (straight >= 0).all()


@pytest.mark.parametrize(
    ("text", "index"),
    [("left cat", 0), ("second cat from the left", 1), ("third cat from the left", 2), ("second cat from right", 2),
     ("the fourth cat from the left", 3)],
)  # fmt: skip
def test_places_in_a_row(text, index):
    named = dict.fromkeys(parse(text).texts(), np.full(4, 0.25))
    assert reason(parse(text), named, Geometry(ROW, SIZE)).argmax() == index


def test_what_is_not_named_so_is_not_counted():
    cats = np.array([0.01, 0.33, 0.33, 0.33])  # the leftmost thing is no cat
    assert reason(parse("second cat from the left"), {"cat": cats}, Geometry(ROW, SIZE)).argmax() == 2


def test_two_boxes_about_one_thing_count_once():
    boxes = np.concatenate([ROW, [[12, 41, 31, 60]]])  # the first one again, a little to the right
    cats = np.array([0.25, 0.25, 0.25, 0.25, 0.2])
    assert reason(parse("second cat from the left"), {"cat": cats / cats.sum()}, Geometry(boxes, SIZE)).argmax() == 1


def test_a_corner_is_both_at_once():
    boxes = np.array([[0, 0, 20, 20], [180, 0, 200, 20], [0, 80, 20, 100], [180, 80, 200, 100]], float)
    named = {"cat": np.full(4, 0.25)}
    for index, text in enumerate(("top left cat", "top right cat", "bottom left cat", "bottom right cat")):
        assert reason(parse(text), named, Geometry(boxes, SIZE)).argmax() == index


def test_where_nothing_is_left_the_rule_says_nothing():
    p = np.array([1.0])
    assert reason(parse("left cat"), {"cat": p}, Geometry(ROW[:1], SIZE)) == pytest.approx(p)
    assert multiplied(np.array([0.5, 0.5]), np.zeros(2)).tolist() == [0.5, 0.5]
