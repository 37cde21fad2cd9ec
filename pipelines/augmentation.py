"""Augmentation of the TransVG family: crop, size, colours and place, all drawn from a given generator.

`augmented` is a pure function of its arguments, the generator included, so that a sample of an epoch is the same
whichever worker draws it.

`official` is the paper's recipe step by step, its crop's slip included: a window is taken when
the box's centre x is beyond the window's *top* and its centre y beyond the window's *left*, and that is the whole test:
targets are cut, some of them to nothing. `safe` draws windows of that kind which all hold the whole referent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import Field, PositiveInt, model_validator

from bench.boxes import box_area_xyxy, box_xyxy_to_cxcywh, clip_xyxy, mirror_xyxy
from bench.errors import DataError, SettingsError
from bench.evaluation.perturbation import DIRECTION, has_unmirrored, mirrored
from bench.grounding import Box, ImageArray
from bench.settings import Table
from pipelines.canvas import Canvas, Style, long_side_to, pasted

Float = NDArray[np.float64]
View = tuple[Image.Image, Float, tuple[float, float], tuple[float, float]]
"""An image on its way to the canvas, boxes (N, 4) in its pixels, its pixels for one of the image's, x and y, and where
its corner is in the image."""

OFFICIAL_TRIES = 20
OFFICIAL_POSITIONS = ("left", "right", "top", "bottom", "middle")  # searched inside words: "bright" is one
# Words measured against the image's frame, or counted from an end that a crop may take away. Relations (next to,
# behind) and superlatives of depth (nearest) stay true in every window that holds the referent.
POSITION_WORDS = """
    left right top bottom middle center centre central upper lower mid leftmost rightmost topmost bottommost uppermost
    lowermost centermost middlemost lefthand righthand leftside rightside corner corners edge side end border half
    north south east west first second third fourth fifth last 1st 2nd 3rd 4th 5th o'clock oclock
"""
POSITIONS = frozenset(POSITION_WORDS.split())
BLUR_RADII = (0.1, 2.0)
# Above this an image is not enlarged whole for a window's sake: 600 x 1 pixels would become 240,000 x 400.
MOST_PIXELS = 1 << 24


class Augment(Table):
    """Configure the augmentation; the defaults are those of CLIP-VG's paper."""

    crop: Literal["official", "safe", "off"] = Field(
        "official", description="crop windows; safe ones contain the referent"
    )
    crop_share: float = Field(0.5, ge=0, le=1, description="crop windows of expressions without a word of position")
    short_sides: tuple[PositiveInt, ...] = Field((400, 500, 600), min_length=1, description="pixels, before the crop")
    crop_sides: tuple[PositiveInt, PositiveInt] = Field((384, 600), description="smallest and largest side of a window")
    scales: tuple[PositiveInt, ...] = Field((), description="long sides in pixels; empty = 7 official or 4 safe ones")
    translate: bool = Field(True, description="a random place on the canvas instead of the middle")
    jitter: float = Field(0.4, ge=0, le=1, description="strength: brightness, contrast, saturation in 1 - j to 1 + j")
    jitter_share: float = Field(0.8, ge=0, le=1)
    blur_share: float = Field(0.0, ge=0, le=1, description="off in the paper; 0.5 where the official code has it on")
    flip_share: float = Field(0.0, ge=0, le=1, description="off in the paper; swaps left and right in the text")
    flip_words: Literal["whole", "inside"] = Field(
        "whole", description="left and right as whole words, or inside words too, as TransVG's code swaps them"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        if self.crop_sides[0] > self.crop_sides[1]:
            raise ValueError(f"crop_sides: least first, then largest, not {list(self.crop_sides)}")
        return self

    def long_sides(self, size: int) -> tuple[int, ...]:
        """Return the long sides that an image may have on a canvas of `size` pixels. Raises SettingsError.

        The official ones go down to 32 of 224 pixels, two patches, which no image at test time ever has. Those of
        the safe crop stop at 5/8 of the canvas: a referent keeps 0.4 of the patches it will have at test time.
        """
        if self.scales:
            if max(self.scales) > size:
                raise SettingsError(
                    f"augment.scales: {max(self.scales)} is more than the canvas's {size} pixels; "
                    "take it out, or leave scales empty"
                )
            return self.scales
        if self.crop == "safe":
            return tuple(max(1, size * eighths // 8) for eighths in (8, 7, 6, 5))
        return tuple(side for side in (size - 32 * i for i in range(7)) if side > 0)


def augmented(
    image: ImageArray, box: Box, text: str, size: int, options: Augment, style: Style, rng: np.random.Generator
) -> tuple[Canvas, Float, str]:
    """Draw one training sample: (H, W, 3), its xyxy box -> canvas, (4,) cxcywh in 0..1 of it, text.

    As `augmented_image` with one expression.
    """
    canvas, (target,), (text,) = augmented_image(image, [box], [text], size, options, style, rng)
    return canvas, target, text


def augmented_image(
    image: ImageArray,
    boxes: Sequence[Box],
    texts: Sequence[str],
    size: int,
    options: Augment,
    style: Style,
    rng: np.random.Generator,
) -> tuple[Canvas, Float, list[str]]:
    """Draw an image with its N expressions: (H, W, 3), xyxy boxes -> canvas, (N, 4) cxcywh in 0..1 of it, texts.

    Texts are others only when the image was flipped. Where a window was cut, the canvas's image is that window:
    `to_image` counts from the window's corner, in pixels of the whole image; a window is one that suits all boxes, and
    neither it nor a flip may make any of the texts wrong. Style `clean` and the safe crop clip the boxes to the image
    and raise DataError when nothing of one is left; otherwise a box is taken as it is and may come back with no area,
    or not finite. Raises SettingsError for `scales` that the canvas cannot hold.
    """
    sides = options.long_sides(size)
    corners = np.asarray(boxes, np.float64)  # (N, 4)
    if style == "clean" or options.crop == "safe":
        corners = _inside(corners, image)
    view: View = (Image.fromarray(image), corners, (1.0, 1.0), (0.0, 0.0))
    # 1. A window, unless a text says where in the image its referent is.
    placed = options.crop == "off" or any(has_position(text, options.crop) for text in texts)
    if not placed and rng.random() < options.crop_share:
        official = options.crop == "official"
        view = _official_crop(view, options, style, rng) if official else _safe_crop(view, options, rng)
    # 2. The long side to one of the scales.
    out, corners, ratio, corner = view
    out, (across, down) = long_side_to(out, sides[rng.integers(len(sides))], style)
    corners, ratio = corners * np.tile([across, down], 2), (ratio[0] * across, ratio[1] * down)
    # 3. Colours, then blur.
    if rng.random() < options.jitter_share:
        out = _jittered(out, options.jitter, rng)
    if rng.random() < options.blur_share:
        out = out.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADII)))
    # 4. A flip of image, boxes and words.
    whole = options.flip_words == "whole"
    if rng.random() < options.flip_share and not (whole and any(map(has_unmirrored, texts))):
        corners = mirror_xyxy(corners, out.width)
        out, texts = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT), [mirrored(text, whole) for text in texts]
    # 5. A place on the canvas: random, or as `letterboxed` has it.
    free = [size - side for side in out.size]
    if options.translate:
        top, left = int(rng.integers(free[1] + 1)), int(rng.integers(free[0] + 1))
    else:
        left, top = (round(rest / 2 - 0.1) for rest in free)
    targets = box_xyxy_to_cxcywh(corners + np.tile([left, top], 2)) / size
    return replace(pasted(out, left, top, size, ratio), corner=corner), targets, list(texts)


