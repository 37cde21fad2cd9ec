"""Rows of strangers that once ended a command with a traceback, or were scored as they are: each is named."""

from __future__ import annotations

import hashlib
import json
import os
import re

import pytest
import torch
from hostile import wide_tensor
from PIL import Image
from safetensors.torch import save_file

from bench.cli.options import assignments
from bench.datasets.annotations import annotations_of
from bench.datasets.load import load_split
from bench.datasets.prepared import read_index
from bench.datasets.readers.jsonl import read_jsonl
from bench.datasets.verify import verify
from bench.errors import DataError, SettingsError, WeightsError
from bench.evaluation.decoding import decoded_ahead
from bench.imported.box_files import read_boxes
from bench.labelling.scorer_files import read_iou_result
from bench.settings import Resolved, Settings, load_settings
from clipvg.pseudo_labels.detection_files import read_detections
from pipelines.two_stage.proposers.files import read_rows
from pipelines.weights import read_safetensors

HUGE = 10**400
OUTSIDE = {"image": "a.png", "text": "x", "box_xyxy": [300, 500, 420, 800]}


def own(folder, *rows):
    file = folder / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (100, 80)).save(folder / "a.png")
    return file


@pytest.mark.parametrize(("row", "message"), [
    ({"image": "a" * 300 + ".jpg"}, "has a name of more than 255 bytes"),
    ({"image": "é" * 200 + ".jpg"}, "has a name of more than 255 bytes"),
    ({"image": "a/" * 3000 + "b.jpg"}, "has a name of more than 255 bytes"),
    ({"id": "\ud800"}, "lone surrogate"), ({"kind": "x\udfff"}, "lone surrogate"),
    ({"category": "\ud83d"}, "lone surrogate"),
    ({"provenance": {"source": "\ud800"}}, "lone surrogate"), ({"id": HUGE}, "a number of 1,329 bits"),
    ({"box_xyxy": [0, 0, 1e300, 1e300]}, "more than 10,000,000 pixels away"), ({"width": HUGE}, "the image's width"),
    ({"box_xyxy": [60, 50, 30, 20]}, "width -30 .* as xywh it would be a box"),
])  # fmt: skip
def test_a_row_of_own_data_is_refused_by_its_line(tmp_path, row, message):
    good = {"image": "a.png", "text": "x", "box_xyxy": [1, 2, 3, 4]}
    with pytest.raises(DataError, match=rf"own\.jsonl: line 2: .*{message}"):
        read_jsonl(own(tmp_path, good, good | row))


@pytest.mark.parametrize(("row", "fits"), [
    ({"box_xyxy": [300, 500, 420, 800]}, "thousandths of the image"),
    ({"box_xywh": [20, 90, 50, 8]}, "top, left, height, width"),
    ({"box_xyxy": [5000, 5000, 5100, 5100]}, ""),
])  # fmt: skip
def test_a_box_outside_its_image_is_refused_with_what_would_fit(tmp_path, row, fits):
    row = {"image": "a.png", "text": "x", **row}
    message = r"lies outside the image a\.png of 100 x 80 pixels; correct or drop the row" + (
        rf"\. Its numbers would fit as .*{fits}" if fits else "$"
    )
    inside = {"image": "a.png", "text": "y", "box_xyxy": [0, 0, 9, 9], "width": 100, "height": 80}
    with pytest.raises(DataError, match=rf"own\.jsonl: line 2: the box .*{message}"):
        read_jsonl(own(tmp_path, inside, row))  # the size is that of the other row
    # Without a size it is noticed once the image is decoded.
    split = load_split(f"file:{own(tmp_path, row)}", Resolved(Settings()))
    with pytest.raises(DataError, match=message):
        list(decoded_ahead(split.scenes, split.images, 1, 2))
    (verified,) = verify(f"file:{tmp_path / 'own.jsonl'}", Resolved(Settings()))
    assert not verified.ok and re.search(message, verified.annotations[0]) and not verified.broken


def test_a_box_that_reaches_out_of_its_image_stays(tmp_path):
    row = {"image": "a.png", "text": "x", "box_xyxy": [90, 70, 140, 120]}
    split = load_split(f"file:{own(tmp_path, row)}", Resolved(Settings()))
    assert len(list(decoded_ahead(split.scenes, split.images, 1, 2))) == 1
    assert verify(f"file:{tmp_path / 'own.jsonl'}", Resolved(Settings()))[0].ok


def test_own_data_at_a_path_that_is_no_utf8_has_a_name_that_is(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    row = {"image": "a.png", "text": "x", "box_xyxy": [1, 2, 3, 4]}
    file = folder / os.fsdecode(b"\xe9.jsonl")
    own(folder, row).rename(file)
    split = load_split(f"file:{file}", Resolved(Settings()))
    assert split.name == r"file:\xe9" and split.argument.encode() and len(split.scenes) == 1


@pytest.mark.parametrize(("read", "value", "message"), [
    (read_boxes, {"0": {"box": [1, 2, 3, 4], "format": [[[[[]]]]]}}, "its format is"),
    (read_boxes, [{"id": HUGE, "bbox": 3}], "a number of 1,329 bits"),
    (read_rows, {"annotations": [], "categories": 3}, "categories is 3; expected a list of objects"),
    (read_rows, {"annotations": [], "categories": [3]}, r"categories is \[3\]; expected a list of objects"),
    (read_rows, {"annotations": [], "categories": [{"id": [], "name": "x"}]}, "categories is .*expected a list"),
    (read_rows, {"annotations": [], "images": [{"id": {}}]}, "images is .*expected a list of objects"),
    (read_rows, [{"image_id": 1, "bbox": [1, 2, 3, HUGE]}], "the box holds a number of 1,329 bits"),
])  # fmt: skip
def test_a_json_file_is_refused_by_its_row(tmp_path, read, value, message):
    file = tmp_path / "f.json"
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match=rf"f\.json: .*{message}"):
        read(file)


