"""An answer drawn on its picture: the proposals faint, the answer bold, the expression beneath."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bench.errors import UsageError
from bench.grounding import Box, Picture
from bench.runs.files import write_atomically

ANSWER, PROPOSAL, SHADOW, TRUTH = (230, 57, 70), (255, 255, 255), (0, 0, 0), (42, 157, 143)


def draw_answer(
    picture: Picture, box: Box | None, text: str, proposals: Sequence[Box] = (), truth: Box | None = None
) -> Image.Image:
    """RGB uint8 (H, W, 3) and xyxy boxes in its pixels -> a picture with a caption strip under it."""
    height, width = picture.shape[:2]
    unit = max(2, min(width, height) // 160)
    size = max(12, min(width, height) // 22)
    font = ImageFont.load_default(size=size)
    letters = max(8, int(width / (font.getlength("n") or 8)) - 2)
    lines = textwrap.wrap(text, letters)[:4] or [""]
    line_height = int(size * 1.35)
    canvas = Image.new("RGB", (width, height + line_height * len(lines) + unit * 3), "white")
    canvas.paste(Image.fromarray(picture))
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


def save_picture(drawn: Image.Image, out: Path) -> None:
    """Write a picture whole or not at all; its suffix says the format. Raises UsageError, RunError."""
    check_suffix(out)
    data = BytesIO()
    drawn.save(data, format=Image.registered_extensions()[out.suffix.lower()])
    write_atomically(out, data.getvalue())


def check_suffix(out: Path) -> None:
    """Raises UsageError when no picture format has the suffix of `out`."""
    if out.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"{out}: no picture format has the suffix {out.suffix!r}; use .png or .jpg")


def _outline(
    pen: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int, int], line: int, size: tuple[int, int]
) -> None:
    x1, x2 = sorted(min(max(v, 0), size[0] - 1) for v in (box[0], box[2]))
    y1, y2 = sorted(min(max(v, 0), size[1] - 1) for v in (box[1], box[3]))
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)
