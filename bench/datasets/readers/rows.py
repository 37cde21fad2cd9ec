"""One annotated row made sure of, and rows gathered into scenes: what every reader does after parsing its own format.

`where` names the file and the row or id for the message of a DataError.
"""

from __future__ import annotations

import math
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.datasets.fingerprint import image_key
from bench.errors import DataError
from bench.grounding import Box, Expression, Scene

BoxFormat = Literal["xyxy", "xywh"]
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # control and format characters, white space
MEANING = {"xyxy": "left, top, right, bottom", "xywh": "left, top, width, height"}


@dataclass(frozen=True, slots=True)
class Row:
    """One expression and the image it is about; `width` and `height` in pixels, None where not annotated."""

    file: str
    expression: Expression
    width: int | None = None
    height: int | None = None


def checked_box(values: object, where: str, box_format: BoxFormat) -> Box:
    """Four numbers in `box_format` -> xyxy floats, unrounded and unclipped.

    Raises DataError when they are not 4 numbers, hold NaN or infinity, or enclose no area.
    """
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or len(values) != 4 or not all(map(_is_number, values)):
        raise DataError(f"{where}: a box should be 4 numbers ({MEANING[box_format]}), not {_short(values)}")
    try:
        x1, y1, a, b = (float(v) for v in values)
    except OverflowError:
        x1 = y1 = a = b = math.inf
    x2, y2 = (x1 + a, y1 + b) if box_format == "xywh" else (a, b)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise DataError(f"{where}: the box {_short(values)} holds NaN or infinity; correct or drop the row")
    if x2 <= x1 or y2 <= y1:
        raise DataError(
            f"{where}: the box {_short(values)}, read as {MEANING[box_format]}, has width {x2 - x1:g} and height "
            f"{y2 - y1:g}; both should be more than 0"
        )
    return (x1, y1, x2, y2)


def checked_text(text: object, where: str) -> str:
    """The expression without white space at its ends. Raises DataError when it is no text or holds nothing to read."""
    if not isinstance(text, str):
        raise DataError(f"{where}: the expression should be text, not {_short(text)}")
    text = text.strip()
    if not any(c.isalnum() or unicodedata.category(c) not in INVISIBLE for c in text):
        raise DataError(f"{where}: the expression is empty; write one or drop the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the expression holds half a character (a lone surrogate): {error}") from None
    return text


def checked_file(name: object, where: str, folders: bool = False) -> str:
    """An image's file name; with `folders` a relative path with forward slashes. Raises DataError when it could lead
    out of the folder of images."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DataError(f"{where}: the image's file name should be text, not {_short(name)}")
    if "\\" in name:
        raise DataError(f"{where}: the image {name!r} has a backslash; write folders with /")
    parts = name.split("/")
    if len(parts) > 1 and not folders:
        raise DataError(f"{where}: the image {name!r} should be a file name without folders")
    if name.startswith("/") or ".." in parts or parts[-1] in {"", "."} or name[1:2] == ":":
        raise DataError(f"{where}: the image {name!r} leads out of the folder of images; give a path inside it")
    return name


def checked_side(value: object, where: str, name: str) -> int | None:
    """An image's `name` (width or height) in pixels, or None. Raises DataError when it is no whole number above 0."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e6 or value != int(value):
        raise DataError(f"{where}: the image's {name} should be a whole number of pixels above 0, not {_short(value)}")
    return int(value)


def gather(rows: Iterable[Row], source: str) -> list[Scene]:
    """Gather rows into scenes, one an image file, in order of first appearance; `source` names the file in messages.

    A scene's id is its image key, or the file itself where two share a key. Raises DataError when there are no rows,
    two expressions share an id, or one image has two sizes.
    """
    expressions: dict[str, list[Expression]] = {}
    sizes: dict[str, tuple[int | None, int | None]] = {}
    ids: set[str] = set()
    for row in rows:
        if row.expression.id in ids:
            raise DataError(f"{source}: two expressions have the id {row.expression.id!r}; ids should be unique")
        ids.add(row.expression.id)
        before = sizes.get(row.file, (None, None))
        width, height = before[0] or row.width, before[1] or row.height
        if (row.width or width, row.height or height) != (width, height):
            raise DataError(
                f"{source}: expression {row.expression.id} says that {row.file} is {row.width} x {row.height} pixels, "
                f"an earlier one {width} x {height}; which is right?"
            )
        sizes[row.file] = width, height
        expressions.setdefault(row.file, []).append(row.expression)
    if not expressions:
        raise DataError(f"{source}: it holds no expressions")
    shared = Counter(image_key(file) for file in expressions)
    return [
        Scene(key if shared[key := image_key(file)] == 1 else file, file, *sizes[file], tuple(some))
        for file, some in expressions.items()
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: object) -> str:
    return repr(value) if isinstance(value, str) and len(value) < 100 else reprlib.repr(value)
