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


@pytest.mark.parametrize(("content", "names"), [
    ({"17": [1, 2, 3]}, r"'17'.*\[1, 2, 3\].*x1, y1, x2, y2"),
    ({"17": [1, 2, 3, "4"]}, "'17'"),
    ({"17": [1, 2, 3, True]}, "'17'"),
    ({"17": [BOX]}, "'17'"),
    ({"17": "1 2 3 4"}, "'17'"),
    ({"17": {"boxes": BOX}}, r"'17'.*no box.*boxes.*pred_bbox"),
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
