"""Our own format, for people's own data: JSON Lines, one expression a line.

    {"image": "street/0001.jpg", "text": "the red car on the left", "box_xyxy": [12.5, 40, 300, 211]}

    image          the image's path relative to the folder of this file, with /; it may not lead out of that folder
    text           the expression (or `expression`); any language, any length
    box_xyxy       left, top, right, bottom in pixels of the image, as floats, with no "+1"; or
    box_xywh       left, top, width, height; or
    boxes_xyxy     a list of such boxes, of several objects that are all meant; [] where nothing is referred to
    id             what names the expression in predictions; unique. Without it: "<split>:<row>" where both are given,
                   else the line's number, from 1
    width, height  the image's size in pixels; checked when it is opened
    ref_id         the referred object; expressions with the same ref_id refer to the same one
    kind           a class of expression that tables are split by
    category       the class of the referred object
    split, row     where the line comes from in another data set (only used for the id)
    segmentation   the object's mask as in COCO: polygons, or a run-length mask {"size": [height, width], "counts": ...}
    provenance     of a pseudo-label, an object: "source", "detector", "score" and what else its maker says of it

Only image, a text and a box (or boxes) are required; with a segmentation the box may be left out, and is then the one
around it.
Polygons need width and height. The file is UTF-8; empty lines are skipped; any other key is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets.readers import Annotations, ReadOptions, part_of_file
from bench.datasets.readers.rows import (
    BoxFormat,
    checked_file,
    checked_name,
    checked_row,
    checked_side,
    checked_targets,
    checked_text,
    gather,
)
from bench.errors import DataError, nearest, short
from bench.grounding import Expression, Mask, Query, Scene, check_box_touches
from bench.inputs import opened, parsed_json
from bench.masks import box_of, checked_mask, segmentation_box

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued

BOXES = ("box_xyxy", "box_xywh", "boxes_xyxy")
KEYS = (
    "image", "text", "expression", *BOXES, "id", "width", "height",
    "ref_id", "kind", "category", "split", "row", "provenance",
    "segmentation",
)  # fmt: skip


def expected(dataset: Catalogued) -> str:
    """Name the file that may hold any data set."""
    return "or a .jsonl"


def open_annotations(dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
    """Open a .jsonl."""
    if path.suffix != ".jsonl":
        return None
    part = part_of_file(dataset, path, options)
    return Annotations("jsonl", (part,), lambda _: read_jsonl(path), lambda _: [path])


def read_jsonl(path: Path) -> list[Scene]:
    """Load the scenes of a file of the format above, images and expressions in order of first appearance.

    `Scene.file` is the image's path as written. Raises DataError naming the file and the line (from 1), also for a box
    wholly outside an image whose size a line gives.
    """
    scenes = gather(_rows(path), str(path))
    for scene in scenes:
        for expression in scene.expressions:
            if scene.width and scene.height and expression.outside(scene.width, scene.height):
                where = f"{path}: {line_of(path, expression.id)}"
                check_box_touches(scene, expression, scene.width, scene.height, where)
    return scenes


def line_of(path: Path, expression_id: str) -> str:
    """Find where an expression stands in a file: "line 4"."""
    for number, where, record in _records(path):
        if _id(record, number, where) == expression_id:
            return f"line {number}"
    return f"expression {expression_id}"


def read_questions(path: Path) -> Iterator[tuple[str, Query]]:
    """Yield the image's path as written and the query of every line; boxes are neither needed nor checked.

    Raises DataError naming the file and the line (from 1).
    """
    lines: dict[str, int] = {}
    for number, where, record in _records(path):
        name = _new_id(record, number, where, lines)
        text = checked_text(_one_of(record, ("text", "expression"), where)[1], where)
        yield checked_file(_need(record, "image", where), where, folders=True), Query(name, text)


def read_provenance(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return the provenance of every row that has one, by expression id. Raises DataError."""
    by_id: dict[str, Mapping[str, Any]] = {}
    for number, where, record in _records(path):
        provenance = record.get("provenance")
        if provenance is None:
            continue
        if not isinstance(provenance, dict):
            raise DataError(f'{where}: \'provenance\' should be an object such as {{"source": "template"}}')
        by_id[_id(record, number, where)] = provenance
    return by_id


