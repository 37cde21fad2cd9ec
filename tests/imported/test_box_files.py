"""Files of boxes: every layout that is read, and every value that is refused by its key."""

import json

import pytest

from bench.errors import DataError
from bench.imported.box_files import BoxRow, read_boxes

BOX = [1, 2, 3.5, 4]
READ = (1.0, 2.0, 3.5, 4.0)


@pytest.fixture
def stored(tmp_path):
    def store(content, name="boxes.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return store


def rows_of(path, xywh=False):
    return tuple(read_boxes(path, xywh)[0])


def test_an_object_of_boxes(stored):
    assert rows_of(stored({"0": BOX, "1": None})) == (BoxRow("0", None, READ), BoxRow("1", None, None))


@pytest.mark.parametrize("name", ["pred_bbox", "pred_box", "box", "bbox", "box_xyxy"])
def test_an_object_of_objects(stored, name):
    entry = {name: BOX, "image_name": "a.jpg", "iou": 0.4, "score": 0.5}
    assert rows_of(stored({"7": entry})) == (BoxRow("7", None, READ, "a.jpg", 0.5),)


def test_a_list_and_lines_of_objects(stored):
    entries = [{"id": "a", "box": BOX}, {"id": 5, "box": None, "file_name": "b.jpg"}]
    expected = (BoxRow("a", "id", READ), BoxRow("5", "id", None, "b.jpg"))
    lines = "\n".join(map(json.dumps, entries))
    assert rows_of(stored(entries)) == expected
    assert rows_of(stored(lines + "\n\n", "boxes.jsonl")) == expected
    assert rows_of(stored(lines, "boxes.json")) == expected  # JSON Lines under another name
    assert rows_of(stored("\ufeff" + lines, "boxes.jsonl")) == expected  # as some Windows programs write


def test_both_an_id_and_a_row(stored):
    path = stored([{"id": "a", "row": 3, "box": BOX}])
    assert read_boxes(path)[0][0].key == "a"
    assert read_boxes(path, prefer="row")[0][0] == BoxRow("3", "row", READ)


def test_the_first_of_two_equal_keys_is_kept_and_counted(stored):
    rows, doubled = read_boxes(stored('{"0": [1, 2, 3.5, 4], "1": null, "0": [0, 0, 9, 9]}'))
    assert tuple(rows) == (BoxRow("0", None, READ), BoxRow("1", None, None)) and doubled == 1


ROWS_OF_SETS = {
    "lists": {"a": [BOX, [5, 6, 7, 8]], "b": []},
    "mdetr": {"a": {"scores": [0.2, 0.9], "boxes": [[5, 6, 7, 8], BOX], "labels": [1, 1]},
              "b": {"scores": [], "boxes": [], "labels": []}},
    "rows": [{"id": "a", "boxes_xyxy": [BOX, [5, 6, 7, 8]]}, {"id": "b", "boxes_xyxy": []}],
    "humanref": [{"id": "a", "extracted_predictions": [BOX, [5, 6, 7, 8]]}, {"id": "b", "extracted_predictions": [[]]}],
    "sizes": [{"id": "a", "format": "xywh",
               "boxes": [[BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]], [5, 6, 2, 2]]},
              {"id": "b", "bboxes": []}],
}  # fmt: skip


@pytest.mark.parametrize("form", ROWS_OF_SETS)
def test_several_boxes_and_none(stored, form):
    rows, _ = read_boxes(stored(ROWS_OF_SETS[form]))
    assert list(rows.keys) == ["a", "b"] and rows.none == {1} and not rows.detections
    (other,) = rows.others[0]
    assert rows[0].box == tuple(BOX) and other.box == (5, 6, 7, 8) and rows[1].box is None
    assert (rows[0].score, other.score) == ((0.9, 0.2) if form == "mdetr" else (None, None))


def test_detections_are_gathered_by_expression(stored):
    one = {"category_id": 1, "bbox": [1, 2, 3, 4]}
    rows, _ = read_boxes(stored([
        {**one, "image_id": 7, "score": 0.3}, {**one, "image_id": 7, "score": 0.8, "bbox": [5, 6, 2, 2]},
        {**one, "image_id": 9, "score": 0.5},
    ]))  # fmt: skip
    assert list(rows.keys) == ["7", "9"] and rows.detections and not rows.none
    assert rows[0] == BoxRow("7", "id", (5, 6, 7, 8), score=0.8) and rows.others[0][0].box == (1, 2, 4, 6)


