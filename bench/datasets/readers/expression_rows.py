"""Benchmarks with a row for each expression: parquet with or without images, JSON Lines, or a JSON list of rows.

    groundingme   id, description, bbox xyxy or null, subtask_l1, width, height, image {bytes, path}   GroundingME
    ref-l4        id, caption, bbox xywh, file_name, width, height, ori_category_id                     Ref-L4
    humanref      id, referring, answer_boxes [xyxy, ...], image_name, domain                           HumanRef
    vlm-r1        image, normal_caption, solution xyxy or null, width, height, categories {hops}        refcocos

The columns are those of the authors' own loaders. A null box, or an empty list, says that nothing is referred to. Rows
without an id of their own are numbered from 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.datasets.prepared import store_images
from bench.datasets.readers import Annotations, ReadOptions, part_of_file
from bench.datasets.readers.hub_rows import image_bytes, records
from bench.datasets.readers.refer import need
from bench.datasets.readers.rows import (
    BoxFormat,
    checked_file,
    checked_name,
    checked_row,
    checked_targets,
    checked_text,
    gather,
)
from bench.errors import DataError, short
from bench.grounding import Expression, Scene
from bench.inputs import load_text, parsed_json

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued


class Layout(NamedTuple):
    """The keys of a row; `one` says that the cell of boxes is one box, `kind` may lie within another cell."""

    text: str
    boxes: str
    form: BoxFormat
    file: str
    id: str = ""
    kind: str = ""
    category: str = ""
    one: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys that a row must have."""
        return tuple(filter(None, (self.text, self.boxes, self.file, self.id)))

    @property
    def optional(self) -> tuple[str, ...]:
        """Further keys that are of use."""
        return tuple(filter(None, (self.kind.partition(".")[0], self.category, "width", "height")))


LAYOUTS = {
    "groundingme": Layout("description", "bbox", "xyxy", "image", "id", "subtask_l1"),
    "ref-l4": Layout("caption", "bbox", "xywh", "file_name", "id", category="ori_category_id"),
    "humanref": Layout("referring", "answer_boxes", "xyxy", "image_name", "id", "domain", one=False),
    "vlm-r1": Layout("normal_caption", "solution", "xyxy", "image", kind="categories.hops"),
}


def expected(dataset: Catalogued) -> str:
    """Name the files that hold the data set."""
    return f"its authors' file, with {', '.join(LAYOUTS[dataset.layout].columns)}" if dataset.layout else ""


def open_annotations(dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
    """Open the authors' file of a part, or a folder with <...part...>.parquet or annotations.jsonl."""
    if not dataset.layout:
        return None
    layout = LAYOUTS[dataset.layout]
    if path.is_dir():
        places = (path, path / "data")
        every = {part: [p for f in places for p in f.glob(f"*{part}*.parquet")] for part in dataset.part_names}
        if len(every) == 1 and (path / "annotations.jsonl").is_file():
            every = {dataset.part_names[0]: [path / "annotations.jsonl"]}
        files = {part: sorted(paths) for part, paths in every.items() if paths}
    elif path.suffix == ".parquet" or (path.suffix in (".json", ".jsonl") and _fits(path, layout)):
        files = {part_of_file(dataset, path, options): [path]}
    else:
        return None
    if not files:
        return None

    def read(part: str) -> list[Scene]:
        return read_rows(files[part], layout)

    def unpack(part: str, target: Path) -> None:
        store_images(_images(files[part], layout), target)

    has_images = layout.file == "image" and all(p.suffix == ".parquet" for each in files.values() for p in each)
    return Annotations(dataset.layout, tuple(files), read, files.__getitem__, unpack=unpack if has_images else None)


def read_rows(files: Sequence[Path], layout: Layout, folders: bool = False) -> list[Scene]:
    """Load the scenes of a part, boxes xyxy pixels; `folders` keeps the folders of images' names.

    Raises DataError naming the file and the row, MissingPackage without polars for parquet.
    """

    def rows() -> Iterator[Scene]:
        for number, (where, row) in enumerate(_rows(files, layout)):
            given = need(row, layout.boxes, where)
            listed = ([] if given is None else [given]) if layout.one else given or []
            box, also = checked_targets(listed, where, layout.form)
            category = row.get(layout.category)
            expression = Expression(
                id=checked_name(need(row, layout.id, where), where, layout.id) if layout.id else str(number),
                text=checked_text(need(row, layout.text, where), where),
                box=box,
                also=also,
                kind=_kind(row, layout, where),
                category=None if category is None else checked_name(category, where, layout.category),
                held_as=layout.form,
            )
            file = _file(need(row, layout.file, where), where, folders)
            yield checked_row(file, expression, row.get("width"), row.get("height"), where, folders)

    return gather(rows(), str(files[0]))


def _kind(row: Mapping[str, Any], layout: Layout, where: str) -> str | None:
    outer, _, inner = layout.kind.partition(".")
    value = row.get(outer)
    if inner:
        value = value.get(inner) if isinstance(value, Mapping) else None
    return None if value is None else f"{inner} {checked_name(value, where, layout.kind)}".strip()


def _file(given: object, where: str, folders: bool) -> str:
    """Return the name of an image, whose cell is a path or {bytes, path}; of bytes without a path a hash of them."""
    if isinstance(given, Mapping):
        data, given = image_bytes(given, where), given.get("path")
        given = given or f"{hashlib.sha256(data).hexdigest()[:16]}.jpg"
    name = given if folders or not isinstance(given, str) else given.rpartition("/")[2]
    return checked_file(name, where, folders)


def _images(files: Sequence[Path], layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Yield each image of parquet files once: its name and its bytes as stored."""
    done: set[str] = set()
    for where, row in records(files, (layout.file,)):
        cell = need(row, layout.file, where)
        if (name := _file(cell, where, folders=False)) not in done:
            done.add(name)
            yield name, image_bytes(cell, where)


def _rows(files: Sequence[Path], layout: Layout) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every row with where it stands."""
    for file in files:
        if file.suffix == ".parquet":
            yield from records([file], (*layout.columns, *layout.optional))
            continue
        for number, row in enumerate(_listed(file)):
            where = f"{file}: row {number}"
            if not isinstance(row, dict):
                raise DataError(f"{where}: it should be an object, not {short(row)}")
            yield where, row


def _listed(file: Path) -> list[Any]:
    if file.suffix == ".jsonl":
        lines = enumerate(load_text(file).splitlines(), 1)
        return [parsed_json(line, f"{file}: line {number}") for number, line in lines if line.strip()]
    content = parsed_json(load_text(file), str(file))
    if not isinstance(content, list):
        raise DataError(f"{file}: it should hold a list of rows, not {short(content)}")
    return content


def _fits(path: Path, layout: Layout) -> bool:
    """Tell whether a file of JSON begins like one of the layout, so that other readers get what does not."""
    if path.suffix == ".json" and not load_text(path).lstrip().startswith("["):
        return False
    first = next(iter(_listed(path)), None)
    return isinstance(first, dict) and set(layout.columns) <= first.keys()
