"""Index lists in every layout, made on the spot, and the four real ones where they are at hand."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.datasets.readers.index_lists import read_index_list
from bench.errors import DataError, UnknownName, UnsafePickle
from bench.settings import PROJECT

COCO = "COCO_train2014_000000000716.jpg"
ATTRIBUTES = [("r1", ["man"]), ("r8", ["none"])]


def saved(folder: Path, *rows: object) -> Path:
    (folder / "l.pth").write_bytes(pickle.dumps(list(rows), 2))
    return folder / "l.pth"


def expressions(path: Path, *args: str):
    return [e for scene in read_index_list(path, *args) for e in scene.expressions]


def test_labelled_rows(tmp_path):
    path = saved(
        tmp_path,
        (COCO, "225429.pth", [407.6, 133.24, 226.67, 190.33], "man on right", ATTRIBUTES),
        ("COCO_train2014_000000000154.jpg", "9.pth", [1, 2, 3, 4], "zebra", ATTRIBUTES),
        (COCO, "234014.pth", [464.32, 303.49, 174.53, 176.51], " person  in corner ", ATTRIBUTES),
    )
    scenes = read_index_list(path, "refcoco")
    assert [(s.id, s.file, s.width) for s in scenes] == [("716", COCO, None), ("154", scenes[1].file, None)]
    first, second = scenes[0].expressions
    assert (first.id, second.id, scenes[1].expressions[0].id) == ("0", "2", "1")  # the row numbers
    assert (first.ref_id, second.ref_id) == ("225429", "234014")
    assert first.box == (407.6, 133.24, 407.6 + 226.67, 133.24 + 190.33)
    assert second.text == "person  in corner"


@pytest.mark.parametrize("dataset", ["unc", "unc+", "gref", "gref_umd", "refcoco+", "refcocog", "refcocog-google"])
def test_coco_boxes_are_xywh(tmp_path, dataset):
    path = saved(tmp_path, (COCO, "1.pth", [10, 20, 5, 6], "man", ATTRIBUTES))
    assert expressions(path, dataset)[0].box == (10, 20, 15, 26)
    with pytest.raises(DataError, match=r"row 0: .* read as left, top, right, bottom, has width -5"):
        read_index_list(path, dataset, "xyxy")


def test_referit_and_flickr_boxes_are_corners(tmp_path):
    path = saved(tmp_path, ("9739.jpg", "9739_7.pth", [322, 303, 359, 372], "right black bag", ATTRIBUTES))
    (one,) = expressions(path, "referit")
    assert (one.box, one.ref_id) == ((322, 303, 359, 372), "9739_7")
    assert expressions(path, "referit", "xywh")[0].box == (322, 303, 681, 675)
    path = saved(tmp_path, ("10.jpg", np.array([53, 45, 110, 203], np.float32), "man"))
    for dataset in ("flickr", "flickr30k"):
        (one,) = expressions(path, dataset)
        assert (one.box, one.ref_id, one.text) == ((53, 45, 110, 203), None, "man")
        assert all(type(v) is float for v in one.box)


def test_lists_of_pseudo_labels_hivg_and_oneref(tmp_path):
    path = saved(tmp_path, [COCO, "useless placeholder", [1.0, 2.0, 3.0, 4.0], "left man", "useless placeholder"])
    assert expressions(path, "unc")[0].ref_id is None
    path = saved(
        tmp_path, [COCO, {"height": 480, "width": 640}, [1.0, 2.0, 3.0, 4.0], "man", [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]]
    )
    (first,) = read_index_list(path, "unc")
    assert (first.width, first.height, first.expressions[0].ref_id) == (640, 480, None)
    path = saved(tmp_path, ["10.jpg", "flickr", [10, 20, 5, 6], "dog", [[]]])
    assert expressions(path, "flickr")[0].box == (10, 20, 15, 26)  # mixed lists are xywh throughout


GOOD = [COCO, "1.pth", [1, 2, 3, 4], "man", ATTRIBUTES]
BAD_ROWS = {
    "four columns": ([COCO, [1, 2, 3, 4], "man", "x"], "it has 4 columns"),
    "no width": ([COCO, "1.pth", [1, 2, 0, 3], "man", []], "has width 0 and height 3"),
    "folder": (["train2014/" + COCO, "1.pth", [1, 2, 3, 4], "man", []], "without folders"),
    "size of text": ([COCO, {"height": 480, "width": "640"}, [1, 2, 3, 4], "man", []], "width should be a whole"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_wrong_row_is_named(tmp_path, name):
    row, message = BAD_ROWS[name]
    with pytest.raises(DataError, match=rf"l\.pth: row 2: .*{message}"):
        read_index_list(saved(tmp_path, GOOD, GOOD, row), "unc")


def test_other_refusals(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'unc'"):
        read_index_list(saved(tmp_path, GOOD), "uncc")
    assert read_index_list(saved(tmp_path, GOOD), "my-own", "xywh")
    (tmp_path / "l.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafePickle, match=r"os\.system"):
        read_index_list(tmp_path / "l.pth", "unc")


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "dataset", "n", "repeated", "ambiguous"), [
    ("unc_val", "refcoco", 10_834, 566, 8),
    ("unc_testA", "refcoco", 5_657, 308, 2),
    ("unc_testB", "refcoco", 5_095, 301, 28),
    ("unc+_val", "refcoco+", 10_758, 662, 9),
    ("unc+_testA", "refcoco+", 5_726, 453, 4),
    ("unc+_testB", "refcoco+", 4_889, 225, 16),
    ("gref_umd_val", "refcocog", 4_896, 7, 0),
    ("referit_val", "referit", 5_842, 140, 8),
    ("flickr_val", "flickr30k", 14_433, 3_566, 470),
    ("flickr_test", "flickr30k", 14_481, 3_820, 464),
])  # fmt: skip
def test_repeats_and_ambiguous_texts_are_those_of_the_page(real, stem, dataset, n, repeated, ambiguous):
    """docs/datasets.md has these counts: same text and box as an earlier one; same text, another box in the image."""
    scenes = read_index_list(real / "index" / f"{stem}.pth", dataset)
    every = [(scene.id, each.text, each.box) for scene in scenes for each in scene.expressions]
    boxes = Counter((scene, text) for scene, text, _ in set(every))
    assert (len(every), len(every) - len(set(every))) == (n, repeated)
    assert sum(boxes[scene, text] > 1 for scene, text, _ in every) == ambiguous
    page = (PROJECT / "docs" / "datasets.md").read_text()
    assert f"{100 * repeated / n:.1f} %" in page
