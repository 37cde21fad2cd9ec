"""Boxes: conversions named for both formats, and the two IoUs, in float64 numpy.

xyxy is left, top, right, bottom; xywh is left, top, width, height; cxcywh is centre and size. A box with a side of zero
or less, or with a NaN, has area 0, and so IoU 0 with everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def box_xywh_to_xyxy(boxes: ArrayLike) -> Float:
    """(..., 4) left, top, width, height -> left, top, right, bottom."""
    b = np.asarray(boxes, np.float64)
    return np.concatenate([b[..., :2], b[..., :2] + b[..., 2:]], axis=-1)


def box_xyxy_to_xywh(boxes: ArrayLike) -> Float:
    """(..., 4) left, top, right, bottom -> left, top, width, height."""
    b = np.asarray(boxes, np.float64)
    return np.concatenate([b[..., :2], b[..., 2:] - b[..., :2]], axis=-1)


def box_cxcywh_to_xyxy(boxes: ArrayLike) -> Float:
    """(..., 4) centre and size -> left, top, right, bottom."""
    b = np.asarray(boxes, np.float64)
    half = b[..., 2:] / 2
    return np.concatenate([b[..., :2] - half, b[..., :2] + half], axis=-1)


def box_xyxy_to_cxcywh(boxes: ArrayLike) -> Float:
    """(..., 4) left, top, right, bottom -> centre and size."""
    b = np.asarray(boxes, np.float64)
    return np.concatenate([(b[..., :2] + b[..., 2:]) / 2, b[..., 2:] - b[..., :2]], axis=-1)


def clip_xyxy(boxes: ArrayLike, widths: ArrayLike, heights: ArrayLike) -> Float:
    """(..., 4) xyxy clipped to images of the given size in pixels; NaN stays NaN."""
    b = np.asarray(boxes, np.float64)
    w, h = np.asarray(widths, np.float64)[..., None], np.asarray(heights, np.float64)[..., None]
    limit = np.concatenate([w, h, w, h], axis=-1)
    return np.asarray(np.minimum(np.maximum(b, 0.0), limit))


def mirror_xyxy(boxes: ArrayLike, width: float) -> Float:
    """(..., 4) xyxy -> those of the image flipped left to right, `width` pixels wide."""
    b = np.asarray(boxes, np.float64)
    return np.stack([width - b[..., 2], b[..., 1], width - b[..., 0], b[..., 3]], axis=-1)


def box_area_xyxy(boxes: ArrayLike) -> Float:
    """(..., 4) xyxy -> (...) area; 0 for inverted, empty and NaN boxes."""
    b = np.asarray(boxes, np.float64)
    size = b[..., 2:] - b[..., :2]
    size = np.where(size > 0, size, 0.0)
    return np.asarray(size[..., 0] * size[..., 1])


def iou_elementwise(a: ArrayLike, b: ArrayLike) -> Float:
    """(..., 4) xyxy with (..., 4) xyxy -> (...) IoU, box by box; 0 where the union is empty."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    size = np.where(size > 0, size, 0.0)
    area_a, area_b = box_area_xyxy(a), box_area_xyxy(b)
    # An inverted box can still overlap on paper: only two real boxes intersect.
    inter = np.where((area_a > 0) & (area_b > 0), size[..., 0] * size[..., 1], 0.0)
    union = area_a + area_b - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0))


def iou_pairwise(a: ArrayLike, b: ArrayLike) -> Float:
    """(N, 4) xyxy against (M, 4) xyxy -> (N, M) IoU."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return iou_elementwise(a[:, None, :], b[None, :, :])


def giou_elementwise(a: ArrayLike, b: ArrayLike) -> Float:
    """(..., 4) xyxy with (..., 4) xyxy -> (...) generalised IoU in [-1, 1] (Rezatofighi et al. 2019); -1 for no box."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    iou, area_a, area_b = iou_elementwise(a, b), box_area_xyxy(a), box_area_xyxy(b)
    union = (area_a + area_b) / (1 + iou)
    hull = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    hull_area = hull[..., 0] * hull[..., 1]
    real = (area_a > 0) & (area_b > 0) & (hull_area > 0)
    gap = np.divide(hull_area - union, hull_area, out=np.ones_like(hull_area), where=real)
    return np.where(real, iou - gap, -1.0)


def fitting(box: Sequence[float], given_as: str | None, width: float, height: float) -> str:
    """Write in which usual formats a box would lie inside an image of that size, for a message; "" for none.

    `box` is xyxy as it was read, `given_as` xywh where its numbers were left, top, width, height.
    """
    a, b, c, d = box
    if given_as == "xywh":
        c, d = c - a, d - b
    x, y = width / 1000, height / 1000
    readings = {
        "left, top, right, bottom": (a, b, c, d),
        "left, top, width, height": (a, b, a + c, b + d),
        "top, left, bottom, right": (b, a, d, c),
        "top, left, height, width": (b, a, b + d, a + c),
        "centre and size": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
        "thousandths of the image": (a * x, b * y, c * x, d * y),
        "thousandths of the image, left, top, width, height": (a * x, b * y, (a + c) * x, (b + d) * y),
    }
    names = [
        name for name, (x1, y1, x2, y2) in readings.items() if 0 <= x1 < x2 <= width + 1 and 0 <= y1 < y2 <= height + 1
    ]
    return f". Its numbers would fit as {' or '.join(names)}" if names else ""
