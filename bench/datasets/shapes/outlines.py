"""The outlines of the shapes as integer polygons: turned, stretched and measured without a single float.

A unit is a quarter of a pixel. Outlines are written in thousandths of the half side, y downwards. A shape may be
several rings of points; the second ring of "ring" is its hole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

UNIT = 4  # units per pixel
Point = tuple[int, int]
Ring = tuple[Point, ...]

# Ten-thousandths of the sine for whole degrees. None of them is near a half, so every machine rounds alike (tested).
SINE = tuple(round(10_000 * math.sin(math.radians(d))) for d in range(360))


def _polar(degrees: int, radius: int) -> Point:
    """Return the point at an angle clockwise from the top."""
    return (radius * SINE[degrees % 360] // 10_000, -radius * SINE[(degrees + 90) % 360] // 10_000)


def _arc(start: int, stop: int, step: int, radius: int, centre: Point = (0, 0)) -> list[Point]:
    points = (_polar(d, radius) for d in range(start, stop + (1 if step > 0 else -1), step))
    return [(x + centre[0], y + centre[1]) for x, y in points]


def _star() -> Ring:
    return tuple(_polar(36 * i, 1000 if i % 2 == 0 else 420) for i in range(10))


def _heart() -> Ring:
    left = _arc(-135, 60, 13, 520, (-470, -360))
    right = [(-x, y) for x, y in reversed(left)]
    return (*left, *right, (0, 960))


def _moon() -> Ring:
    outer = _arc(30, 330, 10, 1000)
    inner = _arc(318, 42, -12, 760, (0, -330))
    return (*outer, *inner)


_ARM, _END = 330, 950
CROSS: Ring = tuple(
    (x * across, y * down)
    for x, y, corner in ((1, -1, 0), (1, 1, 1), (-1, 1, 0), (-1, -1, 1))
    for across, down in (((_ARM, _END), (_ARM, _ARM), (_END, _ARM)), ((_END, _ARM), (_ARM, _ARM), (_ARM, _END)))[corner]
)

OUTLINES: dict[str, tuple[Ring, ...]] = {
    "circle": (tuple(_arc(0, 352, 8, 1000)),),
    "square": (((-880, -880), (880, -880), (880, 880), (-880, 880)),),
    "triangle": (((0, -960), (980, 820), (-980, 820)),),
    "star": (_star(),),
    "heart": (_heart(),),
    "cross": (CROSS,),
    "moon": (_moon(),),
    "ring": (tuple(_arc(0, 352, 8, 1000)), tuple(_arc(0, 352, 8, 560))),
}
SHAPES = tuple(OUTLINES)


def outline(shape: str, centre: Point, half: int, turn: int, stretch: int) -> tuple[Ring, ...]:
    """Make the rings of a shape in units: `half` its side, turned by `turn` degrees, widened by `stretch` per mille."""
    sine, cosine = SINE[turn % 360], SINE[(turn + 90) % 360]
    rings = []
    for ring in OUTLINES[shape]:
        points = []
        for x, y in ring:
            turned_x, turned_y = (x * cosine - y * sine) // 10_000, (x * sine + y * cosine) // 10_000
            points.append((centre[0] + turned_x * half * stretch // 1_000_000, centre[1] + turned_y * half // 1000))
        rings.append(tuple(points))
    return tuple(rings)


def extent(rings: Sequence[Ring]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the outer ring, in units."""
    xs, ys = [x for x, _ in rings[0]], [y for _, y in rings[0]]
    return min(xs), min(ys), max(xs), max(ys)
