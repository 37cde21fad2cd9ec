"""Every reader of a user's file, with a whole file that it takes: what the fuzzer changes."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from hostile import index_list, refs, saved, torch_zip
from PIL import Image
from safetensors.torch import save

from bench.cli.options import assignments
from bench.datasets.images import Images
from bench.datasets.pickles import load_index_list
from bench.datasets.prepared import read_index
from bench.datasets.readers.flickr30k import read_annotation, read_caption
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.jsonl import read_jsonl, read_provenance, read_questions
from bench.datasets.readers.refer import read_refer
from bench.grounding import Scene
from bench.imported.box_files import read_boxes
from bench.inputs import load_text
from bench.labelling.scorer_files import read_iou_result
from bench.predicting.one import read_image
from bench.runs.predictions import read_lines
from bench.runs.record import read_record
from bench.settings import load_settings
from clipvg.pseudo_labels.detection_files import read_attributes, read_detections
from clipvg.pseudo_labels.given_files import read_captions
from clipvg.pseudo_labels.scene_graph_files import read_triplets
from pipelines.two_stage.proposers.files import read_rows
from pipelines.weights import read_safetensors, read_state_dict

RECORDS = Path(__file__).resolve().parents[1] / "results" / "runs"


class Reader(NamedTuple):
    """A reader, the name of its file, the content of a good one, and the files beside it."""

    read: Callable[[Path], Any]
    name: str
    seed: bytes
    beside: Mapping[str, bytes] = MappingProxyType({})


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def image(kind: str, mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.effect_noise((20, 16), 60).convert(mode).save(data, kind)
    return data.getvalue()


def zipped(method: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for folder in "ab":
            archive.writestr(f"{folder}/x.png", image("PNG"))
    return data.getvalue()


BOX = [1.0, 2, 9, 9]
ROW = ["a.jpg", "x", BOX, "dog", [("r1", ["dog"])]]
OWN = {"image": "a.jpg", "text": "a dog", "box_xyxy": BOX, "width": 20, "height": 16, "id": 1, "kind": "x"}
INSTANCES = {
    "images": [{"id": 1, "file_name": "COCO_train2014_000000000001.jpg", "width": 64, "height": 48}],
    "annotations": [
        {"id": 11, "image_id": 1, "category_id": 18, "bbox": BOX, "iscrowd": 0,
         "segmentation": {"size": [48, 64], "counts": [3000, 10, 62]}},
    ],
    "categories": [{"id": 18, "name": "dog"}],
}  # fmt: skip
REFS, BOXED = refs("sent_id", b"K\x02"), json.dumps(INSTANCES).encode()
MASKS = json.dumps(INSTANCES).replace('"bbox"', '"box"').encode()
XML = (
    b"<annotation><size><width>20</width><height>16</height></size><object><name>1</name><bndbox><xmin>1</xmin>"
    b"<ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
RESULTS = {"annotations": [{"image_id": 5, "bbox": BOX, "score": 0.9, "category_id": 1}],
           "images": [{"id": 5}], "categories": [{"id": 1, "name": "dog"}]}  # fmt: skip
TRIPLET = {"subject": "man", "predicate": "on", "object": "horse", "subject_box": BOX, "scores": [0.9, 0.8, 0.9]}
SPARSE = {"x.rows": torch.tensor([1]), "x.values": torch.ones(1, 4), "x.length": torch.tensor(9), "w": torch.ones(2)}
TOML = b'[run]\nseed = 3\n[pipelines.yolo-clip]\nranker = { views = ["crop"] }\non.shapes.proposer = { kind = "x" }\n'
PREDICTION = {"scene": "1", "proposals": [BOX], "error": None, "size": [20, 16],
              "predictions": [{"id": "1", "box": BOX, "score": 0.5, "note": "x"}]}  # fmt: skip
INDEX = {"schema": 2, "dataset": "refcoco", "part": "val", "format": "x", "fingerprint": "f", "sources": [],
         "counts": {"expressions": 1, "refs": 1, "images": 1}, "body_sha256": "0"}  # fmt: skip


def of_refer(path: Path) -> object:
    return read_refer(path.parent, "unc", "val")


def of_list(path: Path) -> object:
    return read_index_list(path, "refcoco")


def of_index(path: Path) -> object:
    return tuple(read_index(path)[1])


def of_flags(path: Path) -> object:
    return assignments(path.read_bytes().decode("latin-1").split("\n"))


def in_zip(path: Path) -> object:
    images = Images([path])
    return [images.load(Scene("1", name, None, None, ())) for name in ("a/x.png", "b/x.png")]


def folder_of(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read(path.parent)


def with_arrays() -> bytes:
    rows = [("a.jpg", np.array([1, 2, 9, 9], np.float32), "dog"), ("b.jpg", np.arange(1.0, 5), "cat")]
    return saved(rows)


READERS: dict[str, Reader] = {
    "refs": Reader(of_refer, "refs(unc).p", REFS, {"instances.json": BOXED}),
    "instances": Reader(of_refer, "instances.json", BOXED, {"refs(unc).p": REFS}),
    "masks": Reader(of_refer, "instances.json", MASKS, {"refs(unc).p": REFS}),
    "own data": Reader(read_jsonl, "f.jsonl", lines(OWN, {**OWN, "id": 2, "provenance": {"source": "x"}})),
    "questions": Reader(lambda path: list(read_questions(path)), "f.jsonl", lines({"image": "a.jpg", "text": "dog"})),
    "provenance": Reader(read_provenance, "f.jsonl", lines({**OWN, "provenance": {"source": "x"}})),
    "index list": Reader(of_list, "f.pth", index_list(4, b"]")),
    "index list, zip": Reader(of_list, "f.pth", torch_zip(pickle.dumps([ROW], 2))),
    "index list, arrays": Reader(load_index_list, "f.pth", with_arrays()),
    "flickr30k": Reader(read_annotation, "f.xml", XML),
    "caption": Reader(lambda p: read_caption(load_text(p), "f"), "f.txt", b"[/EN#1/people A dog] on [/EN#2/x a mat] ."),
    "boxes": Reader(read_boxes, "f.json", json.dumps({"0": BOX, "1": None, "2": {"pred_bbox": BOX}}).encode()),
    "box lines": Reader(read_boxes, "f.jsonl", lines({"id": "0", "box": BOX, "score": 1}, {"id": "1", "box": None})),
    "bench.toml": Reader(load_settings, "f.toml", TOML),
    "--set": Reader(of_flags, "f", b"a.b=[1]\na.c={x=1}\nd=y"),
    "predictions": Reader(lambda path: list(read_lines(path)), "f.jsonl", lines(PREDICTION, PREDICTION)),
    "iou result": Reader(read_iou_result, "f.pth", saved([[*ROW[:4], torch.zeros(4), torch.ones(4), 0.5]])),
    "Pseudo-Q": Reader(lambda p: read_detections([p]), "f.pth", saved({"a.jpg": [["dog", [*BOX, 0.9]]]})),
    "attributes": Reader(lambda p: read_attributes([p], 2), "f.pth", saved({"a.jpg": [["dog", [*BOX, 1], [0, 1]]]})),
    "captions": Reader(read_captions, "f.pth", saved([{"image_id": 5, "captions": "a dog"}])),
    "caption lines": Reader(read_captions, "f.jsonl", lines({"image": "a.jpg", "caption": ["a dog"]})),
    "relations": Reader(read_triplets, "f.json", json.dumps([{"image": "a.jpg", "triplets": [TRIPLET]}]).encode()),
    "proposals": Reader(read_rows, "f.json", json.dumps(RESULTS).encode()),
    "checkpoint": Reader(read_state_dict, "f.pth", saved({"model": {"w": torch.ones(2, 2), "b": torch.zeros(2)}})),
    "safetensors": Reader(read_safetensors, "f.safetensors", save(SPARSE, {"format": '{"a": [1]}'})),
    "index": Reader(of_index, "val.jsonl", lines(INDEX, ["1", "a.jpg", 20, 16, [["0", "dog", BOX]]])),
    "PNG": Reader(read_image, "f.png", image("PNG", "RGBA")),
    "JPEG": Reader(read_image, "f.jpg", image("JPEG")),
    "GIF": Reader(read_image, "f.gif", image("GIF", "P")),
    "TIFF": Reader(read_image, "f.tif", image("TIFF")),
    "zip of images": Reader(in_zip, "f.zip", zipped(zipfile.ZIP_DEFLATED)),
}  # fmt: skip
if records := sorted(RECORDS.glob("*/*/*/run.json")):
    READERS["run.json"] = Reader(folder_of(read_record), "run.json", records[0].read_bytes())
