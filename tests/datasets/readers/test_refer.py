"""Refer folders, made on the spot in the layout of lichengunc/refer, as Python 2 would have pickled them."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from bench.datasets.fingerprint import difference, fingerprint
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.refer import read_refer
from bench.errors import DataError, UnsafePickle
from bench.masks import box_of


def py2_pickle(value: object) -> bytes:
    """`value` as Python 2 writes it at protocol 2: text that is ASCII, or given as bytes, becomes a byte string."""

    def of(value: object) -> bytes:
        match value:
            case bytes():
                return b"T" + struct.pack("<i", len(value)) + value
            case str() if value.isascii():
                return of(value.encode())
            case list():
                return b"](" + b"".join(map(of, value)) + b"e"
            case dict():
                return b"}(" + b"".join(of(k) + of(v) for k, v in value.items()) + b"u"
            case _:
                return pickle.dumps(value, 2)[2:-1]  # without PROTO and STOP

    return b"\x80\x02" + of(value) + b"."


def ref(n, split, image, sentences, ann=None, **more):
    raw = [s.upper() if isinstance(s, str) else s for s in sentences]
    ids = [{"sent_id": 10 * n + k, "sent": s, "raw": raw[k]} for k, s in enumerate(sentences)]
    record = {
        "ref_id": n, "ann_id": 100 + n if ann is None else ann, "image_id": image, "split": split, "sentences": ids,
    }  # fmt: skip
    return {**record, "file_name": f"COCO_train2014_{image:012d}_{100 + n}.jpg", **more}


def annotation(n: object, image: int, **more: object) -> dict:
    return {"id": n, "image_id": image, "category_id": 1, "iscrowd": 0, "bbox": [10.5, 20.25, 100.1, 50.33], **more}


def image(number: int, **more: object) -> dict:
    return {"id": number, "file_name": f"COCO_train2014_{number:012d}.jpg", "width": 640, "height": 480, **more}


def folder(at: Path, refs: list, annotations: list, images: list, split_by: str = "unc") -> Path:
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    (at / f"refs({split_by}).p").write_bytes(py2_pickle(refs))
    (at / "instances.json").write_text(json.dumps(instances))
    return at


@pytest.fixture
def refcoco(tmp_path):
    refs = [
        ref(1, "val", 7, ["man on right", b"the caf\xc3\xa9 owner"]), ref(2, "train", 8, ["dog"]),
        ref(3, "val", 9, ["left cup"]), ref(4, "val", 7, ["child"]), ref(5, "testA", 10, ["woman"]),
    ]  # fmt: skip
    annotations = [annotation(100 + n, i) for n, i in ((1, 7), (2, 8), (3, 9), (4, 7), (5, 10))]
    annotations += [annotation(200, 7), annotation(201, 7, iscrowd=1), annotation(202, 7, category_id=2)]
    return folder(tmp_path, refs, annotations, [image(i) for i in (7, 8, 9)])


def test_scenes_are_grouped_per_image_in_order_of_first_appearance(refcoco):
    scenes = read_refer(refcoco, "unc", "val")
    assert [(s.id, s.file, s.width, s.height) for s in scenes] == [
        ("7", "COCO_train2014_000000000007.jpg", 640, 480),
        ("9", "COCO_train2014_000000000009.jpg", 640, 480),
    ]
    assert [(e.id, e.text, e.ref_id) for e in scenes[0].expressions] == [
        ("10", "man on right", "1"), ("11", "the café owner", "1"), ("40", "child", "4"),
    ]  # fmt: skip
    first = scenes[0].expressions[0]
    assert first.box == (10.5, 20.25, 10.5 + 100.1, 20.25 + 50.33)  # unrounded
    assert (first.category, first.same_category) == ("person", 3)  # the crowd and the dog do not count


def test_the_text_as_typed_and_an_image_that_instances_do_not_list(refcoco):
    assert read_refer(refcoco, "unc", "val", text="raw")[0].expressions[0].text == "MAN ON RIGHT"
    (scene,) = read_refer(refcoco, "refs(unc).p", "testA")
    assert (scene.file, scene.width) == ("COCO_train2014_000000000010.jpg", None)


@pytest.mark.parametrize("part", ["test", "testB", "Val", ""])
def test_an_unknown_part_lists_those_that_are_there(refcoco, part):
    with pytest.raises(DataError, match=r"no refs of part .* testA \(1 refs\), train \(1 refs\), val \(3"):
        read_refer(refcoco, "unc", part)


def test_an_unknown_split_by_lists_those_that_are_there(refcoco):
    (refcoco / "refs(google).p").write_bytes(b"")
    with pytest.raises(DataError, match=r"refs\(umd\)\.p is missing, there is refs\(google\)\.p, refs\(unc\)\.p"):
        read_refer(refcoco, "umd", "val")
    with pytest.raises(DataError, match="no refs"):
        read_refer(refcoco / "absent", "unc", "val")


@pytest.fixture
def refclef(tmp_path):
    """String ids, parts that overlap, masks and no boxes."""
    height, width = 6, 8
    mask = np.zeros((height, width), np.uint8)
    mask[2:5, 1:4] = 1
    runs, counts = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [0]]))), []
    for at in [*runs, height * width]:
        counts.append(int(at) - sum(counts))
    counts = [c for n, c in enumerate(counts) if c or n == 0]
    from pycocotools import mask as rle

    packed = rle.encode(np.asfortranarray(mask))
    parts = ["testA", "testAB", "testBC", "val", "testC"]
    segmentations = [
        [{"size": [height, width], "counts": counts}],
        {"size": [height, width], "counts": packed["counts"].decode()},
        [[1.0, 2.0, 4.0, 2.0, 4.0, 5.0, 1.5, 5.0]],
        [{"size": [height, width], "counts": packed["counts"].decode()}],
        None,
    ]
    refs, annotations = [], []
    for n, (part, segmentation) in enumerate(zip(parts, segmentations, strict=True)):
        one = ref(n, part, 30 + n, ["sky"], ann=f"{30 + n}_1")
        del one["file_name"]
        refs.append(one)
        shape = {"segmentation": segmentation} if segmentation else {"bbox": [1, 2, 3, 3]}
        annotations.append({"id": f"{30 + n}_1", "image_id": 30 + n, "category_id": 1, **shape})
    return folder(tmp_path, refs, annotations, [image(30, file_name="30.jpg", width=8, height=6)], "berkeley")


def test_refclef_boxes_come_from_masks_and_polygons(refclef):
    for part in ("testA", "testAB", "testBC", "val", "testC", "test"):
        for scene in read_refer(refclef, "berkeley", part):
            assert scene.expressions[0].box == (1, 2, 4, 5), (part, scene.id)
            assert scene.file == f"{scene.id}.jpg"


@pytest.mark.parametrize("part, ids", [
    ("testA", "30 31"), ("testB", "31 32"), ("testC", "32 34"), ("testAB", "31"), ("test", "30 31 32 34"),
    ("val", "33"),
])  # fmt: skip
def test_refclef_parts_overlap(refclef, part, ids):
    assert " ".join(s.id for s in read_refer(refclef, "berkeley", part)) == ids


def masked(annotation, size, counts):
    annotation.update(bbox=None, segmentation={"size": size, "counts": counts})


BAD_REFS = {
    "no ann_id": (lambda r, a: r.pop("ann_id"), "ref 1: the key 'ann_id' is missing; there are \\['ref_id'"),
    "no split": (lambda r, a: r.pop("split"), "ref 0: the key 'split' is missing"),
    "no sentences": (lambda r, a: r.pop("sentences"), "ref 1: the key 'sentences'"),
    "no sent": (lambda r, a: r["sentences"][0].pop("sent"), "sentence 10: the key 'sent'"),
    "annotation not there": (lambda r, a: r.update(ann_id=999), r"ref 1: its annotation 999 is not in .*instances"),
    "list for an id": (lambda r, a: r.update(ann_id=[1]), "its annotation"),
    "sentence of text": (lambda r, a: r.update(sentences=["man"]), "a sentence should be a dict"),
    "path in a name": (lambda r, a: r.update(image_id=99, file_name="../x_1.jpg/.."), "file name|leads out"),
    "flat box": (lambda r, a: a.update(bbox=[1, 2, 3, 0]), "annotation 101: the box .* height 0"),
    "no box at all": (lambda r, a: a.pop("bbox"), "annotation 101: it has neither"),
    "odd segmentation": (lambda r, a: a.update(bbox=[], segmentation=["x"]), "neither polygons nor"),
    "mask beyond its size": (lambda r, a: masked(a, [4, 4], [1, 200]), "add up to 4 x 4"),
    "mask of another image": (lambda r, a: masked(a, [4, 4], [1, 15]), "its image 480 x 640"),
    "empty mask": (lambda r, a: masked(a, [480, 640], [307200]), "is empty"),
    "cut mask": (lambda r, a: masked(a, [480, 640], "Po"), "neither numbers"),
    "rubbish mask": (lambda r, a: masked(a, [9, 9], "OOOO"), "run past|lead out"),
    "huge mask": (lambda r, a: masked(a, [1 << 40, 9], [1]), "size should be"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REFS)
def test_what_is_wrong_is_named(tmp_path, name):
    break_it, message = BAD_REFS[name]
    one, box = ref(1, "val", 7, ["man"]), annotation(101, 7)
    break_it(one, box)
    with pytest.raises(DataError, match=message):
        read_refer(folder(tmp_path, [one], [box], [image(7)]), "unc", "val")


def test_broken_instances_are_named(refcoco):
    file = refcoco / "instances.json"
    for text, message in [
        ("{", "not JSON in UTF-8"),
        ("[]", "should hold a dict"),
        ('{"images": []}', "the key 'annotations' is missing; there are \\['images'"),
        ('{"images": [], "annotations": [{"x": 1}], "categories": []}', "annotations should be a list of dicts"),
        ('{"images": [], "annotations": [{"id": 1, "image_id": {}}]}', "annotations should be a list of dicts"),
    ]:
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_refer(refcoco, "unc", "val")
    file.unlink()
    with pytest.raises(DataError, match=r"instances\.json: no such file"):
        read_refer(refcoco, "unc", "val")


def test_refs_that_are_no_refs(refcoco):
    refs = refcoco / "refs(unc).p"
    refs.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafePickle, match=r"refs\(unc\)\.p: .*os\.system"):
        read_refer(refcoco, "unc", "val")
    for data in (py2_pickle({"a": 1}), py2_pickle([1, 2])):
        refs.write_bytes(data)
        with pytest.raises(DataError, match="a list of refs"):
            read_refer(refcoco, "unc", "val")
    refs.write_bytes(py2_pickle([]))
    with pytest.raises(DataError, match="none at all"):
        read_refer(refcoco, "unc", "val")


@pytest.mark.slow
def test_the_real_refcoco_val_has_one_fingerprint_whatever_holds_it(real, tmp_path):
    listed = read_index_list(real / "index/unc_val.pth", "refcoco")

    def written(name: str, cut: bool) -> Path:
        refs: dict[str, dict] = {}
        boxes = {}
        for scene in listed:
            for e in scene.expressions:
                one = refs.setdefault(e.ref_id, ref(int(e.ref_id), "val", int(scene.id), [], ann=int(e.ref_id)))
                one["sentences"].append({"sent_id": int(e.id), "sent": e.text.encode(), "raw": e.text, "tokens": []})
                x1, y1, x2, y2 = e.box
                box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
                boxes[e.ref_id] = annotation(int(e.ref_id), int(scene.id), bbox=[int(v) for v in box] if cut else box)
        (tmp_path / name).mkdir()
        images = [{"id": int(s.id), "file_name": s.file} for s in listed]
        return folder(tmp_path / name, list(refs.values()), list(boxes.values()), images)

    folded = read_refer(written("whole", cut=False), "unc", "val")
    assert (len(folded), sum(len(s.expressions) for s in folded)) == (1500, 10834)
    assert fingerprint(folded) == fingerprint(listed)
    cut = read_refer(written("cut", cut=True), "unc", "val")
    assert fingerprint(cut) != fingerprint(listed)
    (sentence,) = difference(listed, cut, ("the list", "the folder"))
    assert sentence.startswith("10,819 expressions with another box") and sentence.endswith(
        "the boxes of the folder are those of the list cut to integers as x, y, width, height"
    )


def test_masks_are_those_of_the_segmentations(refclef):
    masks = {s.id: s.expressions[0].mask for part in ("test", "val") for s in read_refer(refclef, "berkeley", part)}
    square = masks["30"]
    assert square["size"] == [6, 8] and box_of(square) == (1, 2, 4, 5) and masks["31"] == square
    # A box alone has no mask, nor have polygons in an image of unknown size.
    assert masks["33"] == square and masks["34"] is None and masks["32"] is None
