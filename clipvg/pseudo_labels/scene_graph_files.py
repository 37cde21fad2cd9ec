"""Read scene graphs of other programs, RelTR for example: triplets of each image, or phrases made of them.

    graphs.jsonl   {"image": "COCO_train2014_000000581857.jpg", "triplets": [TRIPLET, ...]}      a line for each image
    graphs.json    a list of the same

    TRIPLET        {"subject": "man", "predicate": "on", "object": "horse",
                    "subject_box": [x1, y1, x2, y2], "object_box": [x1, y1, x2, y2], "scores": [0.9, 0.8, 0.9]}

    *_train_pseudo_split_0.pth     an index list of finished phrases, as CLIP-VG's authors hand theirs out

Boxes of triplets are corners in pixels of the original image. `object_box` may be left out, and `scores` (of subject,
predicate and object, in that order) where all three are sure. An image may stand in several lines, and goes by its
name without folders: 581857 and COCO_train2014_000000581857.jpg are one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.boxes import iou_elementwise
from bench.datasets.fingerprint import image_key
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.rows import checked_box, checked_name, checked_text
from bench.errors import DataError, short
from bench.grounding import Box, Expression
from clipvg.pseudo_labels.given_files import json_rows

EXPECTED = (
    '{"image": "a.jpg", "triplets": [{"subject": "man", "predicate": "on", "object": "horse", "subject_box": [...]}]}'
)
KEYS = {"subject", "predicate", "object", "subject_box", "object_box", "scores"}
_PLACE = re.compile(r"\{(?:subject|predicate|object)\}")
SAME = 0.5  # IoU above which two boxes are one subject


@dataclass(frozen=True, slots=True)
class Triplet:
    """Two objects and what the first does to the second. Boxes are xyxy pixels of the image; `scores` of subject,
    predicate and object, 0..1. `predicate_by` says what scored the predicate: "geometry", "clip", "file"."""

    subject: str
    predicate: str
    object: str
    subject_box: Box
    object_box: Box | None
    scores: tuple[float, float, float] = (1.0, 1.0, 1.0)
    predicate_by: str = "file"

    @property
    def score(self) -> float:
        return math.prod(self.scores)

    @property
    def words(self) -> tuple[str, str, str]:
        return (self.subject, self.predicate, self.object)

    def phrase(self, pattern: str) -> str:
        """Fill a pattern with the places {subject}, {predicate} and {object}."""
        places = {"{subject}": self.subject, "{predicate}": self.predicate, "{object}": self.object}
        return " ".join(_PLACE.sub(lambda place: places[place[0]], pattern).split())

    def provenance(self) -> dict[str, Any]:
        """Return its part of a label's provenance."""
        table: dict[str, Any] = {
            "score": round(self.score, 4),
            "subject": self.subject,
            "predicate": self.predicate,
            "object": self.object,
            "object_box": None if self.object_box is None else [round(v, 2) for v in self.object_box],
            "scores": [round(v, 4) for v in self.scores],
            "predicate_by": self.predicate_by,
            "entities": 2,
        }
        return table if self.object_box is not None else {k: v for k, v in table.items() if k != "object_box"}


def read_triplets(path: Path) -> dict[str, list[tuple[str, Triplet]]]:
    """Read image key -> its triplets in the order of the file, each with where it stands for a message.

    Raises DataError naming the file, the line or entry, the triplet, and what was expected.
    """
    out: dict[str, list[tuple[str, Triplet]]] = {}
    for where, entry in json_rows(path, "entry", EXPECTED):
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("triplets"), list)
            or set(entry) - {"image", "triplets"}
        ):
            raise DataError(f"{where}: {short(entry)}; expected an object with the keys image and triplets: {EXPECTED}")
        image = entry.get("image")
        triplets = out.setdefault(image_key(checked_name(image, where, "image")), [])
        for number, triplet in enumerate(entry["triplets"]):
            place = f"{where}: triplet {number}"
            triplets.append((place, _triplet(triplet, place)))
    if not out:
        raise DataError(f"{path}: it holds no images; expected {EXPECTED}")
    return out


def read_phrases(path: Path, dataset: str) -> dict[str, list[Expression]]:
    """Read image key -> the finished phrases of an index list with their subjects' boxes, xyxy pixels.

    Raises UnknownName for a data set whose lists are not known, UnsafePickle, DataError.
    """
    out: dict[str, list[Expression]] = {}
    for scene in read_index_list(path, dataset):
        out.setdefault(image_key(scene.file), []).extend(scene.expressions)
    return out


def _triplet(row: Any, where: str) -> Triplet:
    if not isinstance(row, dict):
        raise DataError(f"{where}: {short(row)}; expected an object with the keys {', '.join(sorted(KEYS))}")
    if unknown := sorted(set(row) - KEYS):
        raise DataError(f"{where}: the key {short(unknown[0])} is not known; known: {', '.join(sorted(KEYS))}")
    if lacking := sorted(KEYS - {"object_box", "scores"} - set(row)):
        raise DataError(f"{where}: the key {lacking[0]!r} is missing")
    subject, predicate, other = (
        checked_text(row[key], f"{where}: {key}").lower() for key in ("subject", "predicate", "object")
    )
    subject_box = checked_box(row["subject_box"], f"{where}: subject_box", "xyxy")
    box = row.get("object_box")
    object_box = None if box is None else checked_box(box, f"{where}: object_box", "xyxy")
    return Triplet(subject, predicate, other, subject_box, object_box, _scores(row.get("scores", [1.0] * 3), where))


def _scores(values: Any, where: str) -> tuple[float, float, float]:
    good = isinstance(values, list) and len(values) == 3 and not any(isinstance(v, bool) for v in values)
    if not good or not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in values):
        raise DataError(
            f"{where}: scores is {short(values)}; expected three numbers from 0 to 1: of subject, predicate, object"
        )
    subject, predicate, other = (float(v) for v in values)
    return subject, predicate, other


def choose(triplets: Sequence[Triplet], min_score: float, top: int, unique: bool = False) -> list[Triplet]:
    """Choose the `top` best triplets of an image whose three scores exceed `min_score`.

    Best first by their product, as RelTR does. The same words about the same box count once. With `unique`, words that
    also fit another box of the image are left out: nobody could tell which is meant. As published they stay.
    """
    # 1. Sure ones, ranked. "a left of b" and "b right of a" are equal but for the last digit; equals keep their order.
    sure = [t for t in triplets if min(t.scores) > min_score]
    ranked = sorted(sure, key=lambda t: -round(t.score, 6))
    # 2. Without words that fit two subjects.
    if unique:
        ranked = [t for t in ranked if not any(_another(t, other) for other in ranked)]
    # 3. Each phrase of a box once.
    first: dict[tuple[object, ...], Triplet] = {}
    for triplet in ranked:
        first.setdefault((*triplet.words, triplet.subject_box), triplet)
    return list(first.values())[:top]


def _another(a: Triplet, b: Triplet) -> bool:
    """Whether the same words are about two different subjects."""
    return a.words == b.words and float(iou_elementwise(a.subject_box, b.subject_box)) <= SAME
