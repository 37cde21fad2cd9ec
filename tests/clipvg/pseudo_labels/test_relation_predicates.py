"""Predicates of geometry: by hand on few boxes, and what mirroring and swapping must do to any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UnknownName
from clipvg.pseudo_labels import predicates as p

SUBJECT = np.array([100.0, 100, 140, 140])


def score(name, subject, other):
    return float(p.GEOMETRY[name](np.array(subject, float), np.array(other, float)))


@pytest.mark.parametrize(
    ("name", "other", "expected"),
    [
        ("left of", (200, 100, 240, 140), 1.0),  # wholly beyond, level
        ("left of", (120, 100, 160, 140), 0.5),  # half of it beyond the edge
        ("left of", (200, 200, 240, 240), np.sqrt(0.5)),  # at 45 degrees
        ("left of", (0, 100, 40, 140), 0.0),
        ("right of", (0, 100, 40, 140), 1.0),
        ("above", (100, 200, 140, 240), 1.0),
        ("below", (100, 0, 140, 40), 1.0),
        ("below", (100, 200, 140, 240), 0.0),
        ("near", (140, 100, 180, 140), 1.0),  # touching
        ("near", (160, 100, 200, 140), 0.5),  # half a side apart
        ("near", (180, 100, 220, 140), 0.0),
        ("near", (90, 90, 150, 150), 0.0),  # inside it, not near it
        ("next to", (140, 120, 180, 160), 0.5),  # half of the height is shared
        ("next to", (100, 140, 140, 180), 0.0),  # touching, but under it
        ("on", (80, 130, 180, 200), 1.0),  # rests in a wide object, three quarters stick out
        ("on", (80, 140, 180, 200), 1.0),  # stands on its edge
        ("on", (80, 145, 180, 200), 0.5),  # hovers: half of a quarter of its height, which is allowed
        ("on", (80, 155, 180, 200), 0.0),
        ("on", (80, 90, 180, 200), 0.0),  # inside, nothing sticks out
        ("on", (120, 130, 220, 200), 0.5),  # half of it is over the object
        ("in", (80, 80, 160, 160), 0.75),  # wholly in four times its area
        ("in", (100, 100, 140, 140), 0.0),  # the same box
        ("in", (200, 200, 300, 300), 0.0),
        ("in front of", (100, 60, 140, 125), 1.0),  # overlap, and ends a quarter of their height lower
        ("in front of", (200, 60, 240, 125), 0.0),  # lower, but apart
        ("behind", (110, 110, 150, 200), 1.0),
        ("larger than", (0, 0, 20, 40), 0.5),  # twice the area
        ("smaller than", (0, 0, 120, 40), 1.0),
        ("larger than", (0, 0, 120, 40), 0.0),
    ],
)
def test_by_hand(name, other, expected):
    assert score(name, SUBJECT, other) == pytest.approx(expected, abs=1e-9)


side = st.integers(1, 200)
box = st.tuples(st.integers(0, 300), st.integers(0, 300), side, side).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@pytest.mark.slow
@given(box, box)
def test_mirrored_and_swapped(a, b):
    def mirrored(box):
        return (1000 - box[2], box[1], 1000 - box[0], box[3])

    def turned(box):
        return (box[1], box[0], box[3], box[2])

    left, right, above, below = "left of", "right of", "above", "below"
    assert score(left, a, b) == pytest.approx(score(right, mirrored(a), mirrored(b)))
    assert score(left, a, b) == pytest.approx(score(above, turned(a), turned(b)))
    assert score(right, a, b) == pytest.approx(score(below, turned(a), turned(b)))
    assert not (score(left, a, b) > 0 and score(right, a, b) > 0)
    assert score("behind", a, b) == score("in front of", b, a)
    assert score("near", a, b) == pytest.approx(score("near", b, a))
    for name in p.GEOMETRY:
        assert 0 <= score(name, a, b) <= 1 + 1e-12, name


@pytest.mark.slow
@given(st.lists(box, max_size=5))
def test_all_pairs_at_once(boxes):
    table = np.array(boxes, float).reshape(-1, 4)
    for name, predicate in p.GEOMETRY.items():
        scores = p.among(predicate, table)
        assert scores.shape == (len(boxes), len(boxes))
        for i, a in enumerate(boxes):
            for j, b in enumerate(boxes):
                assert scores[i, j] == pytest.approx(0 if i == j else score(name, a, b)), name


def test_nothing_of_empty_boxes_is_not_a_number():
    flat = (50, 50, 50, 80)
    assert all(np.isfinite(score(name, flat, SUBJECT)) for name in p.GEOMETRY)
    assert all(np.isfinite(score(name, SUBJECT, flat)) for name in p.GEOMETRY)


def test_wordings_of_one_meaning_go_together():
    assert p.meanings(["above", "left of", "over", "above"]) == {p.above: ("above", "over"), p.left: ("left of",)}
    with pytest.raises(UnknownName, match=r"'ridng'.*`looked`"):
        p.meanings(["ridng"])
