"""Draw boxes on images: one prediction with its proposals, and a contact sheet of the scenes of a split."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bench.errors import UsageError
from bench.grounding import Box, ImageArray, ImageSource, Scene
from bench.runs.files import write_atomically

ANSWER, PROPOSAL, SHADOW, TRUTH = (230, 57, 70), (255, 255, 255), (0, 0, 0), (42, 157, 143)
WIDTH, IMAGE, GAP = 300, 260, 18  # a cell's width, the height its image may take, the space between cells
PAPER, FAINT = (252, 252, 250), (134, 142, 150)
COLOURS = ((230, 57, 70), (29, 53, 187), (42, 157, 143), (155, 93, 229), (244, 140, 6), (0, 119, 182), (214, 40, 140))
LINES = 12


def draw_answer(
    image: ImageArray, box: Box | None, text: str, proposals: Sequence[Box] = (), truth: Box | None = None
) -> Image.Image:
    """Draw xyxy boxes on an RGB uint8 image (H, W, 3), with a caption strip under it."""
    height, width = image.shape[:2]
    unit = max(2, min(width, height) // 160)
    size = max(12, min(width, height) // 22)
    font = ImageFont.load_default(size=size)
    letters = max(8, int(width / (font.getlength("n") or 8)) - 2)
    lines = textwrap.wrap(text, letters)[:4] or [""]
    line_height = int(size * 1.35)
    canvas = Image.new("RGB", (width, height + line_height * len(lines) + unit * 3), "white")
    canvas.paste(Image.fromarray(image))
    pen = ImageDraw.Draw(canvas, "RGBA")
    for proposal in proposals:
        _outline(pen, proposal, (*SHADOW, 120), max(2, unit // 2 + 2), (width, height))
        _outline(pen, proposal, (*PROPOSAL, 230), max(1, unit // 2), (width, height))
    if truth is not None:
        _outline(pen, truth, (*TRUTH, 255), unit, (width, height))
    if box is not None:
        _outline(pen, box, (*ANSWER, 255), unit + 1, (width, height))
    for number, line in enumerate(lines):
        pen.text((unit * 2, height + unit + number * line_height), line, fill=(34, 34, 34), font=font)
    return canvas


def save_image(drawn: Image.Image, out: Path) -> None:
    """Write an image whole or not at all; its suffix is the format. Raises UsageError, RunError."""
    form = Image.registered_extensions().get(out.suffix.lower())
    if form is None:
        raise UsageError(f"{out}: no image format has the suffix {out.suffix!r}; use .png or .jpg")
    data = BytesIO()
    drawn.save(data, format=form)
    write_atomically(out, data.getvalue())


def _outline(
    pen: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int, int], line: int, size: tuple[int, int]
) -> None:
    x1, x2 = sorted(min(max(v, 0), size[0] - 1) for v in (box[0], box[2]))
    y1, y2 = sorted(min(max(v, 0), size[1] - 1) for v in (box[1], box[3]))
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)


def contact_sheet(scenes: Sequence[Scene], images: ImageSource, columns: int = 4) -> Image.Image:
    """Draw `scenes` in a grid; a box and the expressions about it share a colour and a number."""
    cells = [_cell(scene, images) for scene in scenes]
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


def _cell(scene: Scene, images: ImageSource) -> Image.Image:
    photo = Image.fromarray(images.load(scene))
    ratio = min(WIDTH / photo.width, IMAGE / photo.height)
    shrunk = photo.resize((round(photo.width * ratio), round(photo.height * ratio)), Image.Resampling.LANCZOS)
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=11)
    boxes = list(dict.fromkeys(expression.box for expression in scene.expressions))
    texts = _lines(scene, boxes)
    cell = Image.new("RGB", (WIDTH, shrunk.height + 8 + 17 * len(texts)), PAPER)
    cell.paste(shrunk)
    pen = ImageDraw.Draw(cell)
    for number, box in enumerate(boxes):
        x1, y1, x2, y2 = (min(max(v * ratio, 0), limit - 1) for v, limit in zip(box, shrunk.size * 2, strict=True))
        colour = COLOURS[number % len(COLOURS)]
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=2)
        pen.rectangle((x1, y1, x1 + 13, y1 + 14), fill=colour)
        pen.text((x1 + 4, y1 + 1), str(number + 1), fill="white", font=small)
    for line, (text, colour) in enumerate(texts):
        pen.text((0, shrunk.height + 6 + 17 * line), text, fill=colour, font=font)
    return cell


def _lines(scene: Scene, boxes: Sequence[object]) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the expressions as lines of text with their colours, in the order of their boxes."""
    lines: list[tuple[str, tuple[int, int, int]]] = []
    for expression in sorted(scene.expressions, key=lambda e: boxes.index(e.box)):
        number = boxes.index(expression.box)
        kind = f"  ({expression.kind})" if expression.kind else ""
        wrapped = textwrap.wrap(f"{number + 1}  {expression.text}{kind}", 42) or [""]
        lines += [(text, COLOURS[number % len(COLOURS)]) for text in wrapped]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], (f"... and {len(lines) - LINES + 1} lines", FAINT)]
