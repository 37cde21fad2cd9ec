"""The cells of a row, whatever format it comes in, and rows gathered into scenes."""

import numpy as np
import pytest

from bench.datasets.readers.rows import checked_box, checked_file, checked_row, checked_side, checked_text, gather
from bench.errors import DataError
from bench.grounding import Expression

FOUR = "a box should be 4 numbers"


@pytest.mark.parametrize(("box", "message"), [
    ([1, 2, 3], FOUR), ([1, 2, 3, "4"], FOUR), ([1, 2, 3, True], FOUR), (np.ones((4, 4)), FOUR), (None, FOUR),
    ("1 2 3 4", FOUR), ({"x1": 1}, FOUR), ([1, 2, 3, float("nan")], "NaN or infinity"),
    ([1, 2, float("inf"), 3], "NaN or infinity"), ([1, 2, 10**400, 3], "4 numbers .* not .*a number of 1,329 bits"),
    ([1, 2, 0, 3], "read as left, top, width, height, has width 0 and height 3"), ([1, 2, 3, -4], "height -4"),
])  # fmt: skip
def test_boxes_that_are_refused(box, message):
    with pytest.raises(DataError, match=f"f: row 2: .*{message}"):
        checked_box(box, "f: row 2", "xywh")


def test_boxes_stay_as_they_are():
    box = checked_box(np.array([1, 2, 3, 4], np.float32), "f", "xyxy")
    assert box == (1, 2, 3, 4) and all(type(side) is float for side in box)
    assert checked_box([0.1, 2, 0.2, 4], "f", "xywh") == (0.1, 2, 0.1 + 0.2, 6)
    with pytest.raises(DataError, match="has width -2"):
        checked_box([3, 2, 1, 4], "f", "xyxy")


@pytest.mark.parametrize(("text", "message"), [
    ("", "is empty"), (" \t\u00a0\n", "is empty"), ("\u200b\u200e", "is empty"), ("a \ud83d", "half a character"),
    (7, "should be text"), (None, "should be text"),
])  # fmt: skip
def test_texts_that_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        checked_text(text, "f")


@pytest.mark.parametrize("text", [
    "the 🐕‍🦺 next to the 👩🏽‍🚀", "الرجل الذي يرتدي قميصا أحمر", "האיש משמאל \u202b12\u202c", "左边的红色汽车",
    " ".join(f"word{n}" for n in range(500)), "line one\nline two", "?", "🐕", "\U000105c0 of a new script",
])  # fmt: skip
def test_any_language_and_length(text):
    assert checked_text(f"  {text}\n", "f") == text


@pytest.mark.parametrize(("name", "message"), [
    ("/etc/passwd", "leads out"), ("a/../../b.jpg", "leads out"), ("..", "leads out"), ("C:/b.jpg", "leads out"),
    ("a/", "leads out"), ("a\\b.jpg", "write folders with /"), (None, "should be text"), ("", "should be text"),
    ("a\0.jpg", "should be text"),
])  # fmt: skip
def test_file_names_that_are_refused(name, message):
    with pytest.raises(DataError, match=message):
        checked_file(name, "f", folders=True)


def test_folders_only_where_they_are_allowed():
    assert checked_file("a/b.jpg", "f", folders=True) == "a/b.jpg"
    with pytest.raises(DataError, match="without folders"):
        checked_file("a/b.jpg", "f")


@pytest.mark.parametrize("side", [0, -1, 1.5, "640", True, 1e7])
def test_sides_are_whole_numbers(side):
    with pytest.raises(DataError, match="width should be a whole number of pixels above 0"):
        checked_side(side, "f", "width")
    assert (checked_side(640.0, "f", "width"), checked_side(None, "f", "width")) == (640, None)


def row(file, name, width=None, height=None):
    return checked_row(file, Expression(name, "x", (0, 0, 1, 1)), width, height, "f", folders=True)


def test_rows_are_gathered_by_image():
    first, second = gather([row("a.jpg", "1"), row("b/a.jpg", "2"), row("a.jpg", "3", 10, 20)], "f")
    assert (first.file, first.width, first.height, [e.id for e in first.expressions]) == ("a.jpg", 10, 20, ["1", "3"])
    assert (first.id, second.id) == ("a.jpg", "b/a.jpg")  # both would be "a"
    with pytest.raises(DataError, match=r"f: expression 2 says that a\.jpg is 11 x 5 pixels, an earlier one 10 x 5"):
        gather([row("a.jpg", "1", 10, 5), row("a.jpg", "2", 11, 5)], "f")
    with pytest.raises(DataError, match="f: two expressions have the id '1'"):
        gather([row("a.jpg", "1"), row("b.jpg", "1")], "f")
    with pytest.raises(DataError, match="f: it holds no expressions"):
        gather([], "f")