@pytest.mark.parametrize(("content", "names"), [
    ({"17": [1, 2, 3]}, r"'17'.*\[1, 2, 3\].*x1, y1, x2, y2"),
    ({"17": [1, 2, 3, "4"]}, "'17'"),
    ({"17": [1, 2, 3, True]}, "'17'"),
    ({"17": [BOX, [1, 2, 3]]}, r"'17': a box is \[1, 2, 3\]; expected \[x1, y1, x2, y2\]"),
    ({"17": "1 2 3 4"}, "'17'"),
    ({"17": {"there": BOX}}, r"'17'.*no box.*there.*pred_bbox"),
    ({"17": {"boxes": BOX}}, r"'17': a box is 1"),
    ({"17": {"boxes": BOX, "bboxes": []}}, r"'17': has boxes and bboxes; expected one of"),
    ({"17": {"boxes": None}}, r"'17': boxes is None; expected a list of boxes, \[\] where nothing is"),
    ({"17": {"boxes": [BOX], "scores": []}}, r"'17': 1 boxes, but its scores are"),
    ({"17": {"boxes": [BOX], "scores": ["x"]}}, r"'17': a score is 'x'"),
    ({"17": {"boxes": [[1, 2, 3, float("nan")]]}}, r"'17': no box has four finite numbers"),
    ([{"image_id": 1.5, "bbox": BOX}], r"entry 0: image_id is 1\.5"),
    ({"17": {"box": BOX, "bbox": BOX}}, r"'17'.*both box and bbox"),
    ({"17": {"box": BOX, "format": "cxcywh"}}, r"'17'.*format is 'cxcywh'; expected xyxy or xywh"),
    ({"17": {"box": BOX, "image_name": 5}}, r"'17'.*image's name is 5"),
    ([{"box": BOX}], "entry 0.*neither 'id' nor 'row'"),
    ([{"id": "a", "box": BOX}, BOX], "entry 1"),
    ([{"id": 1.5, "box": BOX}], r"entry 0.*id is 1\.5"),
    ([{"row": True, "box": BOX}], "entry 0.*row is True"),
    ([{"row": 4, "box": {}}], "entry 0.*row 4"),
    ({}, "no boxes"),
    ([], "no boxes"),
    ("", "file is empty"),
    ("3", "contains 3"),
    ('{"0": [1, 2, 3, 4]', "not JSON"),
    ('{\n"0": [1, 2, 3, 4],\n', r"json: not JSON"),
    ("[" * 100_000, "nested"),
])  # fmt: skip
def test_malformed_entries_are_named(stored, content, names):
    path = stored(content)
    with pytest.raises(DataError, match=names) as caught:
        read_boxes(path)
    assert str(path) in str(caught.value)


def test_a_broken_line_is_named(stored):
    with pytest.raises(DataError, match=r"boxes\.jsonl, line 2: not JSON"):
        read_boxes(stored('{"id": "0", "box": null}\n{"id": "1", "bo', "boxes.jsonl"))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_boxes(tmp_path / "none.json")
    (tmp_path / "image.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="not UTF-8"):
        read_boxes(tmp_path / "image.json")


@pytest.mark.parametrize(("content", "xywh", "boxes"), [
    ({"0": [10, 20, 30, 40]}, True, [(10, 20, 40, 60)]),
    ({"0": {"pred_bbox": BOX, "bbox": [9, 9, 9, 9]}}, False, [READ]),  # a predicted box wins over a plain one
    ('{"0": [NaN, 0, 1, 1], "1": [0, 0, Infinity, 1]}', False, [None, None]),
    ('{"0": [0, 0, 1, 1' + "0" * 400 + "]}", False, [None]),  # too large for a float
])  # fmt: skip
def test_boxes(stored, content, xywh, boxes):
    assert [row.box for row in rows_of(stored(content), xywh)] == boxes


def test_a_row_states_its_own_format(stored):
    lines = [{"id": "a", "pred_bbox": BOX, "format": "xyxy"}, {"id": "b", "pred_bbox": BOX, "format": "xywh"}]
    assert [row.box for row in rows_of(stored(lines))] == [READ, (1.0, 2.0, 4.5, 6.0)]
    with pytest.raises(DataError, match=r"id 'a'.*format is xyxy.*leave --xywh out"):
        read_boxes(stored(lines), xywh=True)
