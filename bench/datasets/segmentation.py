"""The box around a COCO segmentation: polygons, or run-length masks through pycocotools.

pycocotools is C that trusts its input, so sizes, counts and characters of a mask are checked before it sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.datasets.rows import checked_box
from bench.errors import DataError, MissingPackage
from bench.grounding import Box

MOST_SIDE = 1 << 15


def segmentation_box(segmentation: object, where: str, width: int | None, height: int | None) -> Box:
    """xyxy pixels around a segmentation.

    It is a list of polygons ([x, y, x, y, ...] pixels; their extreme corners, as in COCO's own boxes), a run-length
    mask {size: [height, width], counts} or a list of those, with counts as a list of ints, compressed text or bytes; a
    mask's box reaches from the left edge of its first pixel to the right edge of its last. Raises DataError.
    """
    parts: list[Any] = segmentation if isinstance(segmentation, list) else [segmentation]
    if parts and all(isinstance(p, Mapping) for p in parts):
        boxes = [_mask_box(p, where) for p in parts]
        boxes = [b for b in boxes if b[2] > b[0] and b[3] > b[1]]
        if not boxes:
            raise DataError(f"{where}: its mask is empty")
        sizes = {tuple(p["size"]) for p in parts}
        if width and height and sizes != {(height, width)}:
            raise DataError(f"{where}: its mask is {sizes} (height, width), its picture {height} x {width}")
    elif parts and all(isinstance(p, list) for p in parts):
        boxes = [_polygon_box(p, where) for p in parts]
    else:
        raise DataError(f"{where}: its segmentation is neither polygons nor run-length masks")
    corners = np.array(boxes)
    x1, y1 = corners[:, :2].min(axis=0).tolist()
    x2, y2 = corners[:, 2:].max(axis=0).tolist()
    return checked_box([x1, y1, x2, y2], where, "xyxy")


def _polygon_box(polygon: list[Any], where: str) -> tuple[float, float, float, float]:
    try:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        points = np.empty((0, 2))
    if len(points) < 1 or not np.isfinite(points).all():
        raise DataError(f"{where}: a polygon should be x, y, x, y, ... in pixels")
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def _mask_box(rle: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    try:
        from pycocotools import mask
    except ImportError:
        raise MissingPackage('masks need pycocotools: pip install "grounding-bench"') from None
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(_is_side(s) for s in size):
        raise DataError(f"{where}: a mask's size should be [height, width] in pixels, not {size!r:.60}")
    height, width = size
    if isinstance(counts, list):
        if not all(isinstance(c, int) and c >= 0 for c in counts) or sum(counts) != height * width:
            raise DataError(f"{where}: a mask's counts should add up to {height} x {width} pixels")
        packed = mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    else:
        text = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
        # Each character holds 5 bits and, with 0x20 set, says that its number goes on: the last may not.
        if not isinstance(text, bytes) or not text or not all(48 <= c < 112 for c in text) or (text[-1] - 48) & 0x20:
            raise DataError(f"{where}: a mask's counts are neither numbers nor a compressed mask")
        packed = {"size": [height, width], "counts": text}
        if int(mask.area(packed)) > height * width:
            raise DataError(f"{where}: a mask's counts run past its {height} x {width} pixels")
    x, y, w, h = (float(v) for v in mask.toBbox(packed))
    if x + w > width or y + h > height:
        raise DataError(f"{where}: a mask's counts lead out of its {height} x {width} pixels")
    return (x, y, x + w, y + h)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST_SIDE
