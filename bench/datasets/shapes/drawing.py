"""Pixels for a layout: textured objects with soft shadows over backgrounds that are not plain.

Only the annotations are promised to be the same everywhere; pixels may differ in the last bit between versions of
Pillow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bench.datasets.shapes.layout import UNIT, Layout, PlacedShape
from bench.datasets.shapes.rng import Rng
from bench.grounding import ImageArray

Colour = tuple[int, int, int]
Bool = NDArray[np.bool_]
OVER = 2  # drawn twice as large, then reduced: smooth edges
PALETTE: dict[str, Colour] = {
    "red": (220, 58, 62),
    "orange": (243, 133, 38),
    "yellow": (247, 209, 62),
    "green": (62, 158, 86),
    "blue": (52, 112, 214),
    "purple": (134, 82, 190),
    "pink": (242, 140, 184),
    "brown": (128, 82, 52),
}
# Muted pairs, so that the objects stand out.
GROUNDS: tuple[tuple[Colour, Colour], ...] = (
    ((233, 229, 220), (205, 213, 216)),
    ((214, 224, 214), (238, 232, 214)),
    ((58, 64, 78), (86, 92, 104)),
    ((196, 206, 222), (228, 222, 230)),
    ((74, 82, 76), (108, 112, 100)),
    ((240, 236, 230), (216, 204, 196)),
    ((168, 176, 184), (196, 200, 198)),
)


def draw(layout: Layout, seed: int, part: str, index: int) -> ImageArray:
    """Draw the image of a layout, RGB uint8 (H, W, 3)."""
    rng = Rng("pixels", seed, part, index)
    size = (layout.width, layout.height)
    canvas = _ground(rng, size)
    canvas.paste((24, 26, 34), mask=_shadows(layout, size))
    for obj in layout.objects:
        _paint(canvas, obj, rng)
    return np.asarray(canvas, np.uint8)


def _shadows(layout: Layout, size: tuple[int, int]) -> Image.Image:
    """Draw how dark the shadows fall: L mask, at half size since it is blurred anyway."""
    shade = Image.new("L", (size[0] // 2, size[1] // 2), 0)
    pen = ImageDraw.Draw(shade)
    for obj in layout.objects:
        lift = max(2, (obj.extent[2] - obj.extent[0]) // UNIT // 24)
        rings = [[((x // UNIT + lift) // 2, (y // UNIT + lift) // 2) for x, y in ring] for ring in obj.rings]
        pen.polygon(rings[0], fill=110)
        for hole in rings[1:]:
            pen.polygon(hole, fill=0)
    return shade.filter(ImageFilter.GaussianBlur(1.4)).resize(size, Image.Resampling.BILINEAR)


def _ground(rng: Rng, size: tuple[int, int]) -> Image.Image:
    """Draw a gradient between two muted tones under large soft blobs, faint tiles or faint stripes."""
    first, second = rng.pick(GROUNDS)
    if rng.chance(50):
        first, second = second, first
    slope = Image.linear_gradient("L").rotate(90 * rng.below(4)).resize(size)
    canvas = Image.composite(Image.new("RGB", size, first), Image.new("RGB", size, second), slope)
    veil = Image.new("L", size, 0)
    pen = ImageDraw.Draw(veil)
    step = rng.between(14, 32)
    match rng.below(3):
        case 0:
            for _ in range(rng.between(4, 9)):
                x, y, r = rng.below(size[0]), rng.below(size[1]), rng.between(20, 80)
                pen.ellipse((x - r, y - r, x + r, y + r), fill=rng.between(24, 70))
        case 1:
            for x in range(0, size[0] + step, step):
                for y in range((x // step % 2) * step, size[1] + step, 2 * step):
                    pen.rectangle((x, y, x + step - 1, y + step - 1), fill=38)
        case _:
            for x in range(-size[1], size[0], step):
                pen.line((x, 0, x + size[1], size[1]), fill=44, width=step // 3)
    tone = 255 if rng.chance(50) else 0
    canvas.paste((tone, tone, tone), mask=veil)
    return canvas


def visible(layout: Layout) -> list[Bool]:
    """Return the visible part (H, W) of each object: the pixels that it covers by half, and no object over it does."""
    parts: list[Bool] = []
    for obj in layout.objects:
        cover, _, (left, top) = _cover(obj)
        whole = Image.new("L", (layout.width, layout.height), 0)
        whole.paste(cover.reduce(OVER), (left, top))
        inside = np.asarray(whole) >= 128
        parts = [*(part & ~inside for part in parts), inside]
    return parts


def _cover(obj: PlacedShape) -> tuple[Image.Image, list[list[tuple[int, int]]], tuple[int, int]]:
    """Return where an object is, as an L mask `OVER` times as large, its rings in it, and the pixel of its corner."""
    left, top = obj.extent[0] // UNIT - 1, obj.extent[1] // UNIT - 1
    right, bottom = obj.extent[2] // UNIT + 2, obj.extent[3] // UNIT + 2
    rings = [[(x * OVER // UNIT - left * OVER, y * OVER // UNIT - top * OVER) for x, y in r] for r in obj.rings]
    mask = Image.new("L", ((right - left) * OVER, (bottom - top) * OVER), 0)
    pen = ImageDraw.Draw(mask)
    pen.polygon(rings[0], fill=255)
    for hole in rings[1:]:
        pen.polygon(hole, fill=0)
    return mask, rings, (left, top)


def _paint(canvas: Image.Image, obj: PlacedShape, rng: Rng) -> None:
    """Paint one object: its colour, its texture in a lighter or darker tone, a darker rim."""
    mask, rings, corner = _cover(obj)
    size = mask.size
    base = _shifted(PALETTE[obj.colour], rng.between(-10, 10))
    patch = Image.new("RGB", size, base)
    if obj.texture != "plain":
        tone = _shifted(base, -78) if sum(base) > 480 else _shifted(base, 96)
        patch.paste(tone, mask=_texture(obj.texture, size, rng))
    rim = ImageDraw.Draw(patch)
    for ring in rings:
        rim.line([*ring, ring[0]], fill=_shifted(base, -60), width=3, joint="curve")
    canvas.paste(patch.reduce(OVER), corner, mask.reduce(OVER))


def _texture(texture: str, size: tuple[int, int], rng: Rng) -> Image.Image:
    """Draw where the second tone goes: L mask of `size`."""
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    width, height = size
    step = max(8, min(width, height) // rng.between(5, 6))
    match texture:
        case "striped":
            for x in range(-height, width, step * 2):
                pen.line((x, height, x + height, 0), fill=255, width=max(4, step * 3 // 4))
        case "dotted":
            r = max(2, step * 3 // 10)
            for row, y in enumerate(range(step // 2, height + step, step)):
                for x in range(step // 2 + (row % 2) * step // 2, width + step, step):
                    pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
        case _:
            squares = Image.new("L", size, 0)
            rows = ImageDraw.Draw(squares)
            for x in range(0, width, 2 * step):
                pen.rectangle((x, 0, x + step - 1, height), fill=255)
            for y in range(0, height, 2 * step):
                rows.rectangle((0, y, width, y + step - 1), fill=255)
            mask = ImageChops.difference(mask, squares)
    return mask


def _shifted(colour: Colour, by: int) -> Colour:
    r, g, b = (min(255, max(0, v + by)) for v in colour)
    return (r, g, b)
