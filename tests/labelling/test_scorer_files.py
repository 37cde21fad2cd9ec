"""The official scorer's files: written and read back to the last digit, and bad ones named by their row."""

import math
import pickle

import pytest
import torch

from bench.boxes import box_cxcywh_to_xyxy, clip_xyxy, iou_elementwise
from bench.datasets.pickles import load_index_list
from bench.datasets.readers.index_lists import read_index_list
from bench.errors import DataError, UnsafePickle, UsageError
from bench.grounding import Expression, Scene
from bench.labelling.scorer_files import list_rows, read_iou_result, write_reliability_lists

PLACEHOLDER = "useless placeholder"
FILES = ["COCO_train2014_000000000716.jpg", "COCO_train2014_000000000154.jpg"]
IOUS = [0.0, 0.05, 0.1, 0.35, 0.4, 0.5, 0.95, 1.0]


def labels(folder, boxes=None):
    """Eight rows about two images, turn by turn; boxes x, y, width, height with numbers that sums lose."""
    boxes = boxes or [[407.6 + n, 133.24, 226.67, 190.33 - n / 7] for n in range(8)]
    rows = [[FILES[n % 2], PLACEHOLDER, box, f"The Man {n}", PLACEHOLDER] for n, box in enumerate(boxes)]
    torch.save(rows, folder / "unc_train_pseudo.pth")
    return folder / "unc_train_pseudo.pth"


def scored(rows, ious=IOUS, box=(1.0, 2.0, 3.0, 4.0)):
    return {str(n): (iou, box if iou else None) for n, iou in zip(range(len(rows)), ious, strict=True)}


@pytest.fixture
def written(tmp_path):
    path = labels(tmp_path)
    rows = list_rows(path, read_index_list(path, "unc"), "refcoco")
    files = write_reliability_lists(tmp_path / "out", "refcoco", rows, scored(rows), {"716": (640, 480)})
    return rows, {file.name.removeprefix("unc_train_pseudo_").removesuffix(".pth"): file for file in files}


def test_the_names_and_the_thresholds_are_the_official_ones(written):
    _, files = written
    sizes = {name: len(load_index_list(file)) for name, file in files.items() if name != "iou_result"}
    above = {f"refine_0_{h}": sum(iou > h / 10 for iou in IOUS) for h in range(10)}
    assert sizes == above | {"refine_1_0": 1, "bad_label_0_0": 1, "bad_label_0_4": 4}
    assert sizes["refine_0_1"] == 5 and sizes["refine_0_5"] == 2  # 0.1 and 0.5 themselves are left out


def test_kept_rows_are_the_rows_that_came(tmp_path, written):
    _, files = written
    came = load_index_list(tmp_path / "unc_train_pseudo.pth")
    kept = load_index_list(files["refine_0_0"])
    assert [(row[0], row[2]) for row in kept] == [(row[0], row[2]) for row in came[1:]]  # order and digits
    assert kept[0] == (FILES[1], PLACEHOLDER, came[1][2], "the man 1", PLACEHOLDER)
    scenes = read_index_list(files["refine_0_5"], "refcoco")
    assert [e.text for scene in scenes for e in scene.expressions] == ["the man 6", "the man 7"]
    before = {
        e.text.lower(): e.box for s in read_index_list(tmp_path / "unc_train_pseudo.pth", "unc") for e in s.expressions
    }
    assert all(e.box == before[e.text] for scene in scenes for e in scene.expressions)
    assert [(row[3], row[5]) for row in load_index_list(files["bad_label_0_4"])] == [
        ("the man 0", 0.0), ("the man 1", 0.05), ("the man 2", 0.1), ("the man 3", 0.35),
    ]  # fmt: skip


def test_every_row_with_its_iou_comes_back(written):
    rows, files = written
    back = read_iou_result(files["iou_result"])
    assert [(*row[:3], row[5]) for row in back] == [
        (scene.file, box, phrase, iou) for (_, scene, box, _, phrase), iou in zip(rows, IOUS, strict=True)
    ]
    truths, predictions = ([row[column] for row in back] for column in (3, 4))
    assert predictions[0] is None and predictions[2] is not None
    # 640 x 480 in a square of 640: eighty pixels of padding above and below.
    x, y, w, h = predictions[2]
    assert (x * 640, y * 640 - 80, w * 640, h * 640) == pytest.approx((2, 3, 2, 2), abs=1e-4)
    assert truths[1] is None  # an image of unknown size
    assert truths[0] == pytest.approx((0.8140, 0.4819, 0.3542, 0.2974), abs=1e-4)


