"""Draw boxes on images: one prediction with its proposals, and a contact sheet of the scenes of a split."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from bench.attention import AttentionMap, Stage
from bench.errors import UsageError
from bench.grounding import Box, ImageArray, ImageSource, Mask, Scene
from bench.masks import decode
from bench.runs.files import write_atomically

RGB = tuple[int, int, int]
ANSWER, PROPOSAL, TRUTH = (230, 57, 70), (255, 209, 72), (42, 157, 143)
HEAT, MOST_HEAT = (255, 120, 0), 190  # the colour of attention, and its opacity, of 255, where it is largest
TINT = 110  # the opacity of a mask, of 255
STAGES = ((29, 53, 187), (155, 93, 229), (0, 119, 182), (244, 140, 6))  # of all stages but the last one
SHADOW, LIGHT, INK = (0, 0, 0), (255, 255, 255), (34, 34, 34)
WIDTH, IMAGE, GAP = 300, 260, 18  # a cell's width, the height its image may take, the space between cells
PAPER, FAINT = (252, 252, 250), (134, 142, 150)
COLOURS = ((230, 57, 70), (29, 53, 187), (42, 157, 143), (155, 93, 229), (244, 140, 6), (0, 119, 182), (214, 40, 140))
LINES = 12


def draw_answer(
    image: ImageArray,
    box: Box | None,
    text: str,
    proposals: Sequence[Box] = (),
    truth: Box | None = None,
    score: float | None = None,
    attention: AttentionMap | None = None,
    mask: Mask | None = None,
    stages: Sequence[Stage] = (),
    others: Sequence[Box] = (),
) -> Image.Image:
    """Draw xyxy boxes on an RGB uint8 image (H, W, 3), over attention and mask; expression and legend under it.

    `others` are further predicted boxes. Of `stages` each has a colour for its points and its box; the last one's box
    is the prediction.
    """
    height, width = image.shape[:2]
    unit = max(2, min(width, height) // 160)
    size = max(12, min(width, height) // 22)
    font = ImageFont.load_default(size=size)
    letters = max(8, int(width / (font.getlength("n") or 8)) - 2)
    lines = textwrap.wrap(text, letters)[:4] or [""]
    line_height = int(size * 1.35)
    suffix = "" if score is None else f", score {score:.2f}"
    name = f"{len(others) + 1} predictions, best" if others else "prediction"
    legend = [(ANSWER, f"{name}{suffix}" if box is not None else "no box")]
    legend += [(PROPOSAL, f"{len(proposals):,} proposal{'s' * (len(proposals) != 1)}")] * bool(len(proposals))
    legend += [(TRUTH, "ground truth")] * (truth is not None)
    legend += [(HEAT, "attention")] * (attention is not None)
    colours = [STAGES[number % len(STAGES)] for number in range(len(stages) - 1)] + [ANSWER] * bool(stages)
    legend += [(colour, f"stage {number}") for number, colour in enumerate(colours, 1)]
    places = _legend_places([2 * size + font.getlength(name) for _, name in legend], width - 4 * unit)
    rows = len(lines) + 1 + places[-1][1]
    canvas = Image.new("RGB", (width, height + line_height * rows + unit * 3), "white")
    below = Image.fromarray(image) if attention is None else _heated(image, attention)
    canvas.paste(below if mask is None else _masked(below, mask, unit))
    pen = ImageDraw.Draw(canvas, "RGBA")
    for proposal in proposals:
        _outline(pen, proposal, PROPOSAL, SHADOW, unit, (width, height))
    for stage, colour in zip(stages, colours, strict=True):
        if stage is not stages[-1]:
            _outline(pen, stage.box, colour, SHADOW, unit - 1, (width, height))
        for x, y in np.clip(stage.points, 0, (width - 1, height - 1)).tolist():
            pen.ellipse((x - unit, y - unit, x + unit, y + unit), fill=colour, outline=LIGHT)
    if truth is not None:
        _outline(pen, truth, TRUTH, LIGHT, unit, (width, height))
    for predicted in [*others, *([] if box is None else [box])]:
        _outline(pen, predicted, ANSWER, LIGHT, unit + 1, (width, height))
    for number, line in enumerate(lines):
        pen.text((unit * 2, height + unit + number * line_height), line, fill=INK, font=font)
    for (colour, name), (left, row) in zip(legend, places, strict=True):
        x, y = unit * 2 + left, height + unit + (len(lines) + row) * line_height
        pen.rectangle((x, y + size * 0.3, x + size * 0.9, y + size), outline=SHADOW, fill=colour)
        pen.text((x + size * 1.2, y), name, fill=INK, font=font)
    return canvas


def _heated(image: ImageArray, attention: AttentionMap) -> Image.Image:
    """Colour an image by an attention map, more where more attention went."""
    below = Image.fromarray(image)
    opacity = Image.fromarray(np.rint(attention.shares * MOST_HEAT).astype(np.uint8))
    opacity = opacity.resize(below.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", below.size, HEAT), below, opacity)


def _masked(below: Image.Image, mask: Mask, line: int) -> Image.Image:
    """Tint what a mask covers, inside a light line. Raises UsageError for a mask of another size."""
    inside = decode(mask)
    if inside.shape != (below.height, below.width):
        raise UsageError(
            f"a mask of {inside.shape[1]} x {inside.shape[0]} on an image of {below.width} x {below.height}"
        )
    covered = Image.fromarray(inside * np.uint8(255))
    below = Image.composite(Image.new("RGB", below.size, ANSWER), below, covered.point(lambda value: value and TINT))
    # On an object of its colour the tint alone does not show.
    within = np.asarray(covered.filter(ImageFilter.MinFilter(2 * max(1, line // 2) + 1))) > 0
    below.paste(LIGHT, mask=Image.fromarray((inside & ~within) * np.uint8(255)))
    return below


def _legend_places(widths: Sequence[float], room: float) -> list[tuple[float, int]]:
    """Return (left, row) of each entry; one that does not fit beside the others begins a row."""
    places, left, row = [], 0.0, 0
    for width in widths:
        if left and left + width > room:
            left, row = 0.0, row + 1
        places.append((left, row))
        left += width
    return places


def save_image(drawn: Image.Image, out: Path) -> None:
    """Write an image whole or not at all; its suffix is the format. Raises UsageError, RunError."""
    form = Image.registered_extensions().get(out.suffix.lower())
    if form is None:
        raise UsageError(f"{out}: no image format has the suffix {out.suffix!r}; use .png or .jpg")
    data = BytesIO()
    drawn.save(data, format=form)
    write_atomically(out, data.getvalue())


def _outline(pen: ImageDraw.ImageDraw, box: Box, colour: RGB, casing: RGB, line: int, size: tuple[int, int]) -> None:
    """Draw a box `line` pixels wide, a pixel of `casing` on both sides, so that any background leaves it visible."""
    x1, x2 = sorted(min(max(v, 0), size[0] - 1) for v in (box[0], box[2]))
    y1, y2 = sorted(min(max(v, 0), size[1] - 1) for v in (box[1], box[3]))
    around = (max(0, x1 - 1), max(0, y1 - 1), min(size[0] - 1, x2 + 1), min(size[1] - 1, y2 + 1))
    pen.rectangle(around, outline=casing, width=line + 2)
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)


def contact_sheet(scenes: Sequence[Scene], images: ImageSource, columns: int = 4) -> Image.Image:
    """Draw `scenes` in a grid; targets and the expressions about them share a colour and a number."""
    kinds = {expression.kind for scene in scenes for expression in scene.expressions}
    heading = kinds.pop() if len(kinds) == 1 else None  # one kind is stated once
    cells = [_cell(scene, images, with_kind=heading is None) for scene in scenes]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    across = min(columns, len(cells))
    top = GAP + 22 * bool(heading)
    sheet = Image.new("RGB", (GAP + across * (WIDTH + GAP), top + sum(h + GAP for h in heights)), PAPER)
    if heading:
        ImageDraw.Draw(sheet).text((GAP, 10), heading, fill=FAINT, font=ImageFont.load_default(size=15))
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (GAP + column * (WIDTH + GAP), top))
        top += height + GAP
    return sheet


def _cell(scene: Scene, images: ImageSource, with_kind: bool) -> Image.Image:
    photo = Image.fromarray(images.load(scene))
    ratio = min(WIDTH / photo.width, IMAGE / photo.height)
    shrunk = photo.resize((round(photo.width * ratio), round(photo.height * ratio)), Image.Resampling.LANCZOS)
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=11)
    groups = sorted(dict.fromkeys(expression.targets for expression in scene.expressions), key=lambda g: not g)
    texts = _lines(scene, groups, with_kind)
    cell = Image.new("RGB", (WIDTH, shrunk.height + 8 + 17 * len(texts)), PAPER)
    cell.paste(shrunk)
    pen = ImageDraw.Draw(cell)
    small_boxes = [
        (number, (x1 * ratio, y1 * ratio, x2 * ratio, y2 * ratio))
        for number, group in enumerate(groups)
        for x1, y1, x2, y2 in group
    ]
    for number, box in small_boxes:
        _outline(pen, box, COLOURS[number % len(COLOURS)], LIGHT, 2, shrunk.size)
    for number, (left, top, *_) in small_boxes:  # after the boxes, for none may cover a number
        x, y = (min(max(v, 0), limit - 14) for v, limit in zip((left, top), shrunk.size, strict=True))
        pen.rectangle((x, y, x + 7 + 6 * len(str(number + 1)), y + 14), fill=COLOURS[number % len(COLOURS)])
        pen.text((x + 4, y + 1), str(number + 1), fill="white", font=small)
    for line, (text, colour) in enumerate(texts):
        pen.text((0, shrunk.height + 6 + 17 * line), text, fill=colour, font=font)
    return cell


def _lines(scene: Scene, groups: Sequence[object], with_kind: bool) -> list[tuple[str, RGB]]:
    """Return the expressions as lines of text with their colours, in the order of their targets, as many as fit."""
    lines: list[tuple[str, RGB]] = []
    ordered = sorted(scene.expressions, key=lambda e: groups.index(e.targets))
    for place, expression in enumerate(ordered):
        number = groups.index(expression.targets)
        colour = COLOURS[number % len(COLOURS)] if expression.targets else FAINT
        name = str(number + 1) if expression.targets else "none"
        kind = f"  ({expression.kind})" if expression.kind and with_kind else ""
        wrapped = textwrap.wrap(f"{name}  {expression.text}{kind}", 42, subsequent_indent=" " * 5)
        left = len(ordered) - place
        if len(lines) + len(wrapped) > LINES - (left > 1):
            return [*lines, (f"... {left:,} more", FAINT)]
        lines += [(text, colour) for text in wrapped]
    return lines