def has_position(text: str, crop: Literal["official", "safe"]) -> bool:
    """Return whether the text says where in the image the referent is, so that a crop could make it wrong."""
    if crop == "official":
        return any(word in text.lower() for word in OFFICIAL_POSITIONS)
    return not POSITIONS.isdisjoint(DIRECTION.findall(text.casefold()))


def _inside(boxes: Float, image: ImageArray) -> Float:
    height, width = image.shape[:2]
    clipped = clip_xyxy(boxes, width, height)
    if len(empty := np.flatnonzero(~(box_area_xyxy(clipped) > 0))):
        raise DataError(
            f"box {boxes[empty[0]].tolist()} (left, top, right, bottom) has nothing inside its image of {width} x "
            f"{height} pixels: there is nothing to train on; mend the row or leave it out"
        )
    return clipped


def _official_crop(view: View, options: Augment, style: Style, rng: np.random.Generator) -> View:
    """Resize the short side to a random length, then cut the first of 20 windows that passes the official test."""
    # 1. The size before the crop.
    image, boxes, *_ = view
    ratio = options.short_sides[rng.integers(len(options.short_sides))] / min(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    both = (ratio, ratio) if style == "official" else (width / image.width, height / image.height)
    boxes = boxes * np.tile(both, 2)
    # 2. The window.
    window = _official_window(boxes, width, height, options.crop_sides, rng)
    small = width * height <= MOST_PIXELS
    if window is None:
        return (image.resize((width, height), Image.Resampling.BILINEAR), boxes, both, (0.0, 0.0)) if small else view
    # 3. The cut; the boxes move along and are clipped.
    left, top, right, bottom = window
    if small:
        cut = image.resize((width, height), Image.Resampling.BILINEAR).crop(window)
    else:  # the window alone: the same to a level of a few pixels
        source = np.array(window) * np.tile([image.width / width, image.height / height], 2)
        within = np.minimum(source, [*image.size, *image.size]).tolist()
        cut = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=tuple(within))
    corner = (left / both[0], top / both[1])
    return cut, clip_xyxy(boxes - np.tile([left, top], 2), right - left, bottom - top), both, corner


def _official_window(
    boxes: Float, width: int, height: int, sides: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw left, top, right, bottom of a window; None when no try passed: the image stays whole."""
    least, most = sides
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).min(axis=0)  # a NaN passes no test
    for _ in range(OFFICIAL_TRIES):
        w, h = (int(rng.integers(min(least, side), min(side, most) + 1)) for side in (width, height))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        if x > top and y > left:  # the axes are swapped there
            return left, top, left + w, top + h
    return None


def _safe_crop(view: View, options: Augment, rng: np.random.Generator) -> View:
    """Cut a window as large a part of the image as an official one that holds all boxes; it grows if none does.

    It is cut from the image itself: enlarging first would cost time and sharpness for nothing.
    """
    image, boxes, before, _ = view
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])  # around all of them
    ratio = options.short_sides[rng.integers(len(options.short_sides))] / min(image.size)
    least, most = options.crop_sides
    ends: list[tuple[int, int]] = []
    for axis, length in enumerate(image.size):
        low, high = int(np.floor(box[axis])), int(np.ceil(box[axis + 2]))
        side = min(max(round(rng.integers(least, most + 1) / ratio), high - low), length)
        start = int(rng.integers(max(0, high - side), min(low, length - side) + 1))
        ends.append((start, start + side))
    (left, right), (top, bottom) = ends
    window = image.crop((left, top, right, bottom))
    return window, boxes - np.tile([left, top], 2), before, (float(left), float(top))


def _jittered(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast and saturation in random order, each by a factor of its own."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for kind in rng.permutation(len(kinds)):
        image = kinds[kind](image).enhance(rng.uniform(1 - strength, 1 + strength))
    return image
