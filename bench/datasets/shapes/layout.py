"""Layouts: the objects of a scene, placed by integers alone.

Scenes are made like photographs are: a few kinds of objects, several of each, mostly between 20 and 50 % of the
image's side, some small, a little overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.datasets.shapes.outlines import SHAPES, UNIT, Ring, extent, outline
from bench.datasets.shapes.rng import Rng
from bench.grounding import Box

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ((320, 240), (240, 320), (320, 214), (214, 320), (288, 288), (320, 256), (256, 320))
COUNTS = ((2, 4), (3, 9), (4, 18), (5, 23), (6, 21), (7, 15), (8, 10))  # (objects in a scene, weight)


@dataclass(frozen=True, slots=True)
class PlacedShape:
    """One object. `extent` is left, top, right, bottom in quarter pixels, the true extent of its outline."""

    shape: str
    colour: str
    texture: str
    rings: tuple[Ring, ...]
    extent: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[int, int]:
        """Twice the centre of the extent, so that it stays an integer."""
        left, top, right, bottom = self.extent
        return left + right, top + bottom

    @property
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
    for attempt in range(120):
        if attempt % 30 == 29:
            half = half * 85 // 100
        reach = half * 13 // 10
        if width <= 2 * reach or height <= 2 * reach:
            continue
        centre = (rng.between(reach, width - reach), rng.between(reach, height - reach))
        rings = outline(kind[0], centre, half, turn, stretch)
        box = extent(rings)
        inside = box[0] >= UNIT and box[1] >= UNIT and box[2] <= width - UNIT and box[3] <= height - UNIT
        if inside and all(_apart(box, other.extent) for other in others):
            return PlacedShape(*kind, rings, box)
    return None


def _apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two boxes share at most a twelfth of the smaller one."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return True
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return 12 * across * down <= smaller
