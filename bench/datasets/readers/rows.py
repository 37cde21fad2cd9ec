"""What every reader does after parsing its own format: check the cells of a row, gather rows into scenes.

`where` names the file and the row or id for the message of a DataError.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import numpy as np

from bench.datasets.fingerprint import image_key
from bench.errors import DataError, short
from bench.grounding import Box, Expression, Scene
from bench.inputs import is_number as is_number

BoxFormat = Literal["xyxy", "xywh"]
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # control and format characters, white space
FARTHEST = 10_000_000  # pixels from the corner of an image: no image is so large
MOST_NAME, MOST_PATH = 255, 4096  # bytes of a file's name, letters of a path: what file systems take
NO_BOX: Box = (math.nan,) * 4
MEANING = {"xyxy": "left, top, right, bottom", "xywh": "left, top, width, height"}


def checked_box(values: object, where: str, box_format: BoxFormat) -> Box:
    """Turn four numbers in `box_format` into xyxy floats, unrounded and unclipped.

    Raises DataError when they are not 4 numbers, hold NaN or infinity, or enclose no area.
    """
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or len(values) != 4 or not all(map(is_number, values)):
        raise DataError(f"{where}: a box should be 4 numbers ({MEANING[box_format]}), not {short(values)}")
    x1, y1, a, b = (float(v) for v in values)
    x2, y2 = (x1 + a, y1 + b) if box_format == "xywh" else (a, b)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise DataError(f"{where}: the box {short(values)} holds NaN or infinity; correct or drop the row")
    if max(map(abs, (x1, y1, x2, y2))) > FARTHEST:
        raise DataError(f"{where}: the box {short(values)} is more than {FARTHEST:,} pixels away; correct the row")
    if x2 <= x1 or y2 <= y1:
        other = "; as xywh it would be a box" if box_format == "xyxy" and a > 0 and b > 0 else ""
        raise DataError(
            f"{where}: the box {short(values)}, read as {MEANING[box_format]}, has width {x2 - x1:g} and height "
            f"{y2 - y1:g}; both should be more than 0{other}"
        )
    return (x1, y1, x2, y2)


def checked_targets(values: object, where: str, box_format: BoxFormat) -> tuple[Box, tuple[Box, ...]]:
    """Turn a list of boxes, perhaps empty, into the `box` and `also` of an expression. Raises DataError."""
    if not isinstance(values, (list, tuple)):
        raise DataError(f"{where}: expected a list of boxes, empty where nothing is referred to, not {short(values)}")
    return targets_of([checked_box(value, where, box_format) for value in values])


def targets_of(boxes: Iterable[Box]) -> tuple[Box, tuple[Box, ...]]:
    """Return the `box` and `also` of an expression, sorted, so that no order of annotations moves a fingerprint."""
    first, *rest = sorted(boxes) or [NO_BOX]
    return first, tuple(rest)


def checked_text(text: object, where: str) -> str:
    """Strip white space off an expression. Raises DataError when it is no text or has nothing visible."""
    if not isinstance(text, str):
        raise DataError(f"{where}: the expression should be text, not {short(text)}")
    text = text.strip()
    if not any(c.isalnum() or unicodedata.category(c) not in INVISIBLE for c in text):
        raise DataError(f"{where}: the expression is empty; write one or drop the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the expression holds half a character (a lone surrogate): {error}") from None
    return text


def checked_name(value: object, where: str, key: str) -> str:
    """Return text or a whole number, an id or a class, as text. Raises DataError for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 128
    if not whole and not (isinstance(value, str) and value.strip()):
        raise DataError(f"{where}: {key!r} should be text or a whole number, not {short(value)}")
    try:
        return str(value).encode().decode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {key!r} holds half a character (a lone surrogate): {short(value)}") from None


def checked_file(name: object, where: str, folders: bool = False) -> str:
    """Return an image's file name; with `folders` a relative path with forward slashes.

    Raises DataError when it could lead out of the folder of images.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DataError(f"{where}: the image's file name should be text, not {short(name)}")
    if len(name) > MOST_PATH or any(len(part.encode()) > MOST_NAME for part in name.split("/")):
        raise DataError(
            f"{where}: the image {short(name)} has a name of more than {MOST_NAME} bytes; no file can have it"
        )
    if "\\" in name:
        raise DataError(f"{where}: the image {name!r} has a backslash; write folders with /")
    parts = name.split("/")
    if len(parts) > 1 and not folders:
        raise DataError(f"{where}: the image {name!r} should be a file name without folders")
    if name.startswith("/") or ".." in parts or parts[-1] in {"", "."} or name[1:2] == ":":
        raise DataError(f"{where}: the image {name!r} leads out of the folder of images; give a path inside it")
    return name


def checked_side(value: object, where: str, name: str) -> int | None:
    """Return an image's `name` (width or height) in pixels, or None. Raises DataError for no whole number above 0."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e6 or value != int(value):
        raise DataError(f"{where}: the image's {name} should be a whole number of pixels above 0, not {short(value)}")
    return int(value)


def scene_of_row(file: str, expression: Expression, width: int | None = None, height: int | None = None) -> Scene:
    """Make a scene of one row, to be gathered with the others about its image; sides in pixels, None if unknown."""
    return Scene(file, file, width, height, (expression,))


def checked_row(
    file: object, expression: Expression, width: object, height: object, where: str, folders: bool = False
) -> Scene:
    """Check the cells of a row's image, and make it a scene of one expression."""
    sides = (checked_side(width, where, "width"), checked_side(height, where, "height"))
    return scene_of_row(checked_file(file, where, folders), expression, *sides)


def gather(rows: Iterable[Scene], source: str) -> list[Scene]:
    """Gather scenes about the same image file into one, in order of first appearance; `source` is for messages.

    A scene's id is its image key, or the file itself where two share a key. Raises DataError when there are no rows,
    two expressions share an id, or one image has two sizes.
    """
    expressions: dict[str, list[Expression]] = {}
    sizes: dict[str, tuple[int | None, int | None]] = {}
    ids: set[str] = set()
    for row in rows:
        # 1. Every id once.
        for expression in row.expressions:
            if expression.id in ids:
                raise DataError(f"{source}: two expressions have the id {expression.id!r}; ids should be unique")
            ids.add(expression.id)
        # 2. One size an image, from the first row that has it.
        before = sizes.get(row.file, (None, None))
        width, height = before[0] or row.width, before[1] or row.height
        if (row.width or width, row.height or height) != (width, height):
            raise DataError(
                f"{source}: expression {row.expressions[0].id} says that {row.file} is {row.width} x {row.height} "
                f"pixels, an earlier one {width} x {height}; which is right?"
            )
        sizes[row.file] = width, height
        expressions.setdefault(row.file, []).extend(row.expressions)
    if not expressions:
        raise DataError(f"{source}: it holds no expressions")
    # 3. Short names, where they are unique.
    shared = Counter(image_key(file) for file in expressions)
    return [
        Scene(key if shared[key := image_key(file)] == 1 else file, file, *sizes[file], tuple(some))
        for file, some in expressions.items()
    ]
