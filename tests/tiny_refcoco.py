"""A RefCOCO of four objects, written on the spot in the formats that users hold: refer files, index lists, parquet."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from bench.datasets.catalog import Catalogued, Mirror
from bench.datasets.split import Part

MIRROR = Mirror("jxu124/refcoco-benchmark", "refcoco_unc", ("val", "testA", "testB"), "0" * 40)
PARTS = (Part("train", 1, 1, 1), Part("val", 4, 2, 2), Part("testA", 1, 1, 1))
TINY = Catalogued(
    "refcoco", "Tiny RefCOCO", PARTS, "none", "here", "there", refer=("refcoco", "unc"), stem="unc", hub=MIRROR
)
BOXES = {11: [1.5, 2.25, 10.0, 20.0], 12: [30.0, 5.0, 8.5, 9.0], 13: [0.0, 0.0, 4.0, 4.0], 14: [2.0, 2.0, 5.0, 5.0]}
FILES = {
    1: "COCO_train2014_000000000001.jpg",
    2: "COCO_train2014_000000000002.jpg",
    3: "COCO_train2014_000000000003.jpg",
}
# (ref id, annotation, image, part, sentences)
REFS = [
    (1, 11, 1, "val", ["left dog", "the dog on the left"]),
    (2, 12, 2, "val", ["café 🐕", "right one"]),
    (3, 13, 3, "testA", ["man"]),
    (4, 14, 3, "train", ["hat"]),
]


def jpeg(size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def refer_files(
    folder: Path, name: str = "refs(unc).p", refs: Sequence[tuple[int, int, int, str, list[str]]] = REFS
) -> Path:
    """What lichengunc/refer unpacks to: folder/refcoco/refs(unc).p and instances.json."""
    place = folder / "refcoco"
    place.mkdir(parents=True)
    held = []
    for ref_id, ann_id, image_id, split, texts in refs:
        sentences = [{"sent_id": 100 * ref_id + n, "sent": t, "raw": t.upper()} for n, t in enumerate(texts)]
        held.append({"ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "split": split, "sentences": sentences})
    (place / name).write_bytes(pickle.dumps(held, protocol=2))
    annotations = [
        {"id": ann, "image_id": image, "category_id": 18, "bbox": BOXES[ann], "iscrowd": 0}
        for _, ann, image, *_ in refs
    ]
    images = [{"id": i, "file_name": f, "width": 64, "height": 48} for i, f in FILES.items()]
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 18, "name": "dog"}]}
    (place / "instances.json").write_text(json.dumps(instances))
    return folder


def lists(folder: Path, refs: Sequence[tuple[int, int, int, str, list[str]]] = REFS) -> Path:
    """What TransVG/CLIP-VG unpack to: folder/unc/unc_<part>.pth."""
    place = folder / "unc"
    place.mkdir(parents=True)
    for part in ("val", "testA", "train"):
        rows = [
            (FILES[image], f"{ann}.pth", BOXES[ann], text, [("r1", ["none"])])
            for _, ann, image, split, texts in refs
            for text in texts
            if split == part
        ]
        with zipfile.ZipFile(place / f"unc_{part}.pth", "w") as archive:
            archive.writestr(f"unc_{part}/data.pkl", pickle.dumps(rows, protocol=2))
    return folder


def train2017(path: Path) -> Path:
    """A zip with the images under their train2017 names."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in FILES:
            archive.writestr(f"train2017/{number:012}.jpg", jpeg())
    return path


def parquet(folder: Path) -> Path:
    """Two rows as jxu124/refcoco-benchmark has them: an image, its record and its refs."""
    polars = pytest.importorskip("polars")
    rows = []
    for ref_id, ann_id, image_id, split, texts in REFS[:2]:
        ref = {"ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "split": split}
        ref["sentences"] = [{"sent_id": 100 * ref_id + n, "sent": t, "raw": t} for n, t in enumerate(texts)]
        info = {"file_name": FILES[image_id], "width": 64, "height": 48, "id": image_id}
        annotation = {"id": ann_id, "bbox": BOXES[ann_id]}
        image = {"bytes": jpeg(), "path": FILES[image_id]}
        rows.append({"image": image, "image_info": info, "ref_list": [{"ann_info": annotation, "ref_info": ref}]})
    folder.mkdir()
    polars.DataFrame(rows).write_parquet(folder / "refcoco_unc_val-00000-of-00001-0123456789abcdef.parquet")
    return folder
