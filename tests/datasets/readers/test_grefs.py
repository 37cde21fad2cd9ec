"""gRefCOCO's own files, written here in their layout."""

import json

import pytest

from bench.datasets.catalog import grefcoco
from bench.datasets.readers import ReadOptions
from bench.datasets.readers.sources import find_annotations
from bench.errors import DataError
from bench.masks import box_of

INSTANCES = {
    "images": [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 40, "height": 30}],
    "annotations": [
        {"id": 11, "image_id": 7, "category_id": 1, "bbox": [20, 1, 5, 5],
         "segmentation": [[20, 1, 25, 1, 25, 6, 20, 6]]},
        {"id": 12, "image_id": 7, "category_id": 1, "bbox": [2, 1, 5, 5], "segmentation": [[2, 1, 7, 1, 7, 6, 2, 6]]},
    ],
    "categories": [{"id": 1, "name": "person"}],
}  # fmt: skip


def ref(number, ann_id, *texts, split="val", **more):
    sentences = [{"sent_id": 10 * number + n, "sent": text} for n, text in enumerate(texts)]
    return {"ref_id": number, "image_id": 7, "split": split, "ann_id": ann_id, "sentences": sentences, **more}


def opened(folder, *refs, instances=INSTANCES):
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(instances))
    return find_annotations(grefcoco, str(folder), ReadOptions(), folder)


def test_none_one_and_several(tmp_path):
    source = opened(
        tmp_path,
        ref(1, [11, 12], "both", "all men", no_target=False),
        ref(2, [-1], "a cow", no_target=True),
        ref(3, [11], "the right one"),
        ref(4, [11], "another part", split="train"),
    )
    assert source.format == "grefs" and source.parts == ("train", "val", "testA", "testB")
    (scene,) = source.read("val")
    assert (scene.id, scene.width, scene.height) == ("7", 40, 30)
    both, every, cow, right = scene.expressions
    assert both.targets == every.targets == ((2, 1, 7, 6), (20, 1, 25, 6)) and cow.targets == ()
    assert (both.id, every.id, both.ref_id, both.category, cow.category) == ("10", "11", "1", "person", None)
    assert box_of(both.mask) == (2, 1, 25, 6) and cow.mask is None and box_of(right.mask) == (20, 1, 25, 6)


@pytest.mark.parametrize(("bad", "says"), [
    (ref(1, [13], "x"), "ref 1: its annotation 13 is not in instances.json"),
    (ref(1, [], "x"), "ref 1: ann_id is .* expected ids, or -1 alone"),
    (ref(1, [11, -1], "x"), "expected ids, or -1 alone"),
    (ref(1, [-1], "x", no_target=False), "no_target False; expected ids, or -1 alone"),
    (ref(1, [11], "x", no_target=True), "no_target True"),
    (ref(1, [{}], "x"), "its annotation .* is not in"),
    (ref(1, [11], "x", split="train"), "no refs of part 'val'; there are train"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, bad, says):
    with pytest.raises(DataError, match=says):
        opened(tmp_path, bad).read("val")
