"""Labels of expressions: every script, every size, no label where a cut does not apply."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.annotations import annotations_of
from bench.evaluation.strata import MOST_KINDS, ORDER, in_order, strata
from bench.grounding import Expression, Scene

NO_SIZE = Scene("s", "s.jpg", None, None, ())


def labels(text="a", box=(0, 0, 10, 10), scene=Scene("s", "s.jpg", 100, 100, ()), **fields):  # noqa: B008
    known = annotations_of([replace(scene, expressions=(Expression("e", text, box, **fields),))])
    return {cut: label for cut, column in strata(known).items() for label in column.labels()}


LENGTHS = [
    (0, "0"), (1, "1-5"), (5, "1-5"), (6, "6-7"), (7, "6-7"), (8, "8-10"), (10, "8-10"), (11, "11+"), (500, "11+"),
]  # fmt: skip
SIDES = [
    (9.9, "<1%"), (10, "1-5%"), (22, "1-5%"), (23, "5-20%"), (44.7, "5-20%"), (45, ">=20%"), (100, ">=20%"),
    (0, "<1%"),
]  # fmt: skip


@pytest.mark.parametrize(("cut", "label", "fields"), [
    *(("length", label, {"text": " ".join(["ok"] * words)}) for words, label in LENGTHS),
    *(("box area", label, {"box": (0, 0, side, side)}) for side, label in SIDES),
    ("box area", None, {"scene": NO_SIZE}),
    *(("same category", label, {"same_category": n}) for n, label in [(1, "1"), (3, "3"), (4, "4+"), (17, "4+")]),
    ("same category", None, {}),
    ("kind", "relation", {"kind": "relation"}),
    ("kind", None, {}),
    ("people", "no", {"text": "the man in blue", "category": "surfboard"}),
    ("people", "yes", {"text": "the blue one", "category": "person"}),
])  # fmt: skip
def test_one_label(cut, label, fields):
    assert labels(**fields).get(cut) == label


@pytest.mark.parametrize(("text", "spatial", "people"), [
    ("Man on LEFT", "yes", "yes"),
    ("bright yellow topping", "no", "no"),  # neither right nor top is a word here
    ("man's hat", "no", "yes"),
    ("woman, bottom-right", "yes", "yes"),
    ("", "no", "no"),
    ("🐕 à gauche", "no", "no"),
    ("الرجل على اليسار", "no", "no"),
])  # fmt: skip
def test_words(text, spatial, people):
    assert (labels(text)["spatial words"], labels(text)["people"]) == (spatial, people)


@given(st.text(max_size=60), st.one_of(st.none(), st.text(max_size=9)), st.one_of(st.none(), st.integers(0, 99)))
def test_any_text_gets_known_labels(text, category, same):
    assert all(label in ORDER[cut] for cut, label in labels(text, category=category, same_category=same).items())


def test_tables_are_in_order_and_not_endless():
    counts = {f"k{n:03}": 1 for n in range(100)} | {"zebra": 5}
    order = in_order({"people": {"no": 1, "yes": 2}, "length": {"11+": 1, "1-5": 9}, "kind": counts})
    kinds = order.pop("kind")
    assert list(order.items()) == [("length", ["1-5", "11+"]), ("people", ["yes", "no"])]
    assert len(kinds) == MOST_KINDS and kinds[-1] == "zebra"
