"""Detections of images, and the files in which Pseudo-Q keeps them: torch-saved dicts, image -> rows.

    {"COCO_train2014_000000000009.jpg": [["bowl", [x1, y1, x2, y2, confidence]], ...], ...}          detections
    {"COCO_train2014_000000000009.jpg": [["bowl", [x1, y1, x2, y2, confidence], [400 scores]], ...], ...}  attributes

Boxes are xyxy pixels of the original image; an image goes by any name that `image_key` knows as its own. The files
are read as plain containers, numbers and arrays of numbers; nothing in them is executed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.datasets.fingerprint import image_key
from bench.datasets.torch_files import load_torch
from bench.errors import DataError, short
from bench.grounding import Box, Boxes, ImageArray, PipelineContext, Scene
from pipelines import weights

MOST_SCORES = 1 << 16  # of a row
ROW = '["bowl", [x1, y1, x2, y2, confidence]]'
SCORED_ROW = '["bowl", [x1, y1, x2, y2, confidence], [a score for each attribute]]'
# What numpy calls to rebuild an array and a number, and the two names that its versions pickle them under.
_REBUILDERS = (np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0])
_ARRAYS: list[Any] = [
    *(
        (call, f"numpy.{core}.multiarray.{name}")
        for call, name in zip(_REBUILDERS, ("_reconstruct", "scalar"), strict=True)
        for core in ("core", "_core")
    ),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8")),
]


@dataclass(frozen=True, slots=True)
class Detection:
    """One named box, xyxy pixels of its image. `attribute` is how it looks ("striped red"), empty where not known."""

    name: str
    box: Box
    confidence: float
    attribute: str = ""
    attribute_score: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """A scene, its image, its detections, most confident first, and the detector's name."""

    scene: Scene
    image: ImageArray
    detections: list[Detection]
    detector: str


# Of one image's rows in an attribute file: N class names, boxes (N, 4), scores of A attributes (N, A).
AttributeScores = tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float32]]


def boxes_of(detections: Sequence[Detection]) -> Boxes:
    """Stack the boxes of detections -> (N, 4) xyxy pixels."""
    return np.array([detection.box for detection in detections], np.float64).reshape(-1, 4)


def find_files(files: Sequence[str], context: PipelineContext) -> list[Path]:
    """Find the named files; {dataset} in a name stands for the data set. Raises WeightsError with the places."""
    names = [file.replace("{dataset}", context.dataset) for file in files]
    return [weights.find(name, context, "put the file there, or name another") for name in names]


def read_detections(paths: Sequence[Path]) -> dict[str, list[Detection]]:
    """Read image key -> its rows, of all files together. Raises DataError naming file, image and row."""
    table: dict[str, list[Detection]] = {}
    for path in paths:
        for image, rows in _images(path):
            table[_new_key(path, image, table)] = [
                _row(row, _where(path, image, n), ROW, (2, 3)) for n, row in enumerate(rows)
            ]
    return table


def read_attributes(paths: Sequence[Path], count: int) -> dict[str, AttributeScores]:
    """Read image key -> its rows with scores of `count` attributes. Raises DataError as `read_detections` does."""
    table: dict[str, AttributeScores] = {}
    for path in paths:
        for image, rows in _images(path):
            key = _new_key(path, image, table)
            detections = [_row(row, _where(path, image, n), SCORED_ROW, (3,)) for n, row in enumerate(rows)]
            scores = [_numbers(row[2], _where(path, image, n), SCORED_ROW) for n, row in enumerate(rows)]
            for n, values in enumerate(scores):
                if values.shape != (count,):
                    raise DataError(
                        f"{_where(path, image, n)}: {values.size} attribute scores for a vocabulary of {count} words"
                    )
            names = tuple(detection.name for detection in detections)
            table[key] = names, boxes_of(detections), np.array(scores, np.float32).reshape(len(rows), count)
    return table


def _images(path: Path) -> list[tuple[str, Sequence[Any]]]:
    """Every image's name as the file has it, and its rows."""
    table = load_torch(path, _ARRAYS)
    if not isinstance(table, Mapping):
        raise DataError(f"{path}: holds a {type(table).__name__}; expected a dict, image -> list of {ROW}")
    for image, rows in table.items():
        if not isinstance(image, str) or not isinstance(rows, (list, tuple)):
            raise DataError(
                f"{path}: {short(image)} -> {short(rows)}; expected the name of an image and a list of {ROW}"
            )
    return list(table.items())


def _new_key(path: Path, image: str, table: Mapping[str, Any]) -> str:
    key = image_key(image)
    if key in table:
        raise DataError(f"{path}: the image {short(image)} has been named before, in this file or in one before it")
    return key


def _where(path: Path, image: str, row: int) -> str:
    return f"{path}: image {short(image)}, row {row}"


def _row(row: object, where: str, expected: str, lengths: tuple[int, ...]) -> Detection:
    if not isinstance(row, (list, tuple)) or len(row) not in lengths or not isinstance(row[0], str):
        raise DataError(f"{where}: {short(row)}; expected {expected}")
    values = _numbers(row[1], where, expected)
    if values.shape != (5,) or not np.isfinite(values).all():
        raise DataError(f"{where}: the box is {short(row[1])}; expected five finite numbers, as in {expected}")
    x1, y1, x2, y2, confidence = values.tolist()
    if x2 < x1 or y2 < y1:
        raise DataError(f"{where}: the box {x1:g}, {y1:g}, {x2:g}, {y2:g} is not left, top, right, bottom")
    return Detection(row[0].strip(), (x1, y1, x2, y2), confidence)


def _numbers(values: object, where: str, expected: str) -> NDArray[np.float64]:
    shape = getattr(values, "shape", None)
    try:
        if shape is not None and math.prod(shape) > MOST_SCORES:  # a view of one number may have any shape
            raise ValueError
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise DataError(f"{where}: {short(values)} where numbers should be; expected {expected}") from None
