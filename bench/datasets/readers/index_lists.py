"""The `.pth` index lists of the TransVG and CLIP-VG family: one row an expression.

    five columns   image file, X, box, phrase, Y      RefCOCO, RefCOCO+, RefCOCOg, ReferIt
    three columns  image file, box, phrase            Flickr30k Entities

X is the mask file of a labelled row ("225429.pth": annotation 225429), 'useless placeholder' of a pseudo-label, or in
HiVG's and OneRef's lists a dict {height, width} or, in mixed lists, 'flickr' or 'referit'. Boxes are x, y, width,
height for the COCO sets and throughout mixed lists, corners for ReferIt and Flickr30k; they stay uncut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from bench.datasets.catalog import CATALOGUE
from bench.datasets.pickles import as_text, load_index_list
from bench.datasets.readers import Annotations, ReadOptions, part_of_file
from bench.datasets.readers.rows import BoxFormat, checked_box, checked_row, checked_text, gather
from bench.errors import DataError, UnknownName
from bench.grounding import Expression, Scene

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued

# How boxes are written, by the data set's names and the name of the lists' folder. The embedded `shapes` has no
# published lists and does as the COCO sets.
FORMATS: dict[str, BoxFormat] = {
    **{name: d.list_boxes for d in CATALOGUE for name in (d.name, *d.aliases, d.stem)},
    "shapes": "xywh",
}
PLACEHOLDER = "useless placeholder"
MIXED = {"flickr", "referit"}
# CLIP-VG's lists of one source: place in the order of merging, stem, source, threshold.
SEPARATED = re.compile(r"(\d+)_(.+)_train_pseudo_(.+?)_(\d+_\d+)\.pth")


def expected(dataset: Catalogued) -> str:
    """Name the lists that hold the data set."""
    return f"index lists {dataset.stem}_<part>.pth" if dataset.stem else ""


def open_annotations(dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
    """Open one .pth list, or a folder with <stem>_<part>.pth in it or in <stem>/."""
    if path.suffix == ".pth":
        lists = {part_of_file(dataset, path, options): path}
    else:
        names = {part: f"{dataset.stem}_{part}.pth" for part in dataset.part_names}
        places = (path, path / dataset.stem)
        lists = {part: p / name for part, name in names.items() for p in places if (p / name).is_file()}
    if not lists:
        return None
    return Annotations(
        "index",
        tuple(lists),
        lambda part: read_index_list(lists[part], dataset.name),
        lambda part: [lists[part]],
        protocol=dataset.protocols[0] if dataset.protocols else None,
    )


def read_index_list(path: Path, dataset: str, box_format: Literal["auto", "xyxy", "xywh"] = "auto") -> list[Scene]:
    """Load the scenes of a list, boxes as xyxy pixels, in order of first appearance.

    An expression's id is its row number from 0; its ref_id is the mask file's number ("225429", in ReferIt "9739_7"),
    None for pseudo-labels and Flickr30k. `box_format` "auto" goes by `dataset`. Raises UnknownName for a data set of
    unknown format, UnsafePickle, and DataError naming the file and the row.
    """
    if box_format == "auto" and dataset not in FORMATS:
        raise UnknownName("data set", dataset, FORMATS, hint="or say which boxes it holds: xyxy or xywh")
    usual: BoxFormat = FORMATS[dataset] if box_format == "auto" else box_format

    def rows() -> Iterator[Scene]:
        cells = load_index_list(path)
        for n, row in enumerate(cells):
            where = f"{path}: row {n}"
            if len(row) not in (3, 5):
                raise DataError(f"{where}: it has {len(row)} columns; an index list has 5, or 3 for Flickr30k")
            if len(row) != len(cells[0]):
                raise DataError(
                    f"{where}: it has {len(row)} columns and row 0 has {len(cells[0])}; lists of Flickr30k and of "
                    "other data sets hold other boxes, so keep them in files of their own"
                )
            file, box, phrase = (row[0], row[1], row[2]) if len(row) == 3 else (row[0], row[2], row[3])
            mark = row[1] if len(row) == 5 else None
            form: BoxFormat = "xywh" if box_format == "auto" and isinstance(mark, str) and mark in MIXED else usual
            size: Mapping[object, object] = mark if isinstance(mark, Mapping) else {}
            text = checked_text(as_text(phrase), where)
            expression = Expression(str(n), text, checked_box(box, where, form), _ref_id(mark))
            yield checked_row(file, expression, size.get("width"), size.get("height"), where)

    return gather(rows(), str(path))


def source_of_list(name: str) -> str | None:
    """Return the source in the name of a separated list, None for other names."""
    match = SEPARATED.fullmatch(name)
    return match[3] if match else None


def _ref_id(mark: object) -> str | None:
    """Return the annotation that a mask file belongs to, where X names one."""
    if not isinstance(mark, str) or mark == PLACEHOLDER or mark in MIXED:
        return None
    return PurePosixPath(mark).stem or None
