"""Compare the boxes of an image: which to keep, who wears what, and where each stands among its own class.

Pure functions of boxes (N, 4), xyxy pixels, in float64, after Pseudo-Q's code. x grows to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.boxes import box_area_xyxy, iou_pairwise
from bench.grounding import Boxes
from pipelines.two_stage.language.relations import share_inside

Flags = NDArray[np.bool_]
Float = NDArray[np.float64]

FAR, NEAR = 0.4, 0.8  # of the largest area: smaller than FAR is behind, larger than NEAR in front
HAT, PANTS = 0.75, 0.5  # of a person's height, from below: where a hat begins, where pants end


def large_enough(boxes: Boxes, size: tuple[int, int], share: float) -> Flags:
    """Test whether a box takes at least `share` of the area of an image of `size` (width, height): (N,)."""
    return np.asarray(box_area_xyxy(boxes) >= share * size[0] * size[1])


def without_overlaps(boxes: Boxes, confidences: Float, most: float) -> Flags:
    """Test whether no more confident box overlaps a box with an IoU above `most`: (N,); of equals the first stays.

    As published, a box falls to a better one even where that falls to a third.
    """
    order = np.argsort(-confidences, kind="stable")
    over = np.triu(iou_pairwise(boxes[order], boxes[order]) > most, k=1).any(axis=0)
    kept = np.empty(len(boxes), bool)
    kept[order] = ~over
    return kept


def worn(garments: Boxes, kinds: Sequence[str], people: Boxes, inside: float) -> Flags:
    """Test whether a garment of a kind (hat, shirt, pants, shoes) is a person's: (G, P).

    More than `inside` of it lies in the person's box; the centre of a hat in the top quarter, of pants in the lower
    half.
    """
    height = np.clip(people[:, 3] - people[:, 1], 1e-9, None)
    level = (people[None, :, 3] - (garments[:, None, 1] + garments[:, None, 3]) / 2) / height  # 0 feet, 1 top
    kind = np.array(kinds, dtype=object)[:, None]
    placed = ((kind != "hat") | (level > HAT)) & ((kind != "pants") | (level < PANTS))
    return np.asarray((share_inside(garments, people) > inside) & placed)


def spatial_words(boxes: Boxes, size: tuple[int, int], spread: float, official: bool = False) -> list[tuple[str, ...]]:
    """Say where each of N objects of one class stands in an image of `size` (width, height); alone, nothing.

    `spread` is how far apart, in pixels, the outermost centres must be for any to be called left or right, top or
    bottom. `official` looks for "top" in the first quarter of the image's *width*, as the published code does.
    """
    if len(boxes) < 2:
        return [()] * len(boxes)
    width, height = size
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    rows = (
        across(x, width, spread),
        upright(y, (width if official else height) / 4, height * 3 / 4, spread),
        depth(box_area_xyxy(boxes)),
    )
    return [tuple(word for words in of for word in words) for of in zip(*rows, strict=True)]


def across(x: Float, width: float, spread: float) -> list[tuple[str, ...]]:
    """Say left and right of the outermost centres (N,), middle of the third of three, quarters of more."""
    words = _outermost(x, spread, ("left",), ("right",))
    if words is None:
        return [()] * len(x)
    middle = ("middle", "center")
    if len(x) == 3:
        return [middle if word is None else word for word in words]
    side = np.where(x > width * 3 / 4, 1, np.where(x < width / 4, -1, 0))
    named = {1: ("right",), -1: ("left",), 0: middle}
    return [named[s] if word is None else word for word, s in zip(words, side.tolist(), strict=True)]


def upright(y: Float, top: float, bottom: float, spread: float) -> list[tuple[str, ...]]:
    """Say top and bottom of the outermost centres (N,), and of others above the line `top` or below `bottom`."""
    words = _outermost(y, spread, ("top",), ("bottom",))
    if words is None:
        return [()] * len(y)
    side = np.where(y > bottom, 1, np.where(y < top, -1, 0))
    named: dict[int, tuple[str, ...]] = {1: ("bottom",), -1: ("top",), 0: ()}
    return [named[s] if word is None else word for word, s in zip(words, side.tolist(), strict=True)]


def depth(areas: Float) -> list[tuple[str, ...]]:
    """Say behind of the smallest of positive areas (N,) and front of the largest, where they differ enough.

    Of more than three, others too that are small beside the largest, or nearly as large.
    """
    least, most = int(areas.argmin()), int(areas.argmax())
    ratio = areas / areas[most]
    if not ratio[least] < FAR:
        return [()] * len(areas)
    side = np.where(ratio < FAR, -1, np.where(ratio > NEAR, 1, 0)) if len(areas) > 3 else np.zeros(len(areas), int)
    side[least], side[most] = -1, 1
    named: dict[int, tuple[str, ...]] = {1: ("front",), -1: ("behind",), 0: ()}
    return [named[s] for s in side.tolist()]


def _outermost(
    centres: Float, spread: float, low: tuple[str, ...], high: tuple[str, ...]
) -> list[tuple[str, ...] | None] | None:
    """The words of the two outermost, None for the others; None altogether when they are not far enough apart."""
    first, last = int(centres.argmin()), int(centres.argmax())
    if not centres[last] - centres[first] > spread:
        return None
    words: list[tuple[str, ...] | None] = [None] * len(centres)
    words[first], words[last] = low, high
    return words
