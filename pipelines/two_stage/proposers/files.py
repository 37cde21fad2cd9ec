"""`kind = "file"`: boxes found elsewhere, read from a JSON file and asked by the image's id.

    [{"image_id": 5, "bbox": [x, y, w, h], "score": 0.9, "category_id": 1}, ...]     COCO's results format
    {"annotations": [the same], "categories": [{"id": 1, "name": "person"}]}         COCO's instances format
    {"5": [[x, y, w, h], ...], ...}                                                  ReCLIP's {data set}_dets_dict.json

Boxes are left, top, width, height in pixels of the original image. Of the ids only what names the image counts:
5, "000000000005" and "COCO_train2014_000000000005.jpg" are one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from bench.boxes import box_xywh_to_xyxy
from bench.datasets.fingerprint import image_key
from bench.errors import DataError
from bench.grounding import LoadedScene, PipelineContext
from bench.hashing import sha256_file
from pipelines import weights
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, ProposerOptions, opener

EXPECTED = '{"image_id": 5, "bbox": [x, y, width, height], "score": 0.9}'


class FileOptions(ProposerOptions):
    """[pipelines.*.proposer] of kind "file"."""

    file: str = Field("{dataset}_dets_dict.json", description="{dataset} stands for the data set: refcoco, ...")
    confidence: float = Field(0.0, ge=0, description="rows with a smaller score are left out")
    top_k: int = Field(100, ge=1)


class Row(NamedTuple):
    """One box of the file, xywh pixels; its class name is empty where the file says none."""

    box: tuple[float, float, float, float]
    score: float = 1.0
    label: str = ""


class FileProposer(Proposer):
    """Boxes of a file. An image that the file does not name gets none at all, and a note: nothing is guessed."""

    parameters = 0
    accelerated: frozenset[str] = frozenset()

    def __init__(self, options: FileOptions, context: PipelineContext) -> None:
        self.options = options
        name = options.file.replace("{dataset}", context.dataset)
        how = "put the file of boxes there, name another with --set proposer.file=FILE, or --set proposer.kind=yolo"
        path = weights.find(name, context, how)
        self.path = path
        self.sha256 = {path.name: sha256_file(path)}
        self._found: dict[str, Proposals] = {}
        for image, rows in read_rows(path).items():
            kept = [row for row in rows if row.score >= options.confidence]
            boxes = box_xywh_to_xyxy(np.array([row.box for row in kept], np.float64).reshape(-1, 4))
            scores = np.array([row.score for row in kept], np.float64)
            proposals = Proposals(boxes, scores, tuple(row.label for row in kept))
            self._found |= {image: proposals, image_key(image): proposals}

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """One `Proposals` for each scene, by its id; with a note, and no box at all, where the file has none for it."""
        return [self._of(scene) for scene in scenes]

    def _of(self, scene: LoadedScene) -> Proposals:
        found = self._found.get(scene.id, self._found.get(image_key(scene.id)))
        if found is None:
            return Proposals(np.zeros((0, 4)), np.zeros(0), (), note=f"{self.path.name} has no row for this image")
        return self.options.tidied(found, scene.image)


open_file = opener(FileOptions, FileProposer)


def read_rows(path: Path) -> dict[str, list[Row]]:
    """Image id as the file has it -> its rows. Raises DataError naming the file, the row, and what was expected."""
    try:
        held = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); is it cut?") from None
    if isinstance(held, dict) and "annotations" not in held:
        return {str(image): _boxes(path, image, boxes) for image, boxes in held.items()}
    names: dict[object, str] = {}
    out: dict[str, list[Row]] = {}
    if isinstance(held, dict):
        names = {c["id"]: str(c["name"]) for c in held.get("categories", []) if {"id", "name"} <= c.keys()}
        out = {str(image["id"]): [] for image in held.get("images", []) if "id" in image}
        held = held["annotations"]
    if not isinstance(held, list):
        raise DataError(f"{path}: holds {_short(held)}; expected a list of rows such as {EXPECTED}")
    for number, row in enumerate(held):
        where = f"{path}: row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("image_id"), (int, str)):
            raise DataError(f"{where}: {_short(row)}; expected a row such as {EXPECTED}")
        label = row.get("category_name") or names.get(row.get("category_id"), "")
        score = _number(row.get("score", 1.0), where, "score")
        out.setdefault(str(row["image_id"]), []).append(
            Row(_box(row.get("bbox", row.get("box")), where), score, str(label))
        )
    return out


def _boxes(path: Path, image: str, boxes: object) -> list[Row]:
    """ReCLIP's boxes of one image."""
    if not isinstance(boxes, list):
        raise DataError(f"{path}: image {image!r}: {_short(boxes)}; expected a list of [x, y, width, height]")
    return [Row(_box(box, f"{path}: image {image!r}, box {n}")) for n, box in enumerate(boxes)]


def _box(value: object, where: str) -> tuple[float, float, float, float]:
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"{where}: the box is {_short(value)}; expected [x, y, width, height] in pixels")
    x, y, width, height = (_number(v, where, "box") for v in value)
    return x, y, width, height


def _number(value: object, where: str, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where}: the {what} holds {_short(value)}; expected a finite number")
    return float(value)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
