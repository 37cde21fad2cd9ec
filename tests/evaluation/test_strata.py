"""Labels of expressions: every script, every size, nothing where nothing is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.evaluation.strata import MOST_KINDS, ORDER, in_order, length_label, strata
from bench.grounding import Expression, Scene

SCENE = Scene("s", "s.jpg", 100, 100, ())


def labels(text="a", box=(0, 0, 10, 10), scene=SCENE, **fields):
    return strata(Expression("e", text, box, **fields), scene)


@pytest.mark.parametrize(
    ("words", "label"),
    [(0, "0"), (1, "1-5"), (5, "1-5"), (6, "6-7"), (7, "6-7"), (8, "8-10"), (10, "8-10"), (11, "11+"), (500, "11+")],
)
def test_length_buckets(words, label):
    assert length_label(" ".join(["ok"] * words)) == label


@pytest.mark.parametrize(
    ("side", "label"),
    [
        (9.9, "<1%"),
        (10, "1-5%"),
        (22, "1-5%"),
        (23, "5-20%"),
        (44.7, "5-20%"),
        (45, ">=20%"),
        (100, ">=20%"),
        (0, "<1%"),
    ],
)
def test_box_area_is_a_part_of_the_image(side, label):
    assert labels(box=(0, 0, side, side))["box area"] == label


def test_no_area_without_a_size():
    assert "box area" not in labels(scene=Scene("s", "s.jpg", None, None, ()))


@pytest.mark.parametrize(
    ("text", "spatial", "people"),
    [
        ("Man on LEFT", "yes", "yes"),
        ("the red apple", "no", "no"),
        ("bright yellow topping", "no", "no"),  # neither right nor top is a word here
        ("man's hat", "no", "yes"),
        ("woman, bottom-right", "yes", "yes"),
        ("", "no", "no"),
        ("🐕 à gauche", "no", "no"),
        ("الرجل على اليسار", "no", "no"),
    ],
)
def test_words(text, spatial, people):
    found = labels(text)
    assert (found["spatial words"], found["people"]) == (spatial, people)


def test_a_known_category_decides_about_people():
    assert labels("the man in blue", category="surfboard")["people"] == "no"
    assert labels("the blue one", category="person")["people"] == "yes"


@pytest.mark.parametrize(("count", "label"), [(1, "1"), (3, "3"), (4, "4+"), (17, "4+")])
def test_objects_of_the_same_category(count, label):
    assert labels(same_category=count)["same category"] == label


def test_unknown_is_no_label():
    assert labels().keys() == {"length", "spatial words", "people", "box area"}
    assert labels(kind="relation")["kind"] == "relation"


@given(st.text(max_size=60), st.one_of(st.none(), st.text(max_size=9)), st.one_of(st.none(), st.integers(0, 99)))
def test_any_text_gets_known_labels(text, category, same):
    found = labels(text, category=category, same_category=same)
    assert all(label in ORDER[cut] for cut, label in found.items())


def test_tables_are_in_order_and_not_endless():
    counts = {f"k{n:03}": 1 for n in range(100)} | {"zebra": 5}
    order = in_order({"people": {"no": 1, "yes": 2}, "length": {"11+": 1, "1-5": 9}, "kind": counts})
    assert list(order) == ["kind", "length", "people"]
    assert order["length"] == ["1-5", "11+"]
    assert order["people"] == ["yes", "no"]
    assert len(order["kind"]) == MOST_KINDS
    assert order["kind"][-1] == "zebra"