def test_a_category_that_is_a_list_has_no_name_and_a_huge_score_is_none(tmp_path):
    file = tmp_path / "f.json"
    file.write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": []}]))
    assert read_rows(file) == {"1": [((1, 2, 3, 4), 1.0, "")]}
    file.write_text(json.dumps({"0": {"box": [1, 2, 3, 4], "score": HUGE}}))
    assert read_boxes(file)[0][0].score is None


def test_a_tensor_that_claims_to_be_ten_billion_numbers_is_no_box(tmp_path):
    file, row = tmp_path / "f.pth", ["a.jpg", "x", [1, 2, 3, 4], "dog", torch.zeros(4), torch.zeros(4), 0.5]
    for cell, value in ((4, wide_tensor()), (2, wide_tensor()), (6, HUGE), (2, [1, 2, 3, HUGE])):
        torch.save([[*row[:cell], value, *row[cell + 1 :]]], file)
        with pytest.raises(DataError, match=r"f\.pth: row 0"):
            read_iou_result(file)
    for value in ([1, 2, 3, HUGE, 0.5], [[1], 2, 3, 4, 0.5]):
        torch.save({"a.jpg": [["dog", value]]}, file)
        with pytest.raises(DataError, match=r"f\.pth: image 'a\.jpg', row 0"):
            read_detections([file])


@pytest.mark.parametrize("tensors", [
    {"x.rows": torch.tensor([0])}, {"x.rows": torch.tensor([0]), "x.values": torch.ones(1, 2)},
    {"x.rows": torch.tensor([9]), "x.values": torch.ones(1, 2), "x.length": torch.tensor(3)},
    {"x.rows": torch.tensor([0, 1]), "x.values": torch.ones(1, 2), "x.length": torch.tensor(3)},
    {"x.rows": torch.tensor([0]), "x.values": torch.ones(1, 2), "x.length": torch.tensor(10**12)},
    {"x.rows": torch.tensor([0]), "x.values": torch.ones(1, 2), "x.length": torch.tensor(float("nan"))},
], ids=range(6))  # fmt: skip
def test_a_sparse_table_whose_parts_do_not_fit_is_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors: x"):
        read_safetensors(tmp_path / "w.safetensors")


def test_deep_metadata_stays_text(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata={"m": "[" * 100_000})
    assert read_safetensors(tmp_path / "w.safetensors")[1] == {"m": "[" * 100_000}


@pytest.mark.parametrize("text", [
    "pipelines.yolo-clip.on = 1", "pipelines.yolo-clip.on.shapes = 1", "[train.x]\non = []", "a = " + "[" * 50_000,
    ".".join("a" * 3000) + " = 1", "a = " + "[" * 60 + "]" * 60, "[run]\nseed = 1180591620717411303424", "a = '\xe9'",
])  # fmt: skip
def test_settings_are_refused_by_their_file(tmp_path, text):
    file = tmp_path / "b.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"b\.toml: "):
        load_settings(file)


def test_flags_that_contradict_each_other_are_refused():
    for pairs in (["a=1", "a.b=2"], ["a.b=2", "a=1"], ["a.b.c=1", "a.b=[]"]):
        with pytest.raises(SettingsError, match="one setting gives it a value, another one a table"):
            assignments(pairs)
    assert assignments(["a=" + "[" * 5000]) == {"a": "[" * 5000}


@pytest.mark.parametrize("row", [
    3, [1, 2, 3], ["1", "a.jpg", "w", 3, []], ["1", "a.jpg", 3, 3, [["0", "x", [1, 2]]]],
    ["1", "a.jpg", 3, 3, [["0", "x", [1, 2, 3, "4"]]]], ["1", "a.jpg", 3, 3, [[0, "x", [1, 2, 3, 4]]]], "[" * 9000,
], ids=range(7))  # fmt: skip
def test_an_index_with_a_right_hash_and_wrong_rows_says_how_to_make_it_anew(tmp_path, row):
    body = (row if isinstance(row, str) else json.dumps(row)).encode() + b"\n"
    header = {"schema": 2, "dataset": "refcoco", "part": "val", "format": "x", "fingerprint": "f", "sources": []}
    counts = {"expressions": 1, "refs": 1, "images": 1}
    first = json.dumps(header | {"counts": counts, "body_sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"
    (tmp_path / "val.jsonl").write_bytes(first + body)
    for made in (tuple, annotations_of):
        with pytest.raises(DataError, match="its rows are not those of an index; run `bench data prepare"):
            made(read_index(tmp_path / "val.jsonl")[1])
