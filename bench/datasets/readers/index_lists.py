"""The `.pth` index lists of the TransVG and CLIP-VG family: one row an expression.

    five columns   image file, X, box, phrase, Y      RefCOCO, RefCOCO+, RefCOCOg, ReferIt
    three columns  image file, box, phrase            Flickr30k Entities

X is the mask file of a labelled row ("225429.pth": annotation 225429), 'useless placeholder' of a pseudo-label, or in
HiVG's and OneRef's lists a dict {height, width} or, in mixed lists, 'flickr' or 'referit'. Boxes are x, y, width,
height for the COCO sets and throughout mixed lists, corners for ReferIt and Flickr30k; they stay uncut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from bench.datasets.pickles import as_text, load_index_list
from bench.datasets.readers.rows import BoxFormat, Row, checked_box, checked_file, checked_side, checked_text, gather
from bench.errors import DataError, UnknownName
from bench.grounding import Expression, Scene

COCO: BoxFormat = "xywh"  # of the sets about COCO's images; the embedded `shapes` has no published lists and does alike
FORMATS: dict[str, BoxFormat] = {
    **dict.fromkeys(("refcoco", "refcoco+", "refcocog", "refcocog-umd", "refcocog-google"), COCO),
    "referit": "xyxy",
    "flickr30k": "xyxy",
    "shapes": COCO,
    # The names that the lists' own folders use.
    "unc": COCO,
    "unc+": COCO,
    "gref": COCO,
    "gref_umd": COCO,
    "flickr": "xyxy",
}
PLACEHOLDER = "useless placeholder"
MIXED = {"flickr", "referit"}


def read_index_list(path: Path, dataset: str, box_format: Literal["auto", "xyxy", "xywh"] = "auto") -> list[Scene]:
    """Load the scenes of a list, boxes as xyxy pixels, in order of first appearance.

    An expression's id is its row number from 0; its ref_id is the mask file's number ("225429", in ReferIt "9739_7"),
    None for pseudo-labels and Flickr30k. `box_format` "auto" goes by `dataset`. Raises UnknownName for a data set of
    unknown format, UnsafePickle, and DataError naming the file and the row.
    """
    if box_format == "auto" and dataset not in FORMATS:
        raise UnknownName("data set", dataset, FORMATS, hint="or say which boxes it holds: xyxy or xywh")
    usual: BoxFormat = FORMATS[dataset] if box_format == "auto" else box_format

    def rows() -> Iterator[Row]:
        held_rows = load_index_list(path)
        for n, row in enumerate(held_rows):
            where = f"{path}: row {n}"
            if len(row) not in (3, 5):
                raise DataError(f"{where}: it has {len(row)} columns; an index list has 5, or 3 for Flickr30k")
            if len(row) != len(held_rows[0]):
                raise DataError(
                    f"{where}: it has {len(row)} columns and row 0 has {len(held_rows[0])}; lists of Flickr30k and of "
                    "other data sets hold other boxes, so keep them in files of their own"
                )
            file, box, phrase = (row[0], row[1], row[2]) if len(row) == 3 else (row[0], row[2], row[3])
            mark = row[1] if len(row) == 5 else None
            held: BoxFormat = "xywh" if box_format == "auto" and isinstance(mark, str) and mark in MIXED else usual
            size: Mapping[object, object] = mark if isinstance(mark, Mapping) else {}
            expression = Expression(
                id=str(n),
                text=checked_text(as_text(phrase), where),
                box=checked_box(box, where, held),
                ref_id=_ref_id(mark),
            )
            yield Row(
                checked_file(file, where),
                expression,
                checked_side(size.get("width"), where, "width"),
                checked_side(size.get("height"), where, "height"),
            )

    return gather(rows(), str(path))


def _ref_id(mark: object) -> str | None:
    """The annotation that a mask file belongs to, where X names one."""
    if not isinstance(mark, str) or mark == PLACEHOLDER or mark in MIXED:
        return None
    return PurePosixPath(mark).stem or None
