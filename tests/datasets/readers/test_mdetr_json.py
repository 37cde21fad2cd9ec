"""MDETR's annotations, made here in their layout, and the real file whose expressions have none or several boxes."""

import json

import pytest
from tiny_refcoco import TINY

from bench.datasets.catalog import refdrone
from bench.datasets.readers import ReadOptions
from bench.datasets.readers.mdetr_json import read_mdetr_json
from bench.datasets.readers.sources import find_annotations
from bench.errors import DataError
from bench.masks import box_of

SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]


def content(**changes):
    images = [
        {"id": n, "file_name": f"COCO_train2014_00000000000{7 + n // 2}.jpg", "width": 8, "height": 6, "caption": text}
        for n, text in enumerate(("the man", "a man", "the cup"))
    ]
    annotations = [
        {"id": n, "image_id": n, "bbox": [1 + n, 1, 2, 3], "category_id": 1, "segmentation": [SQUARE] if n else None}
        for n in range(3)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}], **changes}


def put(folder, value, name="finetune_refcoco_val.json"):
    (folder / name).write_text(json.dumps(value))
    return folder / name


def test_expressions_with_boxes_and_masks(tmp_path):
    first, second = read_mdetr_json(put(tmp_path, content()))
    assert [(s.id, s.width, s.height) for s in (first, second)] == [("7", 8, 6), ("8", 8, 6)]
    assert [(e.id, e.text, e.box, e.category) for e in first.expressions] == [
        ("0", "the man", (1, 1, 3, 4), "object"), ("1", "a man", (2, 1, 4, 4), "object"),
    ]  # fmt: skip
    assert first.expressions[0].mask is None and box_of(first.expressions[1].mask) == (2, 1, 6, 4)


def test_a_folder_or_a_file_is_opened(tmp_path):
    path = put(tmp_path, content())
    for place in (path, tmp_path):
        source = find_annotations(TINY, str(place), ReadOptions(), tmp_path)
        assert (source.format, source.parts) == ("mdetr", ("val",)) and len(source.read("val")) == 2


@pytest.mark.parametrize(("change", "says"), [
    ({"annotations": content()["annotations"][:2]}, "expression 2: it has 0 boxes; a split here has one"),
    ({"annotations": [*content()["annotations"], content()["annotations"][0]]}, "expression 0: it has 2 boxes"),
    ({"images": [{"id": 0}]}, "expression 0: the key 'caption' is missing"),
    ({"images": [7]}, "image 0: it should be a dict, not 7"),
    ({"annotations": {}}, "it should hold a dict with lists of images and annotations"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, says):
    with pytest.raises(DataError, match=says):
        read_mdetr_json(put(tmp_path, content(**change)))


def several(*annotations):
    images = [{"id": 0, "file_name": "7.jpg", "width": 8, "height": 6, "caption": "cups"}]
    return {"images": images, "annotations": [{"image_id": 0, **each} for each in annotations]}


BOX, OTHER = {"bbox": [4, 1, 2, 3], "category_id": "1"}, {"bbox": [1, 1, 2, 3], "category_id": 1}
EMPTY = {"bbox": [0, 0, 0, 0], "category_id": -1}


def test_none_and_several(tmp_path):
    def one(*annotations):
        content = {**several(*annotations), "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "mug"}]}
        return read_mdetr_json(put(tmp_path, content), several=True)[0].expressions[0]

    assert one(BOX, OTHER).targets == one(OTHER, BOX).targets == ((1, 1, 3, 4), (4, 1, 6, 4))
    assert one(BOX, OTHER).category == "cup" and one(BOX, {**OTHER, "category_id": 2}).category is None
    assert one(EMPTY).targets == one({**EMPTY, "category_id": 5, "empty": True}).targets == ()
    parts = [[[1, 1, 3, 1, 3, 4, 1, 4]], [[4, 1, 6, 1, 6, 4, 4, 4]]]
    drawn = one({**OTHER, "segmentation": parts[0]}, {**BOX, "segmentation": parts[1]})
    assert box_of(drawn.mask) == (1, 1, 6, 4) and one({**OTHER, "segmentation": parts[0]}, BOX).mask is None


def test_an_expression_without_annotations_is_not_one_without_a_target(tmp_path):
    with pytest.raises(DataError, match=r'expression 0: it has no annotation; .* one with "empty": true'):
        read_mdetr_json(put(tmp_path, several()), several=True)


@pytest.mark.real
def test_real_file_of_none_and_several(real):
    path = real / "refdrone" / "RefDrone_test_mdetr.json"
    with pytest.raises(DataError, match=r"expression \d+: it has \d+ boxes"):
        read_mdetr_json(path)
    scenes = find_annotations(refdrone, str(path), ReadOptions(), real).read("test")
    counts = [len(e.targets) for scene in scenes for e in scene.expressions]
    assert (len(scenes), len(counts), sum(counts)) == (1_595, 3_432, 11_949)
    assert (counts.count(0), counts.count(1), sum(n > 1 for n in counts)) == (156, 1_148, 2_128)