def _rows(path: Path) -> Iterator[Scene]:
    lines: dict[str, int] = {}
    for number, where, record in _records(path):
        mask = _mask(record, where)
        if mask is not None and record.keys().isdisjoint(BOXES):
            record["box_xyxy"] = segmentation_box(record["segmentation"], where, None, None)
        key, given = _one_of(record, BOXES, where)
        form: BoxFormat = "xywh" if key == "box_xywh" else "xyxy"
        box, also = checked_targets(given if key == "boxes_xyxy" else [given], where, form)
        expression = Expression(
            id=_new_id(record, number, where, lines),
            text=checked_text(_one_of(record, ("text", "expression"), where)[1], where),
            box=box,
            also=also,
            held_as=form,
            ref_id=_label(record, "ref_id", where),
            kind=_label(record, "kind", where),
            category=_label(record, "category", where),
            mask=mask,
        )
        file = _need(record, "image", where)
        yield checked_row(file, expression, record.get("width"), record.get("height"), where, folders=True)


def _mask(record: dict[str, Any], where: str) -> Mask | None:
    if record.get("segmentation") is None:
        return None
    sides = [checked_side(record.get(side), where, side) for side in ("width", "height")]
    mask = checked_mask(record["segmentation"], where, *sides)
    if mask is None or box_of(mask) is None:
        without = "" if all(sides) else " or the line has no width and height, which polygons need"
        raise DataError(f"{where}: its segmentation covers no pixel{without}; correct it or leave it out")
    return mask


def _records(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield each line that is not empty: its number, where it is for a message, and its object."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                where = f"{path}: line {number}"
                yield number, where, _parsed(line, where)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    record = parsed_json(line, where, object_pairs_hook=_unrepeated)
    if not isinstance(record, dict):
        raise DataError(f'{where}: a line should be a JSON object, {{"image": ..., "text": ..., "box_xyxy": ...}}')
    for key in record:
        if key not in KEYS:
            near = nearest(key, KEYS)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(KEYS)}"
            raise DataError(f"{where}: the key {short(key)} is not known; {hint}")
    return record


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is given twice")
    return record


def _new_id(record: dict[str, Any], number: int, where: str, lines: dict[str, int]) -> str:
    """Return the line's id, and note its number in `lines`. Raises DataError when an earlier line has the id."""
    name = _id(record, number, where)
    if name in lines:
        raise DataError(f"{where}: the id {name!r} is already that of line {lines[name]}; ids should be unique")
    lines[name] = number
    return name


def _id(record: dict[str, Any], number: int, where: str) -> str:
    if "id" in record:
        name = _label(record, "id", where)
        if name is None:
            raise DataError(f"{where}: an id should be text or a whole number, not null")
        return name
    split, row = _label(record, "split", where), _label(record, "row", where)
    return f"{split}:{row}" if split is not None and row is not None else str(number)


def _one_of(record: dict[str, Any], keys: Sequence[str], where: str) -> tuple[str, Any]:
    """Return the one of some keys that is given, and its value."""
    given = [key for key in keys if key in record]
    if len(given) != 1:
        how = "both are given" if given else "neither is given"
        raise DataError(f"{where}: one of {keys[0]!r} and {keys[1]!r} is needed, and {how}")
    return given[0], record[given[0]]


def _need(record: dict[str, Any], key: str, where: str) -> Any:
    if key not in record:
        raise DataError(f"{where}: the key {key!r} is missing")
    return record[key]


def _label(record: dict[str, Any], key: str, where: str) -> str | None:
    """Return text or a whole number as text; None where it is not given."""
    value = record.get(key)
    return None if value is None else checked_name(value, where, key)
