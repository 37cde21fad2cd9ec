"""Masks outside a model: COCO's run-length encoding, {"size": [height, width], "counts": compressed text}.

pycocotools does the work. Its C code trusts what it gets, so whatever comes from a file passes `checked_mask` or
`refuse_broken` first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from bench.errors import DataError, short
from bench.grounding import Box, Mask

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
MOST_SIDE = 1 << 15
FARTHEST = 100_000  # pixels from the image's corner: pycocotools walks along every edge of a polygon
# Each character holds 5 bits and, with 0x20 set, says that its number goes on: the last may not.
COUNTS = re.compile(r"[0-o]*[0-O]")


def encode(inside: NDArray[Any]) -> Mask:
    """Encode where an array (H, W) is true."""
    counts = coco.encode(np.asfortranarray(inside, np.uint8))["counts"]
    return {"size": list(inside.shape), "counts": counts.decode()}


def decode(mask: Mask) -> Bool:
    """Decode a mask -> (H, W) of bool. Raises DataError for one that is broken."""
    refuse_broken([mask], lambda _: "a mask")
    height, width = mask["size"]
    runs = _runs(mask["counts"])
    assert runs is not None
    # Not by pycocotools: what a mask does not mention would be whatever lies in memory.
    flat = np.zeros(height * width, np.bool_)
    flat[: runs.sum()] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def box_of(mask: Mask) -> Box | None:
    """Return the box around a mask, xyxy pixels: the edges of its first and last pixels; None for an empty one."""
    x, y, w, h = map(float, coco.toBbox(_raw(mask)))
    return (x, y, x + w, y + h) if w and h else None


def of_box(box: Box, height: int, width: int) -> Mask:
    """Fill a box, xyxy pixels, in an image of that size as pycocotools does."""
    x1, y1, x2, y2 = box
    (filled,) = coco.frPyObjects(np.array([[x1, y1, x2 - x1, y2 - y1]], np.float64), height, width)
    return {"size": [height, width], "counts": filled["counts"].decode()}


def areas(masks: Sequence[Mask]) -> Int:
    """Count the pixels of masks (N,)."""
    return _areas([_raw(mask) for mask in masks])


def _areas(raw: Sequence[Any]) -> Int:
    # One by one: of several at once pycocotools with numpy 2 counts 255 at most.
    return np.array([int(coco.area(one)) for one in raw], np.int64)


def overlaps(predicted: Sequence[Mask | None], truths: Sequence[Mask | None]) -> tuple[Int, Int]:
    """Count the pixels of intersections (N,) and unions (N,) of pairs; None is an empty mask."""
    empty: Mask = {"size": [1, 1], "counts": "1"}
    ours, theirs = ([_raw(empty if m is None else m) for m in masks] for masks in (predicted, truths))
    both = [
        coco.merge([a, b], intersect=True) if p is not None and t is not None else _raw(empty)
        for p, t, a, b in zip(predicted, truths, ours, theirs, strict=True)
    ]
    one, other, shared = map(_areas, (ours, theirs, both))
    return shared, one + other - shared


def checked_mask(segmentation: object, where: str, width: int | None, height: int | None) -> Mask | None:
    """Make one mask of a segmentation; None for polygons without any area, or without a size of the image.

    It is a list of polygons ([x, y, x, y, ...] pixels) or one of them, a run-length mask {size: [height, width],
    counts} or a list of those, with counts as a list of ints, compressed text or bytes. Raises DataError.
    """
    parts = _parts(segmentation, where)
    if isinstance(parts[0], Mapping):
        packed = [_checked_rle(part, where) for part in parts]
        sizes = {tuple(part["size"]) for part in packed}
        if len(sizes) > 1 or (width and height and sizes != {(height, width)}):
            raise DataError(f"{where}: its mask is {sizes} (height, width), its image {height} x {width}")
    else:
        rings = [_checked_ring(part, where).ravel().tolist() for part in parts]
        rings = [ring for ring in rings if len(ring) >= 6]
        if not rings or not width or not height:
            return None
        packed = coco.frPyObjects(rings, height, width)
    whole = packed[0] if len(packed) == 1 else coco.merge(packed)
    return {"size": list(whole["size"]), "counts": whole["counts"].decode()}


def segmentation_box(segmentation: object, where: str, width: int | None, height: int | None) -> Box:
    """Return the box (xyxy pixels) around a segmentation, as `checked_mask` takes it. Raises DataError.

    Of polygons it is that of their extreme corners, as in COCO's own boxes.
    """
    parts = _parts(segmentation, where)
    if not isinstance(parts[0], Mapping):
        corners = np.concatenate([_checked_ring(part, where) for part in parts])
        (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
        return (float(x1), float(y1), float(x2), float(y2))
    mask = checked_mask(segmentation, where, width, height)
    box = None if mask is None else box_of(mask)
    if box is None:
        raise DataError(f"{where}: its mask is empty")
    return box


def refuse_broken(masks: Sequence[Mask], where: Any) -> None:
    """Raise DataError for a mask that is no whole run-length encoding; `where` names the mask at a position."""
    for at, mask in enumerate(masks):
        if not is_mask(mask):
            raise DataError(f"{where(at)}: not a mask in COCO's compressed run-length encoding ({short(mask)})")
        height, width = mask["size"]
        runs = _runs(mask["counts"])
        if runs is None or runs.min(initial=0) < 0 or int(runs.sum()) > height * width:
            raise DataError(f"{where(at)}: a mask's counts run past its {height} x {width} pixels")


def is_mask(value: object) -> bool:
    """Tell whether a value has the form of a mask; `refuse_broken` tells whether it is one."""
    if not isinstance(value, Mapping):
        return False
    size, counts = value.get("size"), value.get("counts")
    return _is_size(size) and isinstance(counts, str) and bool(COUNTS.fullmatch(counts))


def _runs(counts: str) -> Int | None:
    """Return the lengths of a mask's runs, outside and inside in turn; None where a number has more than 30 bits.

    5 bits a character, the lowest first, of differences from the third run on to the one before the last.
    """
    letters = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(letters < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(letters)) - np.repeat(first, last - first + 1)
    if place.max(initial=0) > 5:
        return None
    numbers = np.add.reduceat((letters & 31) << (5 * place), first) if len(letters) else np.zeros(0, np.int64)
    numbers -= np.where(letters[last] & 16, 1 << (5 * (last - first + 1)), 0)
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers


def _raw(mask: Mask) -> dict[str, Any]:
    return {"size": mask["size"], "counts": mask["counts"].encode()}


def _parts(segmentation: object, where: str) -> list[Any]:
    parts: list[Any] = segmentation if isinstance(segmentation, list) else [segmentation]
    if parts and all(isinstance(p, (int, float)) for p in parts):
        parts = [parts]  # one polygon without a list around it
    if not parts or not (all(isinstance(p, Mapping) for p in parts) or all(isinstance(p, list) for p in parts)):
        raise DataError(f"{where}: its segmentation is neither polygons nor run-length masks")
    return parts


def _checked_ring(polygon: list[Any], where: str) -> NDArray[np.float64]:
    """Return the corners (N, 2) of a polygon."""
    try:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        points = np.empty((0, 2))
    if len(points) < 1 or not np.isfinite(points).all():
        raise DataError(f"{where}: a polygon should be x, y, x, y, ... in pixels")
    if np.abs(points).max() > FARTHEST:
        raise DataError(f"{where}: a polygon has a corner more than {FARTHEST:,} pixels away; correct the row")
    return points


def _checked_rle(rle: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a run-length mask with compressed counts, as pycocotools takes it."""
    size, counts = rle.get("size"), rle.get("counts")
    if not _is_size(size):
        raise DataError(f"{where}: a mask's size should be [height, width] in pixels, not {short(size)}")
    height, width = rle["size"]
    if isinstance(counts, list):
        if not all(isinstance(c, int) and c >= 0 for c in counts) or sum(counts) != height * width:
            raise DataError(f"{where}: a mask's counts should add up to {height} x {width} pixels")
        packed: dict[str, Any] = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return packed
    text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    if not isinstance(text, str) or not COUNTS.fullmatch(text):
        raise DataError(f"{where}: a mask's counts are neither numbers nor a compressed mask")
    refuse_broken([{"size": [height, width], "counts": text}], lambda _: where)
    return {"size": [height, width], "counts": text.encode()}


def _is_size(size: Any) -> bool:
    return (
        isinstance(size, (list, tuple)) and len(size) == 2 and all(type(s) is int and 0 < s < MOST_SIDE for s in size)
    )
