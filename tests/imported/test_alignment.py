"""Rows meet expressions by what the file says; what could be read in two ways is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench.datasets.split import Split
from bench.errors import DataError
from bench.grounding import Expression, Scene
from bench.imported.alignment import align
from bench.imported.box_files import BoxRow, BoxRows

BOX = (0.0, 0.0, 5.0, 5.0)


def split(*images):
    """Each image is the list of its expressions' ids."""
    scenes = tuple(
        Scene(f"p{n}", f"folder/p{n}.jpg", 10, 10, tuple(Expression(i, "x", BOX) for i in ids))
        for n, ids in enumerate(images)
    )
    return Split("mine-val", "Mine", scenes, SimpleNamespace())


def rows(*keys, by=None):
    """A box for each key; its left side is the position in the file, which tells where it went."""
    return boxes(*(BoxRow(str(key), by, (float(n), 0.0, 99.0, 99.0)) for n, key in enumerate(keys)))


def boxes(*rows):
    keys, by, places, images, scores = zip(*rows, strict=True)
    return BoxRows(keys, by, np.array(places), images, scores), 0


def went(aligned):
    return {key: int(box[0]) for key, box in zip(aligned.answers.ids, aligned.answers.boxes, strict=True)}


ROWS = split(["0", "2"], ["1", "3"])  # an index list whose second image came between
IDS = split(["a", "b"], ["c"])
NUMBERS = split(["501", "502"], ["733"])
LINES = split(["1", "3"], ["2"])


def test_ids():
    aligned = align(rows("c", "a"), IDS)
    assert went(aligned) == {"c": 0, "a": 1}
    assert (aligned.missing, aligned.extra, aligned.keyed_by) == (["b"], [], "id")
    assert aligned.answers.scenes == ["p0", "p1"] and aligned.answers.line.tolist() == [0, 1]


def test_ids_that_are_row_numbers_need_no_word():
    assert went(align(rows(0, 1, 2, 3), ROWS)) == {"0": 0, "1": 1, "2": 2, "3": 3}
    assert went(align(rows(0, 1, 2, 3, by="row"), ROWS)) == {"0": 0, "1": 1, "2": 2, "3": 3}
    assert went(align(rows(0, 1, 2, 3), ROWS, "row")) == {"0": 0, "1": 1, "2": 2, "3": 3}


def test_rows_count_in_scene_order_only_when_said():
    with pytest.raises(DataError, match=r"--key row.*--key id"):
        align(rows(0, 1, 2), NUMBERS)
    for aligned in (align(rows(0, 1, 2), NUMBERS, "row"), align(rows(0, 1, 2, by="row"), NUMBERS)):
        assert went(aligned) == {"501": 0, "502": 1, "733": 2} and aligned.in_scene_order
    assert not align(rows(0, 1, 2), ROWS, "row").in_scene_order


def test_lines_of_a_file_of_ones_own_count_in_their_own_order():
    aligned = align(rows(0, 1, 2), LINES, "row")
    assert went(aligned) == {"1": 0, "2": 1, "3": 2} and not aligned.in_scene_order
    with pytest.raises(DataError, match="look like row numbers"):
        align(rows(0, 1, 2), LINES)


def test_numbers_that_meet_by_accident_are_refused():
    with pytest.raises(DataError, match="1 of 4 keys are ids"):
        align(rows(500, 501, 9, 8), NUMBERS)
    assert align(rows(500, 501, 9, 8), NUMBERS, "id").extra == ["500", "9", "8"]


def test_missing_extra_and_twice():
    aligned = align(rows("a", "a", "zzz", "c"), IDS)
    assert went(aligned) == {"a": 0, "c": 3}
    assert (aligned.missing, aligned.extra, aligned.duplicates) == (["b"], ["zzz"], 1)


def test_rows_of_another_image_are_misses_and_listed():
    file = boxes(
        BoxRow("a", None, BOX, "elsewhere/p0.jpg"),  # another folder is no other image
        BoxRow("b", None, BOX, "p1.jpg"),
        BoxRow("c", None, BOX),
    )
    aligned = align(file, IDS)
    assert aligned.other_image == ["b"]
    assert aligned.answers.ids == ["a", "b", "c"] and aligned.missing == []
    assert np.isnan(aligned.answers.boxes).all(axis=1).tolist() == [False, True, False]
    assert aligned.answers.boxes[[0, 2]].tolist() == [list(BOX)] * 2
    assert list(aligned.notes) == [1] and "p1.jpg" in aligned.notes[1]
    scene = Scene("1", "COCO_train2014_000000581857.jpg", 9, 9, (Expression("0", "x", BOX),))
    coco = Split("x-val", "X", (scene,), SimpleNamespace())  # COCO's names are compared by number
    assert align(boxes(BoxRow("0", None, BOX, "000000581857.jpg")), coco).other_image == []


@pytest.mark.parametrize(("file", "data", "key", "message"), [
    (rows(1, 2, 3, 4), ROWS, "auto", r"count from 1.*subtract 1"),
    (rows("x", "y"), IDS, "auto", r"0 of 2 keys are ids of mine-val.*'x', 'y'.*'a', 'b', 'c'"),
    (rows(1, 2), IDS, "auto", r"0 of 2 keys.*--key row"),
    (rows(7, 8), NUMBERS, "row", r"rows of mine-val.*0 to 2"),
    (rows("a", by="id"), IDS, "row", "no 'row'; leave out --key row"),
    (boxes(BoxRow("a", "id", BOX), BoxRow("1", "row", BOX)), IDS, "auto", "some entries"),
    (
        boxes(BoxRow("a", None, BOX, "q1.jpg"), BoxRow("b", None, BOX, "q2.jpg")), IDS, "auto",
        r"every row names another image.*'a'.*q1\.jpg",
    ),
    *((rows(0, key), ROWS, "row", "not a row number") for key in ("-1", "one", "²", "1.0")),
])  # fmt: skip
def test_files_of_something_else_are_refused_with_examples(file, data, key, message):
    with pytest.raises(DataError, match=message):
        align(file, data, key)
