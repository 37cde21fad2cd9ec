"""Our own format: what people may write, and what they are told when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.readers import jsonl
from bench.datasets.readers.jsonl import read_jsonl
from bench.errors import DataError
from bench.masks import box_of

GOOD = {"image": "a.jpg", "text": "the cup", "box_xyxy": [1, 2, 3, 4]}


def put(folder: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "d.jsonl").write_text(text, "utf-8")
    return folder / "d.jsonl"


def test_every_key(tmp_path):
    full = {
        "image": "street/0001.jpg", "expression": "the red car", "box_xywh": [12.5, 40, 300, 211], "id": "x7",
        "width": 640, "height": 480, "ref_id": 12, "kind": "colour", "category": "car", "split": "val", "row": 3,
    }  # fmt: skip
    (scene,) = read_jsonl(put(tmp_path, full))
    assert (scene.id, scene.file, scene.width, scene.height) == ("0001", "street/0001.jpg", 640, 480)
    (one,) = scene.expressions
    assert (one.id, one.text, one.box) == ("x7", "the red car", (12.5, 40, 312.5, 251))
    assert (one.ref_id, one.kind, one.category, one.also) == ("12", "colour", "car", ())


def test_the_docstring_names_every_key_and_its_example_is_read(tmp_path):
    assert all(key in jsonl.__doc__ for key in jsonl.KEYS)
    example = next(line for line in jsonl.__doc__.splitlines() if line.strip().startswith("{"))
    assert read_jsonl(put(tmp_path, example))[0].expressions[0].text == "the red car on the left"


def test_none_and_several(tmp_path):
    base = {"image": "a.jpg", "width": 50, "height": 50}
    two = [[20, 1, 30, 9], [2, 3, 4, 5]]
    path = put(tmp_path, *({**base, "text": f"{len(boxes)}", "boxes_xyxy": boxes} for boxes in ([], two[:1], two)))
    (scene,) = read_jsonl(path)
    assert [e.targets for e in scene.expressions] == [(), ((20, 1, 30, 9),), ((2, 3, 4, 5), (20, 1, 30, 9))]
    single = read_jsonl(put(tmp_path, {**base, "text": "1", "box_xyxy": two[0]}))
    assert scene.expressions[1].box == single[0].expressions[0].box
    with pytest.raises(DataError, match=r"line 1: the box 60, 1, 70, 9 .* lies outside the image a.jpg of 50 x 50"):
        read_jsonl(put(tmp_path, {**base, "text": "x", "boxes_xyxy": [two[0], [60, 1, 70, 9]]}))


def test_ids_without_an_id(tmp_path):
    path = put(tmp_path, GOOD, "", {**GOOD, "split": "val", "row": 0}, {**GOOD, "row": 5}, {**GOOD, "id": 9})
    assert [e.id for e in read_jsonl(path)[0].expressions] == ["1", "val:0", "4", "9"]


def test_a_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "w.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert len(read_jsonl(tmp_path / "w.jsonl")) == 1


BAD = {
    "unknown key": ({**GOOD, "boxxyxy": 1}, "the key 'boxxyxy' is not known; did you mean 'box_xyxy'"),
    "far key": ({**GOOD, "zzz": 1}, "known: image, text"),
    "no image": ({"text": "x", "box_xyxy": [1, 2, 3, 4]}, "the key 'image' is missing"),
    "no text": ({"image": "a.jpg", "box_xyxy": [1, 2, 3, 4]}, "one of 'text' and 'expression' is needed, and neither"),
    "two texts": ({**GOOD, "expression": "y"}, "and both are given"),
    "no box": ({"image": "a.jpg", "text": "x"}, "one of 'box_xyxy' and 'box_xywh' is needed, and neither"),
    "boxes of one": ({**GOOD, "boxes_xyxy": []}, "both are given"),
    "boxes null": ({"image": "a.jpg", "text": "x", "boxes_xyxy": None}, "expected a list of boxes, empty where"),
    "flat boxes": ({"image": "a.jpg", "text": "x", "boxes_xyxy": [1, 2, 3, 4]}, "a box should be 4 numbers"),
    "two boxes": ({**GOOD, "box_xywh": [1, 2, 3, 4]}, "both are given"),
    "half a character": (json.dumps(GOOD).replace("the cup", "\\ud83d"), "half a character"),
    "NaN": ({**GOOD, "box_xyxy": [1, 2, float("nan"), 4]}, "NaN or infinity"),
    "upwards": ({**GOOD, "image": "a/../../b.jpg"}, "leads out"),
    "null id": ({**GOOD, "id": None}, "an id should be"),
    "float id": ({**GOOD, "id": 1.5}, "'id' should be text or a whole number"),
    "empty kind": ({**GOOD, "kind": " "}, "'kind' should be text"),
    "no JSON": ("{", "not JSON in UTF-8"),
    "list": ("[1]", "a line should be a JSON object"),
    "key twice": ('{"image": "a.jpg", "image": "b.jpg"}', "a key is given twice"),
    "nested without end": ("[" * 100_000, "not JSON in UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_line_is_named(tmp_path, name):
    line, message = BAD[name]
    with pytest.raises(DataError, match=rf"d\.jsonl: line 3: .*{message}"):
        read_jsonl(put(tmp_path, GOOD, "", line))


def test_an_id_given_twice_names_both_lines(tmp_path):
    with pytest.raises(DataError, match=r"line 3: the id '7' is already that of line 1"):
        read_jsonl(put(tmp_path, {**GOOD, "id": "7"}, GOOD, {**GOOD, "id": 7}))


def test_empty_missing_and_foreign_files(tmp_path):
    with pytest.raises(DataError, match="holds no expressions"):
        read_jsonl(put(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        read_jsonl(tmp_path / "absent.jsonl")
    (tmp_path / "x.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match="line 1: not JSON in UTF-8"):
        read_jsonl(tmp_path / "x.jsonl")


@pytest.mark.slow
@given(line=st.dictionaries(st.sampled_from(jsonl.KEYS), st.none() | st.integers() | st.text() | st.lists(st.floats())))
def test_anything_else_is_a_data_error_too(tmp_path_factory, line):
    path = put(tmp_path_factory.mktemp("h"), line)
    try:
        scenes = read_jsonl(path)
    except DataError as error:
        assert "d.jsonl" in str(error)
    else:
        assert len(scenes) == 1


def test_the_real_images(real):
    scenes = read_jsonl(real / "pictures/expressions.jsonl")
    assert (len(scenes), sum(len(s.expressions) for s in scenes)) == (4, 32)
    assert scenes[0].expressions[0].id == "refcoco-testB:0"
    assert (scenes[0].id, scenes[0].width, scenes[0].height) == ("154", 427, 640)


SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]


def test_a_segmentation_is_the_mask_and_may_bring_the_box(tmp_path):
    line = {**GOOD, "width": 8, "height": 6, "segmentation": [SQUARE]}
    bare = {"image": "b.jpg", "text": "it", "segmentation": {"size": [6, 8], "counts": [13, 3, 32]}}
    one, other = (s.expressions[0] for s in read_jsonl(put(tmp_path, line, bare)))
    assert one.box == (1, 2, 3, 4) and box_of(one.mask) == (2, 1, 6, 4)
    assert other.box == (2, 1, 3, 4) == box_of(other.mask)


@pytest.mark.parametrize(("line", "says"), [
    ({**GOOD, "segmentation": [SQUARE]}, "line 1: its segmentation covers no pixel or the line has no width and"),
    ({**GOOD, "width": 8, "height": 6, "segmentation": [[1, 1, 2, 2]]}, "line 1: its segmentation covers no pixel; "),
    ({**GOOD, "width": 9, "height": 6, "segmentation": {"size": [6, 8], "counts": [48]}}, "line 1: its mask is"),
    ({**GOOD, "segmentation": "x"}, "line 1: its segmentation is neither polygons nor run-length masks"),
])  # fmt: skip
def test_a_segmentation_that_is_none_is_named(tmp_path, line, says):
    with pytest.raises(DataError, match=says):
        read_jsonl(put(tmp_path, line))
