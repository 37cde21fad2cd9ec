"""The arrangement of boxes, by hand: two, three and four of a class, garments in and out, the edges of every rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvg.pseudo_labels.arrangement import across, depth, large_enough, spatial_words, upright, without_overlaps, worn
from pipelines.two_stage.language.relations import share_inside

MIDDLE = ("middle", "center")


def boxes(*rows):
    return np.array(rows, float).reshape(-1, 4)


def at(*centres, half=10.0):
    """Boxes of one size around centres (x, y)."""
    return boxes(*((x - half, y - half, x + half, y + half) for x, y in centres))


def test_a_sixty_fourth_of_the_image_is_large_enough():
    some = boxes((0, 0, 80, 60), (0, 0, 79.9, 60), (100, 100, 100, 200))
    assert large_enough(some, (640, 480), 1 / 64).tolist() == [True, False, False]


TWO = [(0, 0, 100, 100), (0, 0, 100, 90), (200, 0, 300, 100)]
HALF, CHAIN = [(0, 0, 100, 100), (0, 0, 100, 40)], [(0, 0, 100, 100), (40, 0, 140, 100), (80, 0, 180, 100)]


@pytest.mark.parametrize(
    ("rows", "confidences", "most", "kept"),
    [pytest.param(TWO, [0.5, 0.9, 0.1], 0.4, [False, True, True], id="of two the more confident"),
     pytest.param(TWO[::-1], [0.1, 0.9, 0.5], 0.4, [True, True, False], id="in any order"),
     pytest.param(HALF, [0.9, 0.5], 0.4, [True, True], id="just the limit is none"),
     pytest.param(HALF, [0.5, 0.5], 0.39, [True, False], id="of equals the first"),
     pytest.param(CHAIN, [0.9, 0.8, 0.7], 0.4, [True, False, False], id="it falls to one that falls itself"),
     pytest.param([], [], 0.4, [], id="nothing")],
)  # fmt: skip
def test_overlaps(rows, confidences, most, kept):
    assert without_overlaps(boxes(*rows), np.array(confidences), most).tolist() == kept


def test_the_share_of_one_box_inside_another():
    inner, outer = boxes((0, 0, 10, 10), (5, 5, 5, 9)), boxes((0, 0, 5, 10), (20, 20, 30, 30), (-5, -5, 50, 50))
    assert share_inside(inner, outer).tolist() == [[0.5, 0.0, 1.0], [0.0, 0.0, 0.0]]


PERSON = (100.0, 0.0, 200.0, 400.0)


@pytest.mark.parametrize(
    ("garment", "kind", "is_worn"),
    [
        ((110, 50, 190, 350), "shirt", True),
        ((25, 50, 125, 60), "shirt", False),
        ((175, 50, 275, 60), "shirt", False),
        ((124, 50, 224, 60), "shirt", True),  # 76 % inside
        ((125, 50, 225, 60), "shirt", False),  # 75 %, which is not more than 75 %
        ((130, 80, 170, 119), "hat", True),
        ((130, 80, 170, 120), "hat", False),  # its centre at just a quarter of the height
        ((130, 250, 170, 300), "hat", False),
        ((110, 180, 190, 221), "pants", True),
        ((110, 180, 190, 220), "pants", False),  # its centre at just half
        ((110, 20, 190, 90), "pants", False),
        ((110, 20, 190, 90), "shoes", True),
        ((110, 380, 150, 400), "shoes", True),
        ((300, 380, 350, 400), "shoes", False),
    ],
)
def test_who_wears_what(garment, kind, is_worn):
    assert worn(boxes(garment), [kind], boxes(PERSON), 0.75).tolist() == [[is_worn]]


def test_a_garment_can_be_that_of_several_people_and_people_can_be_absent():
    people = boxes(PERSON, (90, 0, 210, 420), (400, 0, 500, 400))
    assert worn(boxes((120, 100, 180, 200)), ["shirt"], people, 0.75).tolist() == [[True, True, False]]
    assert worn(boxes((120, 100, 180, 200)), ["shirt"], boxes(), 0.75).shape == (1, 0)
    assert worn(boxes(), [], people, 0.75).shape == (0, 3)


def test_nothing_is_left_of_itself():
    assert spatial_words(at((20, 20)), (640, 480), 50) == [()]
    assert spatial_words(boxes(), (640, 480), 50) == []


@pytest.mark.parametrize(
    ("centres", "spread", "words"),
    [
        pytest.param([100, 150], 50, [(), ()], id="not far enough apart"),
        pytest.param([100, 151], 50, [("left",), ("right",)], id="far enough"),
        pytest.param([600, 500], 50, [("right",), ("left",)], id="in any order"),
        pytest.param([100, 151], 60, [(), ()], id="another spread"),
        pytest.param([500, 10, 20], 50, [("right",), ("left",), MIDDLE], id="the third of three, wherever it is"),
        pytest.param(
            [10, 159, 160, 480, 481, 630], 50,
            [("left",), ("left",), MIDDLE, MIDDLE, ("right",), ("right",)], id="of more by quarters",
        ),
    ],
)  # fmt: skip
def test_left_and_right(centres, spread, words):
    assert across(np.array(centres, float), 640, spread) == words


def test_the_outermost_are_top_and_bottom_and_others_go_by_quarters():
    assert upright(np.array([200.0, 250.0]), 120, 360, 50) == [(), ()]
    assert upright(np.array([200.0, 251.0]), 120, 360, 50) == [("top",), ("bottom",)]
    centres = np.array([400.0, 100.0, 119.0, 120.0, 360.0, 361.0])
    assert upright(centres, 120, 360, 50) == [("bottom",), ("top",), ("top",), (), (), ("bottom",)]


def test_the_official_top_is_a_quarter_of_the_width():
    some = at((100, 10), (100, 140), (100, 400))
    assert spatial_words(some, (640, 480), 50) == [("top",), (), ("bottom",)]
    assert spatial_words(some, (640, 480), 50, official=True) == [("top",), ("top",), ("bottom",)]
    low = at((100, 10), (100, 100), (100, 470))
    assert spatial_words(low, (320, 480), 50)[1] == ("top",)
    assert spatial_words(low, (320, 480), 50, official=True)[1] == ()


def test_small_is_behind_and_large_in_front():
    assert depth(np.array([40.0, 100.0])) == [(), ()]
    assert depth(np.array([39.0, 100.0])) == [("behind",), ("front",)]
    assert depth(np.array([100.0, 20.0, 90.0])) == [("front",), ("behind",), ()]
    areas = np.array([100.0, 10.0, 39.0, 40.0, 80.0, 81.0])
    assert depth(areas) == [("front",), ("behind",), ("behind",), (), (), ("front",)]


def test_all_words_of_an_object_come_in_one_row():
    some = boxes((0, 0, 20, 20), (500, 300, 620, 420))
    assert spatial_words(some, (640, 480), 50) == [("left", "top", "behind"), ("right", "bottom", "front")]


CENTRES = st.lists(
    st.tuples(st.integers(1, 639), st.integers(1, 479), st.integers(2, 100)), min_size=2, max_size=9, unique=True
)


def distinct(rows):
    """Boxes around centres, none of whose x, y or areas are equal: of equals the first counts."""
    kept = [r for i, r in enumerate(rows) if not any(r[a] == other[a] for other in rows[:i] for a in range(3))]
    return boxes(*((x - s, y - s, x + s, y + s) for x, y, s in kept))


def swapped(words, one, other):
    swap = {one: other, other: one}
    return [tuple(swap.get(word, word) for word in of) for of in words]


@given(CENTRES, st.randoms(use_true_random=False))
def test_mirrors_swap_their_words_and_nothing_else_and_order_does_not_matter(rows, random):
    some = distinct(rows)
    words = spatial_words(some, (640, 480), 50)
    for side, axis, (one, other) in ((640, 0, ("left", "right")), (480, 1, ("top", "bottom"))):
        mirrored = some.copy()
        mirrored[:, [axis, axis + 2]] = side - some[:, [axis + 2, axis]]
        assert spatial_words(mirrored, (640, 480), 50) == swapped(words, one, other)
        assert not any({one, other} <= set(of) or len(set(of)) < len(of) for of in words)
    order = list(range(len(some)))
    random.shuffle(order)
    assert spatial_words(some[order], (640, 480), 50) == [words[i] for i in order]
