"""Layouts: the objects of a scene, placed by integers alone.

Scenes are made like photographs are: a few kinds of objects, several of each, mostly between 20 and 50 % of the
image's side, some small, a little overlap.

A unit is a quarter of a pixel. Outlines are written in thousandths of the half side, y downwards, and turned, stretched
and measured without a single float. A shape may be several rings of points; the second ring of "ring" is its hole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.datasets.shapes.rng import Rng
from bench.grounding import Box

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

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ((320, 240), (240, 320), (320, 214), (214, 320), (288, 288), (320, 256), (256, 320))
COUNTS = ((2, 4), (3, 9), (4, 18), (5, 23), (6, 21), (7, 15), (8, 10))  # (objects in a scene, weight)


@dataclass(frozen=True)
class PlacedShape:
    """One object. `extent` is left, top, right, bottom in quarter pixels, the true extent of its outline."""

    shape: str
    colour: str
    texture: str
    rings: tuple[Ring, ...]
    extent: tuple[int, int, int, int]

    @cached_property
    def centre(self) -> tuple[int, int]:
        """Twice the centre of the extent, so that it stays an integer."""
        left, top, right, bottom = self.extent
        return left + right, top + bottom

    @cached_property
    def area(self) -> int:
        left, top, right, bottom = self.extent
        return (right - left) * (bottom - top)


@dataclass(frozen=True, slots=True)
class Layout:
    """An image's size in pixels and its objects, the ones behind first."""

    width: int
    height: int
    objects: tuple[PlacedShape, ...]


def pixels(extent: tuple[int, int, int, int]) -> Box:
    """Turn an extent into an xyxy box, exact to a quarter of a pixel."""
    left, top, right, bottom = extent
    return (left / UNIT, top / UNIT, right / UNIT, bottom / UNIT)


def make_layout(seed: int, part: str, index: int) -> Layout:
    """Make the layout of one scene: a pure function of the generator's seed, the part and the index."""
    rng = Rng("layout", seed, part, index)
    width, height = rng.pick(SIZES)
    count = rng.weighted(COUNTS)
    shapes = rng.sample(SHAPES, rng.between(1, max(2, count // 2)))
    colours = rng.sample(COLOURS, rng.between(2, max(2, count - 1)))
    textures = rng.sample(TEXTURES, rng.between(1, 3))
    objects: list[PlacedShape] = []
    for half in sorted((_half(rng, count, width, height) for _ in range(count)), reverse=True):
        kind = (rng.pick(shapes), rng.pick(colours), rng.pick(textures))
        obj = _place(rng, kind, half, (width, height), objects)
        if obj is not None:
            objects.append(obj)
    return Layout(width, height, tuple(objects))


def _half(rng: Rng, count: int, width: int, height: int) -> int:
    """Draw half the side in units: 20 to 50 % of the image's side, less where many share it; one in six is small."""
    side = (width + height) * UNIT // 2
    if rng.chance(16):
        return side * rng.between(100, 190) // 2000
    most = {2: 500, 3: 480, 4: 420, 5: 380, 6: 340, 7: 310, 8: 290}[count]
    return side * rng.between(200, most) // 2000


def _place(
    rng: Rng, kind: tuple[str, str, str], half: int, size: tuple[int, int], others: list[PlacedShape]
) -> PlacedShape | None:
    """A object where it fits, made smaller when the image is crowded; None when it fits nowhere."""
    width, height = size[0] * UNIT, size[1] * UNIT
    turn, stretch = rng.between(-24, 24), rng.between(820, 1220)
    box = extent(outline(kind[0], (0, 0), half, turn, stretch))  # about the centre, wherever that will be
    for attempt in range(120):
        if attempt % 30 == 29:
            half = half * 85 // 100
            box = extent(outline(kind[0], (0, 0), half, turn, stretch))
        reach = half * 13 // 10
        if width <= 2 * reach or height <= 2 * reach:
            continue
        x, y = rng.between(reach, width - reach), rng.between(reach, height - reach)
        here = (box[0] + x, box[1] + y, box[2] + x, box[3] + y)
        inside = here[0] >= UNIT and here[1] >= UNIT and here[2] <= width - UNIT and here[3] <= height - UNIT
        if inside and all(_apart(here, other.extent) for other in others):
            return PlacedShape(*kind, outline(kind[0], (x, y), half, turn, stretch), here)
    return None


def _apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two boxes share at most a twelfth of the smaller one."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return True
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return 12 * across * down <= smaller


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