def test_the_tensors_give_the_iou_that_is_written(tmp_path):
    box, predicted = (10.0, 20.0, 110.0, 90.0), (30.0, 25.0, 130.0, 100.0)
    scene = Scene("s", "s.jpg", 200, 100, (Expression("a", "it", box),))
    rows = list_rows(tmp_path / "x.jsonl", [scene], "refcoco")
    iou = float(iou_elementwise(clip_xyxy(predicted, 200, 100), box))
    *_, path = write_reliability_lists(tmp_path, "refcoco", rows, {"a": (iou, predicted)}, {})
    (row,) = read_iou_result(path)
    assert float(iou_elementwise(*map(box_cxcywh_to_xyxy, row[3:5]))) == pytest.approx(iou, abs=1e-6)
    assert row[1] == (10.0, 20.0, 100.0, 70.0)


@pytest.mark.parametrize(("dataset", "stem", "columns"), [("referit", "referit", 5), ("flickr30k", "flickr", 3)])
def test_corners_and_three_columns(tmp_path, dataset, stem, columns):
    scene = Scene("s", "s.jpg", 200, 100, (Expression("a", "It", (10.5, 20.0, 110.0, 90.0)),))
    rows = list_rows(tmp_path / "x.jsonl", [scene], dataset)
    write_reliability_lists(tmp_path, dataset, rows, {"a": (0.3, None)}, {})
    (row,) = load_index_list(tmp_path / f"{stem}_train_pseudo_refine_0_2.pth")
    assert len(row) == columns
    (bad,) = load_index_list(tmp_path / f"{stem}_train_pseudo_bad_label_0_4.pth")
    assert bad == ("s.jpg", PLACEHOLDER, [10.5, 20.0, 110.0, 90.0], "it", PLACEHOLDER, 0.3)
    (back,) = read_index_list(tmp_path / f"{stem}_train_pseudo_refine_0_2.pth", dataset)
    assert back.expressions[0].box == (10.5, 20.0, 110.0, 90.0)
    with pytest.raises(UsageError, match="official lists"):
        list_rows(tmp_path / "x.jsonl", [], "file")


def result(folder, *rows):
    torch.save(list(rows), folder / "r.pth")
    return folder / "r.pth"


GOOD = [FILES[0], PLACEHOLDER, [1.0, 2, 3, 4], "man", torch.zeros(4), torch.ones(4), 0.5]


def test_an_official_result_is_read(tmp_path):
    path = result(tmp_path, GOOD, [*GOOD[:6], 1.0000001], [*GOOD[:5], torch.full((4,), math.nan), 0])
    assert read_iou_result(path) == [
        (FILES[0], (1, 2, 3, 4), "man", (0, 0, 0, 0), (1, 1, 1, 1), 0.5),
        (FILES[0], (1, 2, 3, 4), "man", (0, 0, 0, 0), (1, 1, 1, 1), 1.0),
        (FILES[0], (1, 2, 3, 4), "man", (0, 0, 0, 0), None, 0.0),
    ]


@pytest.mark.parametrize(("row", "message"), [
    (GOOD[:5], "row 1: an iou_result file has 7 columns, and here is 5 columns"),
    (7, "row 1: .* here is a int"),
    ([*GOOD[:6], 1.5], "row 1: the IoU in the last column .* not 1.5"),
    ([*GOOD[:6], True], "row 1: the IoU"),
    ([*GOOD[:5], torch.zeros(3), 0.5], "row 1: the scorer's box should be 4 numbers"),
    ([*GOOD[:4], None, *GOOD[5:]], "row 1: the row's box should be 4 numbers, not None"),
    ([*GOOD[:2], [1, 2, 3, "4"], *GOOD[3:]], "row 1: the box should be 4 numbers"),
    ([*GOOD[:3], " ", *GOOD[4:]], "row 1: the expression is empty"),
    (["../x.jpg", *GOOD[1:]], "row 1: .*without folders"),
])  # fmt: skip
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=rf"r\.pth: {message}"):
        read_iou_result(result(tmp_path, GOOD, row))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text", None])
def test_broken_files(tmp_path, content):
    if content is not None:
        (tmp_path / "r.pth").write_bytes(content)
    with pytest.raises(DataError, match=r"r\.pth"):
        read_iou_result(tmp_path / "r.pth")


def test_files_that_hold_something_else(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        read_iou_result(result(tmp_path))
    torch.save({"model": 1}, tmp_path / "r.pth")
    with pytest.raises(DataError, match="this holds a dict"):
        read_iou_result(tmp_path / "r.pth")
    (tmp_path / "r.pth").write_bytes(pickle.dumps(exit, 2))
    with pytest.raises(UnsafePickle, match="nothing in it was executed"):
        read_iou_result(tmp_path / "r.pth")
