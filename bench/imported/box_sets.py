"""Several boxes of one expression in a file of predictions, and COCO-style detections gathered by expression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.datasets.readers.rows import is_number
from bench.errors import DataError, short
from bench.grounding import Box, ScoredBox

SETS = ("boxes", "boxes_xyxy", "bboxes", "extracted_predictions")
SCORES = ("scores", "score")


def is_detection(entry: object) -> bool:
    """Tell whether an entry is a COCO-style detection, which has no id of its own."""
    return isinstance(entry, Mapping) and {"image_id", "bbox"} <= entry.keys() and not entry.keys() & {"id", "row"}


def is_set(value: object) -> bool:
    """Tell whether a value is a list of boxes, perhaps an empty one."""
    return isinstance(value, list) and (not value or isinstance(value[0], list))


def by_expression(detections: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """Gather detections -> an entry for each expression that has some. Raises DataError."""
    gathered: dict[str, dict[str, Any]] = {}
    for number, each in enumerate(detections):
        key = each["image_id"]
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise DataError(f"{where}: entry {number}: image_id is {short(key)}; expected a text or a whole number")
        own = gathered.setdefault(str(key), {"id": str(key), "boxes": [], "scores": [], "format": "xywh"})
        own["boxes"].append(each["bbox"])
        own["scores"].append(each.get("score"))
    return [*gathered.values()]


def scored_boxes(where: str, entry: Mapping[str, Any], xywh: bool) -> list[ScoredBox]:
    """Return the boxes of an entry as xyxy pixels, best score first; those without scores stay in order.

    One with a NaN or an infinity is left out, unless no other is left. Raises DataError naming `where`.
    """
    names = [name for name in SETS if name in entry]
    if len(names) != 1:
        raise DataError(f"{where}: has {' and '.join(names)}; expected one of {', '.join(SETS)}")
    given = entry[names[0]]
    if given == [[]]:  # HumanRef's second way to write that nothing is there
        given = []
    if not isinstance(given, list):
        raise DataError(f"{where}: {names[0]} is {short(given)}; expected a list of boxes, [] where nothing is")
    key = next((name for name in SCORES if entry.get(name) is not None), None)
    scores = [None] * len(given) if key is None else entry[key]
    if not isinstance(scores, list) or len(scores) != len(given):
        raise DataError(f"{where}: {len(given)} boxes, but its {key} are {short(scores)}; expected one for each box")
    form = entry.get("format")
    if form not in (None, "xyxy", "xywh"):
        raise DataError(f"{where}: its format is {short(form)}; expected xyxy or xywh")
    sized = form == "xywh" or (form is None and xywh)
    made = [ScoredBox(_box(where, box, sized), _score(where, score)) for box, score in zip(given, scores, strict=True)]
    finite = [each for each in made if all(map(math.isfinite, each.box))]
    if made and not finite:
        raise DataError(f"{where}: no box has four finite numbers; give [] where nothing is, null where no answer is")
    return sorted(finite, key=lambda each: -math.inf if each.score is None else -each.score)


def _box(where: str, value: Any, xywh: bool) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        expected = "[left, top, width, height]" if xywh else "[x1, y1, x2, y2]"
        raise DataError(f"{where}: a box is {short(value)}; expected {expected} in pixels")
    a, b, c, d = map(float, value)
    return (a, b, a + c, b + d) if xywh else (a, b, c, d)


def _score(where: str, value: Any) -> float | None:
    if value is None:
        return None
    if not is_number(value) or not math.isfinite(value):
        raise DataError(f"{where}: a score is {short(value)}; expected a number")
    return float(value)
