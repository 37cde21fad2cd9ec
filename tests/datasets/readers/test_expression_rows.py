"""Benchmarks with a row for each expression, written here by their documented columns, and a real one."""

import json
from collections import Counter
from zipfile import ZipFile

import pytest

from bench.datasets import catalog
from bench.datasets.readers import ReadOptions
from bench.datasets.readers.sources import find_annotations
from bench.errors import DataError

ROWS = {
    "groundingme": [
        {"id": 1, "description": "the red kite", "bbox": [1.0, 2.0, 30.0, 40.0], "subtask_l1": "Spatial",
         "width": 90, "height": 60, "image": {"bytes": b"sky", "path": None}},
        {"id": 2, "description": "the green kite", "bbox": None, "subtask_l1": "Rejection",
         "width": 90, "height": 60, "image": {"bytes": b"sky", "path": None}},
    ],
    "ref-l4": [
        {"id": 5, "caption": "a long text", "bbox": [1.0, 2.0, 3.0, 4.0], "file_name": "o365/1.jpg", "width": 90,
         "height": 60, "ori_category_id": "o365_3"},
    ],
    "humanref": [
        {"id": 0, "referring": "people with hats", "answer_boxes": [[9, 9, 20, 20], [1, 1, 5, 5]],
         "image_name": "p.jpg", "domain": "attribute", "candidate_boxes": []},
        {"id": 1, "referring": "people with wings", "answer_boxes": [], "image_name": "p.jpg", "domain": "rejection"},
    ],
    "refcocos": [
        {"image": "val2017/000000000139.jpg", "normal_caption": "the clock", "solution": [1, 2, 3, 4], "width": 90,
         "height": 60, "categories": {"hops": "2"}},
        {"image": "val2017/000000000139.jpg", "normal_caption": "no one", "solution": None, "width": 90, "height": 60},
    ],
}  # fmt: skip
FILES = {
    "groundingme": "test.parquet",
    "ref-l4": "ref-l4-val.parquet",
    "humanref": "annotations.jsonl",
    "refcocos": "refcocos_test.json",
}


def put(folder, name, rows):
    path = folder / FILES[name]
    if path.suffix == ".parquet":
        pytest.importorskip("polars").DataFrame(rows).write_parquet(path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))
    return path


def opened(folder, name, rows=None, place=None):
    path = put(folder, name, ROWS[name] if rows is None else rows)
    dataset = getattr(catalog, name.replace("-", "_"))
    return find_annotations(dataset, str(place or path), ReadOptions(), folder)


def expressions(source, part):
    return [e for scene in source.read(part) for e in scene.expressions]


@pytest.mark.parametrize("name", FILES)
def test_each_layout_is_opened_as_a_file_or_its_folder(tmp_path, name):
    part = "val" if name == "ref-l4" else "test"
    source = opened(tmp_path, name)
    assert part in source.parts and len(expressions(source, part)) == len(ROWS[name])
    if name != "refcocos":
        assert opened(tmp_path, name, place=tmp_path).parts == (part,)


def test_groundingme_and_its_images(tmp_path):
    source = opened(tmp_path, "groundingme")
    kite, none = expressions(source, "test")
    assert (kite.id, kite.box, kite.kind) == ("1", (1, 2, 30, 40), "Spatial")
    assert none.targets == () and none.kind == "Rejection"
    source.unpack("test", tmp_path / "images.zip")
    (scene,) = source.read("test")  # the same bytes are the same image
    with ZipFile(tmp_path / "images.zip") as archive:
        assert archive.namelist() == [scene.file] and archive.read(scene.file) == b"sky"


def test_ref_l4_has_no_images_and_boxes_xywh(tmp_path):
    source = opened(tmp_path, "ref-l4")
    (one,) = expressions(source, "val")
    assert (one.id, one.box, one.category) == ("5", (1, 2, 4, 6), "o365_3") and source.unpack is None


def test_humanref_and_refcocos(tmp_path):
    hats, wings = expressions(opened(tmp_path, "humanref"), "test")
    assert hats.targets == ((1, 1, 5, 5), (9, 9, 20, 20)) and wings.targets == () and wings.kind == "rejection"
    source = opened(tmp_path, "refcocos")
    clock, none = expressions(source, "test")
    assert (clock.id, clock.box, clock.kind, none.id, none.targets) == ("0", (1, 2, 3, 4), "hops 2", "1", ())
    assert source.read("test")[0].file == "000000000139.jpg"


@pytest.mark.parametrize(("name", "change", "says"), [
    ("groundingme", {"bbox": [1.0, 2.0]}, "row 0: a box should be 4 numbers"),
    ("humanref", {"answer_boxes": 3}, "row 0: expected a list of boxes"),
    ("humanref", {"answer_boxes": [[1, 2, 1, 5]]}, "row 0: the box"),
    ("humanref", {"image_name": ".."}, "leads out of the folder"),
    ("refcocos", {"width": -1}, "row 0: the image's width"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, name, change, says):
    rows = [{**ROWS[name][0], **change}]
    with pytest.raises(DataError, match=says):
        opened(tmp_path, name, rows).read("test")


def test_other_files_are_left_to_other_readers(tmp_path):
    with pytest.raises(DataError, match="it should hold a dict with lists of images and annotations"):
        opened(tmp_path, "refcocos", [{"x": 1}]).read("test")
    with pytest.raises(DataError, match="it holds no refcocos, which is read from its authors' file, with normal_cap"):
        find_annotations(catalog.refcocos, str(tmp_path), ReadOptions(), tmp_path)
    with pytest.raises(DataError, match="'description' is missing"):
        opened(tmp_path, "groundingme", ROWS["ref-l4"]).read("test")


@pytest.mark.real
def test_real_refcocos(real):
    path = real / "refcocos" / "refcocos_test.json"
    own = expressions(find_annotations(catalog.refcocos, str(path), ReadOptions(), real), "test")
    assert Counter(len(e.targets) for e in own) == {1: 481, 0: 25}
    assert Counter(e.kind for e in own) == {"hops 2": 304, "hops 3": 164, "hops 4": 34, "hops 5": 4}
