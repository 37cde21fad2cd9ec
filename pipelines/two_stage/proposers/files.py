"""`kind = "file"`: proposals from a JSON file, by the image's id.

    [{"image_id": 5, "bbox": [x, y, w, h], "score": 0.9, "category_id": 1}, ...]     COCO's results format
    {"annotations": [the same], "categories": [{"id": 1, "name": "person"}]}         COCO's instances format
    {"5": [[x, y, w, h], ...], ...}                                                  ReCLIP's {data set}_dets_dict.json

Boxes are left, top, width, height in pixels of the original image. Of the ids only what names the image counts:
5, "000000000005" and "COCO_train2014_000000000005.jpg" are one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from bench.boxes import box_xywh_to_xyxy
from bench.datasets.fingerprint import image_key
from bench.datasets.readers.rows import is_number
from bench.errors import DataError, short
from bench.grounding import LoadedScene, PipelineContext
from bench.hashing import sha256_file
from bench.inputs import load_json
from bench.settings import parse_table, takes
from pipelines import weights
from pipelines.two_stage.proposers.proposals import Proposals, ProposerOptions, SceneProposer

Row = tuple[tuple[float, float, float, float], float, str]  # xywh pixels, score, class name ("" where there is none)
EXPECTED = '{"image_id": 5, "bbox": [x, y, width, height], "score": 0.9}'


class FileOptions(ProposerOptions):
    """[pipelines.*.proposer] of kind "file"."""

    file: str = Field("{dataset}_dets_dict.json", description="{dataset} stands for the data set: refcoco, ...")
    confidence: float = Field(0.0, ge=0, description="rows with a smaller score are left out")
    top_k: int = Field(100, ge=1)


@takes(FileOptions)
def open_file(table: Mapping[str, Any], where: str, context: PipelineContext) -> SceneProposer:
    """Open a file of boxes. An image that it does not name gets no box at all, and a note: nothing is guessed."""
    options = parse_table(FileOptions, table, where)
    name = options.file.replace("{dataset}", context.dataset)
    how = "put the file of boxes there, name another with --set proposer.file=FILE, or --set proposer.kind=yolo"
    path = weights.find(name, context, how)
    known: dict[str, Proposals] = {}
    for image, rows in read_rows(path).items():
        kept = [row for row in rows if row[1] >= options.confidence]
        boxes = box_xywh_to_xyxy(np.array([box for box, _, _ in kept], np.float64).reshape(-1, 4))
        scores = np.array([score for _, score, _ in kept], np.float64)
        proposals = Proposals(boxes, scores, tuple(label for _, _, label in kept))
        known |= {image: proposals, image_key(image): proposals}

    def propose(scene: LoadedScene) -> Proposals:
        proposals = known.get(scene.id, known.get(image_key(scene.id)))
        if proposals is None:
            return Proposals(np.zeros((0, 4)), np.zeros(0), (), note=f"{path.name} has no row for this image")
        return options.tidied(replace(proposals, boxes=scene.placed(proposals.boxes)), scene.image)

    return SceneProposer("FileProposer", propose, {path.name: sha256_file(path)})


def read_rows(path: Path) -> dict[str, list[Row]]:
    """Read image id, as the file has it -> its rows. Raises DataError naming the file, the row and the layout."""
    data = load_json(path)
    # 1. ReCLIP's: image -> boxes.
    if isinstance(data, dict) and "annotations" not in data:
        return {str(image): _boxes(path, image, boxes) for image, boxes in data.items()}
    # 2. COCO's instances: a list of rows, and the names of classes and images beside it.
    names: dict[object, str] = {}
    out: dict[str, list[Row]] = {}
    if isinstance(data, dict):
        names = {c["id"]: str(c["name"]) for c in _objects(data, "categories", path) if {"id", "name"} <= c.keys()}
        out = {str(image["id"]): [] for image in _objects(data, "images", path)}
        data = data["annotations"]
    # 3. COCO's results: the list alone.
    if not isinstance(data, list):
        raise DataError(f"{path}: holds {short(data)}; expected a list of rows such as {EXPECTED}")
    for number, row in enumerate(data):
        where = f"{path}: row {number}"
        if not isinstance(row, dict) or not _is_id(row.get("image_id")):
            raise DataError(f"{where}: {short(row)}; expected a row such as {EXPECTED}")
        category = row.get("category_id")
        label = str(row.get("category_name") or names.get(category if _is_id(category) else None, ""))
        score = _number(row.get("score", 1.0), where, "score")
        out.setdefault(str(row["image_id"]), []).append((_box(row.get("bbox", row.get("box")), where), score, label))
    return out


def _boxes(path: Path, image: str, boxes: object) -> list[Row]:
    """Check ReCLIP's boxes of one image."""
    if not isinstance(boxes, list):
        raise DataError(f"{path}: image {short(image)}: {short(boxes)}; expected a list of [x, y, width, height]")
    return [(_box(box, f"{path}: image {short(image)}, box {n}"), 1.0, "") for n, box in enumerate(boxes)]


def _box(value: object, where: str) -> tuple[float, float, float, float]:
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"{where}: the box is {short(value)}; expected [x, y, width, height] in pixels")
    x, y, width, height = (_number(v, where, "box") for v in value)
    return x, y, width, height


def _objects(data: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """Return the list of objects with an id under a key. Raises DataError for anything else."""
    rows = data.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_id(row.get("id")) for row in rows):
        raise DataError(f'{path}: {key} is {short(rows)}; expected a list of objects such as {{"id": 1}}')
    return rows


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _number(value: object, where: str, what: str) -> float:
    if not is_number(value) or not math.isfinite(value):
        raise DataError(f"{where}: the {what} holds {short(value)}; expected a finite number")
    return float(value)
