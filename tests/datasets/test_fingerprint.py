"""The fingerprint knows content and nothing else; `difference` says what differs, with numbers."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.fingerprint import difference, fingerprint, image_key
from bench.grounding import Expression, Scene


def scene(file: str, *expressions: tuple[str, tuple[float, float, float, float]]) -> Scene:
    return Scene(file, file, None, None, tuple(Expression(f"{file}{n}", t, b) for n, (t, b) in enumerate(expressions)))


def changed(scenes, change):
    """The scenes with `change` applied to every expression."""
    return [replace(s, expressions=tuple(change(e) for e in s.expressions)) for s in scenes]


TWO = ("man on right", (407.6, 133.24, 634.27, 323.57)), ("cup", (1.5, 2.25, 30.75, 41))
A = [scene("COCO_train2014_000000000716.jpg", *TWO), scene("9739.jpg", ("right black bag", (322, 303, 359, 372)))]


@pytest.mark.parametrize("file, key", [
    ("COCO_train2014_000000581857.jpg", "581857"), ("COCO_val2014_000000581857.jpg", "581857"),
    ("000000581857.jpg", "581857"), ("COCO_train2014_000000581857_16.jpg", "581857"),
    ("train2017/000000581857.png", "581857"), ("000000000000.jpg", "0"), ("1000092795.jpg", "1000092795"),
    ("a.b.jpg", "a.b"), ("noending", "noending"), (".jpg", ".jpg"), ("street\\0001.jpg", "0001"),
    ("COCO_train2014_00000058.jpg", "COCO_train2014_00000058"),
])  # fmt: skip
def test_image_key(file, key):
    assert image_key(file) == key


def test_the_fingerprint_is_what_the_module_says():
    lines = [
        "716\tcup\t150 225 3075 4100",
        "716\tman on right\t40760 13324 63427 32357",
        "9739\tright black bag\t32200 30300 35900 37200",
    ]
    assert fingerprint(A) == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_what_refers_to_nothing_has_an_empty_box():
    nothing = [scene("9739.jpg", ("cup", (math.nan,) * 4), ("bag", (322, 303, 359, 372)))]
    lines = ["9739\tbag\t32200 30300 35900 37200", "9739\tcup\t"]
    assert fingerprint(nothing) == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    something = [scene("9739.jpg", ("cup", (1, 2, 3, 4)), ("bag", (322, 303, 359, 372)))]
    assert difference(nothing, something) == ["1 expression without a target in the first or in the second alone"]


@given(seed=st.integers(0, 1000))
def test_order_names_of_files_ids_and_sizes_have_no_part_in_it(seed):
    rng = random.Random(seed)
    other = [
        replace(
            s, file=s.file.replace("COCO_train2014_", ""), width=rng.randint(1, 9),
            expressions=tuple(rng.sample(s.expressions, len(s.expressions))),
        )
        for s in rng.sample(A, len(A))
    ]  # fmt: skip
    other = changed(other, lambda e: replace(e, id=str(rng.random()), text=f"  {e.text.upper()} ".replace(" ", "\t ")))
    assert fingerprint(other) == fingerprint(A) and difference(A, other) == []
    forms = [[scene("1.jpg", (text, (y, -y, 5, 5)))] for text, y in (("café", -0.0), ("cafe\u0301", 0.001))]
    assert fingerprint(forms[0]) == fingerprint(forms[1])  # of Unicode, and minus zero


@pytest.mark.parametrize("change", [
    lambda e: replace(e, text=e.text + "s"),
    lambda e: replace(e, box=(e.box[0] + 0.01, *e.box[1:])),
    lambda e: replace(e, also=((1, 2, 3, 4),)),
])  # fmt: skip
def test_text_box_and_further_boxes_do(change):
    other = changed(A, change)
    assert fingerprint(other) != fingerprint(A) and difference(A, other)


def test_an_expression_that_is_there_twice_counts_twice():
    twice = [replace(A[0], expressions=A[0].expressions * 2), A[1]]
    assert fingerprint(twice) != fingerprint(A)
    assert difference(A, twice) == ["2 expressions only in the second: 'cup' (image 716), 'man on right' (image 716)"]


@pytest.mark.parametrize("change, end", [
    (np.trunc, "the boxes of the list are those of the folder cut to integers"),
    (np.rint, "the boxes of the list are those of the folder rounded to integers"),
    (lambda b: b - 1, "the boxes of the list are those of the folder moved by one pixel up and to the left"),
    (lambda b: b + 1, "the boxes of the folder are those of the list moved by one pixel up and to the left"),
    (lambda b: np.array([*b[:2], *(b[2:] - b[:2])]), "with width and height taken for the right and bottom corner"),
    (
        lambda b: b + np.array([0, b[3] / 90, 0, 0]),
        "same image and text: largest deviation 4.13 px, median 3.60 px",
    ),
])  # fmt: skip
def test_boxes_that_differ_are_explained(change, end):
    other = changed(A, lambda e: replace(e, box=tuple(change(np.array(e.box)).tolist())))
    (sentence,) = difference(A, other, ("the folder", "the list"))
    assert "expressions with another box for the same image and text" in sentence and sentence.endswith(end)


def test_images_and_expressions_of_one_only():
    names = ("the index", "the folder")
    assert difference(A, A[:1], names) == ["1 image with 1 expression only in the index, not in the folder: 9739"]
    assert difference(A[:1], A)[0].startswith("1 image with 1 expression only in the second")
    assert difference(A, [scene(A[0].file, ("man on the right", A[0].expressions[0].box)), A[1]]) == [
        "1 expression with another text on the same box: 'man on right' / 'man on the right' (image 716)",
        "1 expression only in the first: 'cup' (image 716)",
    ]
