"""Read imported predictions, JSON or JSONL, into rows; which expression a row is about is decided later.

    {"0": [x1, y1, x2, y2], "1": null, ...}                           keyed by expression id or row number
    {"0": {"pred_bbox": [...], "image_name": "..."}, ...}             the same with an object for each
    [{"id": "0", "box": [...]}, {"row": 1, "box": null}, ...]         a list of objects
    {"id": "0", "box": [...], "score": 0.9}                           JSONL: one such object a line
    {"id": "0", "boxes": [[...], ...], "scores": [...]}               several boxes; [] says that nothing is there
    {"0": {"boxes": [...], "scores": [...], "labels": [...]}, ...}    MDETR's predictions as they are dumped
    [{"image_id": 0, "bbox": [...], "score": 0.9}, ...]               COCO-style detections, x, y, width, height

The box may be called box, bbox, box_xyxy, pred_box or pred_bbox, several boxes boxes, boxes_xyxy, bboxes or
extracted_predictions (HumanRef), the image image_name or file_name. The image_id of a detection is the expression's id,
as in MDETR's JSON; an expression without any detection is one where nothing is. An object may have a "format" of its
own, xyxy or xywh (the prediction files of Ref-L4 and HC-RefLoCo), and a mask, called mask or
segmentation: {"size": [height, width], "counts": ...}, COCO's run-length encoding at the size of the image; without a
box beside it, the box is the one around it. A malformed value is refused with its key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.datasets.readers.rows import is_number
from bench.errors import DataError, short
from bench.grounding import Box, Mask, ScoredBox
from bench.imported.box_sets import SCORES, SETS, by_expression, is_detection, is_set, scored_boxes
from bench.inputs import load_text, parsed_json
from bench.masks import box_of, checked_mask

PREDICTED = ("pred_bbox", "pred_box")  # says that it is not the ground truth, so it wins over a plain "bbox" beside it
PLAIN = ("box_xyxy", "box", "bbox")
IMAGE = ("image_name", "file_name")
MASK = ("mask", "segmentation")


class BoxRow(NamedTuple):
    """One box and what the file says about whose it is. `by` is None for the keys of a JSON object, which do not say.

    `box` is xyxy pixels; None for null and for a box with a NaN or an infinity, both counted misses.
    """

    key: str
    by: Literal["id", "row"] | None
    box: Box | None
    image: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BoxRows:
    """The rows of a file as columns (N); `boxes` (N, 4) is NaN without a box. A row is made when it is wanted.

    `masks`, `others` (further boxes, best first) and `none` (the rows that say that nothing is there) are by the row's
    position. Of `detections` an expression without a row is one where nothing was detected.
    """

    keys: Sequence[str]
    by: Sequence[Literal["id", "row"] | None]
    boxes: NDArray[np.float64]
    images: Sequence[str | None]
    scores: Sequence[float | None]
    masks: Mapping[int, Mask] = field(default_factory=dict)
    others: Mapping[int, tuple[ScoredBox, ...]] = field(default_factory=dict)
    none: frozenset[int] = frozenset()
    detections: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, at: int) -> BoxRow:
        x1, y1, x2, y2 = self.boxes[at].tolist()
        box = None if math.isnan(x1) else (x1, y1, x2, y2)
        return BoxRow(self.keys[at], self.by[at], box, self.images[at], self.scores[at])


def read_boxes(path: Path, xywh: bool = False, prefer: Literal["id", "row"] = "id") -> tuple[BoxRows, int]:
    """Read the rows of a file, and count the keys of a JSON object that came twice (the first is kept).

    `xywh` says that boxes without a format of their own are left, top, width, height; `prefer` picks the key of an
    object that has both an id and a row. Raises DataError naming the file, the key or line, the value and what was
    expected.
    """
    text = load_text(path)
    doubled: list[str] = []
    content = _parse(path, text, doubled)
    if isinstance(content, list) and content and all(map(is_detection, content)):
        gathered = by_expression(content, str(path))
        rows = replace(_rows(path, [*gathered], xywh, prefer), detections=True)
    else:
        rows = _rows(path, content, xywh, prefer)
    if not len(rows):
        raise DataError(f"{path}: has no boxes")
    return rows, len(doubled)


def _parse(path: Path, text: str, doubled: list[str]) -> dict[str, Any] | list[Any]:
    def first_kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = dict(pairs)
        if len(table) == len(pairs):
            return table
        table.clear()
        for key, value in pairs:
            if table.setdefault(key, value) is not value:
                doubled.append(key)
        return table

    if path.suffix.lower() not in (".jsonl", ".ndjson") and not _is_lines(text):
        whole = parsed_json(text, str(path), object_pairs_hook=first_kept)
        if isinstance(whole, dict | list):
            return whole
        raise DataError(f"{path}: contains {short(whole)}; expected an object or a list of objects")
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            lines.append(parsed_json(line, f"{path}, line {number}", object_pairs_hook=first_kept))
    return lines


def _is_lines(text: str) -> bool:
    """Check whether a file that is not called .jsonl is one all the same: an object in its first line, and more."""
    first, _, rest = text.lstrip().partition("\n")
    with suppress(ValueError, RecursionError):
        return first.startswith("{") and bool(rest.strip()) and isinstance(json.loads(first), dict)
    return False


def _rows(path: Path, content: dict[str, Any] | list[Any], xywh: bool, prefer: Literal["id", "row"]) -> BoxRows:
    if isinstance(content, dict) and not any(isinstance(v, dict) or is_set(v) for v in content.values()):
        nothing = [None] * len(content)
        boxes = _boxes([*content.values()], xywh, lambda at: f"{path}: {[*content][at]!r}")
        return BoxRows([*content], nothing, boxes, nothing, nothing)
    others: dict[int, tuple[ScoredBox, ...]] = {}
    none: list[int] = []
    rows: list[Any] = []
    for place, name, kind, entry in _entries(path, content, prefer):
        if entry.keys() & {*SETS}:
            given = scored_boxes(place, entry, xywh)
            none += [] if given else [len(rows)]
            others |= {len(rows): tuple(given[1:])} if len(given) > 1 else {}
            best = {"box": [*given[0].box], "score": given[0].score} if given else {"box": None}
            rest = {key: value for key, value in entry.items() if key not in (*SETS, *PLAIN, *PREDICTED, *SCORES)}
            rows.append((name, kind, *_fields(place, {**rest, **best, "format": "xyxy"}, xywh=False)))
        else:
            rows.append((name, kind, *_fields(place, entry, xywh)))
    keys, by, values, forms, images, scores, drawn = zip(*rows, strict=True) if rows else ((),) * 7
    masks = {at: mask for at, mask in enumerate(drawn) if mask is not None}
    del rows, drawn

    def where(at: int) -> str:
        return next(islice(_entries(path, content, prefer), at, None))[0]

    made = _boxes(values, np.array(forms, np.bool_), where)
    return BoxRows(keys, by, made, images, scores, masks, others, frozenset(none))


def _entries(
    path: Path, content: dict[str, Any] | list[Any], prefer: Literal["id", "row"]
) -> Iterator[tuple[str, str, Literal["id", "row"] | None, dict[str, Any]]]:
    """Yield the entries as objects: where they are, their keys, and what the keys are."""
    if isinstance(content, dict):
        for key, value in content.items():
            one = {"boxes" if is_set(value) else "box": value}
            yield f"{path}: {key!r}", key, None, value if isinstance(value, dict) else one
        return
    order: Iterable[Literal["id", "row"]] = ("id", "row") if prefer == "id" else ("row", "id")
    for number, entry in enumerate(content):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise DataError(
                f'{where}: {short(entry)}; expected an object such as {{"id": "0", "box": [x1, y1, x2, y2]}}'
            )
        by = next((name for name in order if name in entry), None)
        if by is None:
            raise DataError(f"{where}: has neither 'id' nor 'row' (its keys: {short(list(entry))})")
        key = entry[by]
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise DataError(f"{where}: {by} is {short(key)}; expected a text or a whole number")
        yield f"{where} ({by} {short(key)})", str(key), by, entry


def _fields(where: str, entry: dict[str, Any], xywh: bool) -> tuple[Any, bool, str | None, float | None, Mask | None]:
    """Return the box as it stands there, whether it is left, top, width, height, the image, the score and the mask."""
    mask = next((_mask(where, name, entry[name]) for name in MASK if entry.get(name) is not None), None)
    if mask is not None and not entry.keys() & {*PREDICTED, *PLAIN}:
        around = box_of(mask)
        entry = {**entry, "box": around and [*around], "format": "xyxy"}
        xywh = False
    names = [n for n in PREDICTED if n in entry] or [n for n in PLAIN if n in entry]
    if len(names) != 1:
        problem = f"both {' and '.join(names)}" if names else f"no box (its keys: {short(list(entry))})"
        raise DataError(f"{where}: has {problem}; expected one of {', '.join(PREDICTED + PLAIN)}")
    image = next((entry[name] for name in IMAGE if entry.get(name) is not None), None)
    if image is not None and not isinstance(image, str):
        raise DataError(f"{where}: the image's name is {short(image)}; expected a text")
    form = entry.get("format")
    if form not in (None, "xyxy", "xywh"):
        raise DataError(f"{where}: its format is {short(form)}; expected xyxy or xywh")
    if xywh and form == "xyxy":
        raise DataError(f"{where}: its format is xyxy, which --xywh contradicts; leave --xywh out")
    score: Any = entry.get("score")
    known = is_number(score) and math.isfinite(score)
    return entry[names[0]], xywh or form == "xywh", image, float(score) if known else None, mask


def _mask(where: str, name: str, value: Any) -> Mask | None:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: its {name} is {short(value)}; expected a run-length mask {{size, counts}}, or null")
    return checked_mask(value, where, None, None)


def _boxes(values: Sequence[Any], xywh: bool | NDArray[np.bool_], where: Callable[[int], str]) -> NDArray[np.float64]:
    """Return boxes (N, 4) as xyxy; `xywh`, of all or of each, says which are left, top, width, height."""
    size = np.broadcast_to(xywh, len(values))
    boxes = np.full((len(values), 4), np.nan)
    there = [value for value in values if value is not None]
    if {*map(type, there)} <= {list} and {*map(len, there)} <= {4}:
        types = {*map(type, chain.from_iterable(there))}
    else:
        types = {object}
    if types <= {int, float}:
        with suppress(OverflowError):  # a whole number too large for a float
            flat = np.fromiter(chain.from_iterable(there), np.float64, 4 * len(there))
            boxes[[value is not None for value in values]] = flat.reshape(-1, 4)
            boxes[~np.isfinite(boxes).all(axis=1)] = np.nan
            boxes[size, 2:] += boxes[size, :2]
            return boxes
    for at, value in enumerate(values):
        if (box := _box(where, at, value, bool(size[at]))) is not None:
            boxes[at] = box
    return boxes


def _box(where: Callable[[int], str], at: int, value: Any, xywh: bool) -> Box | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or any(type(v) not in (int, float) for v in value):
        expected = "[left, top, width, height]" if xywh else "[x1, y1, x2, y2]"
        raise DataError(f"{where(at)}: the box is {short(value)}; expected {expected} in pixels, or null")
    if not all(map(is_number, value)):  # too large for a float
        return None
    a, b, c, d = map(float, value)
    if not all(math.isfinite(v) for v in (a, b, c, d)):
        return None
    return (a, b, a + c, b + d) if xywh else (a, b, c, d)
