"""A contact sheet: some scenes of a split with their boxes and expressions, to see what a data set really asks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from bench.grounding import PictureSource, Scene

WIDTH, PICTURE, GAP = 300, 260, 18  # a cell's width, the height its picture may take, the space between cells
PAPER, FAINT = (252, 252, 250), (134, 142, 150)
COLOURS = ((230, 57, 70), (29, 53, 187), (42, 157, 143), (155, 93, 229), (244, 140, 6), (0, 119, 182), (214, 40, 140))
LINES = 12


def contact_sheet(scenes: Sequence[Scene], pictures: PictureSource, columns: int = 4) -> Image.Image:
    """A picture of `scenes` in a grid; a box and the expressions about it share a colour and a number."""
    cells = [_cell(scene, pictures) for scene in scenes]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    across = min(columns, len(cells))
    sheet = Image.new("RGB", (GAP + across * (WIDTH + GAP), GAP + sum(h + GAP for h in heights)), PAPER)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (GAP + column * (WIDTH + GAP), top))
        top += height + GAP
    return sheet


def _cell(scene: Scene, pictures: PictureSource) -> Image.Image:
    photo = Image.fromarray(pictures.load(scene))
    ratio = min(WIDTH / photo.width, PICTURE / photo.height)
    shown = photo.resize((round(photo.width * ratio), round(photo.height * ratio)), Image.Resampling.LANCZOS)
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=11)
    boxes = list(dict.fromkeys(expression.box for expression in scene.expressions))
    texts = _lines(scene, boxes)
    cell = Image.new("RGB", (WIDTH, shown.height + 8 + 17 * len(texts)), PAPER)
    cell.paste(shown)
    pen = ImageDraw.Draw(cell)
    for number, box in enumerate(boxes):
        x1, y1, x2, y2 = (min(max(v * ratio, 0), limit - 1) for v, limit in zip(box, shown.size * 2, strict=True))
        colour = COLOURS[number % len(COLOURS)]
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=2)
        pen.rectangle((x1, y1, x1 + 13, y1 + 14), fill=colour)
        pen.text((x1 + 4, y1 + 1), str(number + 1), fill="white", font=small)
    for line, (text, colour) in enumerate(texts):
        pen.text((0, shown.height + 6 + 17 * line), text, fill=colour, font=font)
    return cell


def _lines(scene: Scene, boxes: Sequence[object]) -> list[tuple[str, tuple[int, int, int]]]:
    """The expressions as lines of text with their colours, in the order of their boxes."""
    lines: list[tuple[str, tuple[int, int, int]]] = []
    for expression in sorted(scene.expressions, key=lambda e: boxes.index(e.box)):
        number = boxes.index(expression.box)
        kind = f"  ({expression.kind})" if expression.kind else ""
        wrapped = textwrap.wrap(f"{number + 1}  {expression.text}{kind}", 42) or [""]
        lines += [(text, COLOURS[number % len(COLOURS)]) for text in wrapped]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], (f"... and {len(lines) - LINES + 1} lines", FAINT)]
