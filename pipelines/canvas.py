"""Letterbox of the TransVG family: an image on a square canvas, and a box on the canvas back in the image.

Two styles. `official` does to the last rounding what the official code of CLIP-VG does: ImageNet statistics, one ratio
for both sides, boxes cut to integers, a patch masked by the pixels at its centre. `clean` does what should have been
done: CLIP's own statistics, each side's own ratio, boxes as they are, a patch masked when it is all padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.boxes import box_cxcywh_to_xyxy
from bench.grounding import Box, ImageArray

Style = Literal["official", "clean"]
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and deviation of R, G, B in 0..1
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
STATISTICS: dict[Style, Statistics] = {"official": IMAGENET, "clean": CLIP}
# Data sets whose lists have x, y, width, height: those four are what the official loader cuts to integers.
XYWH_LISTS = {"refcoco", "refcoco+", "refcocog", "refcocog-google"}
Boxes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Canvas:
    """Hold an image on its canvas: `pixels` uint8 (S, S, 3), black where there is no image.

    The image's rows are `top` to `bottom`, its columns `left` to `right`, both exclusive at their ends. `ratio` is
    canvas pixels for an image pixel, across and down. Where the image is a window of a larger one, `corner` is the
    window's left and top in pixels of that.
    """

    pixels: NDArray[np.uint8]
    left: int
    top: int
    right: int
    bottom: int
    ratio: tuple[float, float]
    corner: tuple[float, float] = (0.0, 0.0)

    def to_canvas(self, box: Box) -> Boxes:
        """Convert xyxy pixels of the image -> (4,) cxcywh in 0..1 of the canvas, unclipped."""
        x1, y1, x2, y2 = box
        across, down = self.ratio
        size = len(self.pixels)
        left, right = x1 * across + self.left, x2 * across + self.left
        top, bottom = y1 * down + self.top, y2 * down + self.top
        return np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]) / size

    def to_image(self, boxes: Boxes) -> Boxes:
        """Convert (N, 4) cxcywh in 0..1 of the canvas -> xyxy pixels of the image, unclipped."""
        corners = box_cxcywh_to_xyxy(boxes) * len(self.pixels)
        return np.asarray((corners - np.tile([self.left, self.top], 2)) / np.tile(self.ratio, 2))


def letterboxed(image: ImageArray, size: int, style: Style) -> Canvas:
    """Put an original (H, W, 3) with its long side at `size` in the middle of a canvas."""
    original = Image.fromarray(image)
    resized, ratio = long_side_to(original, size, style)
    # The official offset rounds halves down: -0.1 tips them.
    left, top = (round((size - side) / 2 - 0.1) for side in resized.size)
    return pasted(resized, left, top, size, ratio)


def long_side_to(image: Image.Image, size: int, style: Style) -> tuple[Image.Image, tuple[float, float]]:
    """Resize an image to a long side of `size` pixels -> it, and the ratio of boxes across and down."""
    ratio = size / max(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    both = (ratio, ratio) if style == "official" else (width / image.width, height / image.height)
    return image.resize((width, height), Image.Resampling.BILINEAR), both


def pasted(image: Image.Image, left: int, top: int, size: int, ratio: tuple[float, float]) -> Canvas:
    """Paste an image that fits onto a black canvas with its corner at (left, top)."""
    pixels = np.zeros((size, size, 3), np.uint8)
    right, bottom = left + image.width, top + image.height
    pixels[top:bottom, left:right] = np.asarray(image)
    return Canvas(pixels, left, top, right, bottom, ratio)


def integer_box(box: Box, form: Literal["xyxy", "xywh"]) -> Box:
    """Cut xyxy pixels to integers as the official loader does, in the form that the list has them in.

    In RefCOCO's lists x, y, width and height are cut, so that the right edge can move by almost two pixels.
    """
    if form == "xyxy":
        return tuple(float(int(v)) for v in box)  # type: ignore[return-value]
    # Width and height were floats before they became an edge: what the sum lost is given back before the cut.
    x1, y1 = int(box[0]), int(box[1])
    width, height = (int(round(high - low, 6)) for low, high in ((box[0], box[2]), (box[1], box[3])))
    return (float(x1), float(y1), float(x1 + width), float(y1 + height))


def mask_on(canvas: Canvas, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Place a mask (H, W) of the whole, unmirrored image on its canvas (S, S): the nearest pixel, as torch counts."""
    out = np.zeros((len(canvas.pixels),) * 2, np.bool_)
    columns, rows = (
        _nearest(*axis)
        for axis in zip(
            (canvas.right - canvas.left, canvas.bottom - canvas.top), canvas.ratio, canvas.corner, inside.shape[::-1],
            strict=True,
        )
    )  # fmt: skip
    out[canvas.top : canvas.bottom, canvas.left : canvas.right] = inside[np.ix_(rows, columns)]
    return out


def _nearest(count: int, ratio: float, corner: float, length: int) -> NDArray[np.int64]:
    """Return which of `length` pixels each of `count` on the canvas takes."""
    if not corner and abs(length * ratio - count) < 1:  # the whole side: torch divides by what it was rounded to
        places = np.floor(np.arange(count, dtype=np.float32) * np.float32(length / count))
    else:
        places = np.floor(np.arange(count) / ratio + corner + 1e-6)
    return np.asarray(np.clip(places.astype(np.int64), 0, length - 1))


def to_images(boxes: Boxes, canvases: Sequence[Canvas], owners: NDArray[np.int64]) -> Boxes:
    """Convert boxes as `Canvas.to_image` does, (N, 4); each belongs to the canvas of that number in `owners` (N,)."""
    corners = box_cxcywh_to_xyxy(boxes) * len(canvases[0].pixels)
    offsets = np.array([(c.left, c.top) * 2 for c in canvases])
    ratios = np.array([c.ratio * 2 for c in canvases])
    return np.asarray((corners - offsets[owners]) / ratios[owners])


def kept_patches(canvases: Sequence[Canvas], patch: int, style: Style) -> NDArray[np.bool_]:
    """Mark the patches that are not masked, (B, P), on the host."""
    return np.stack([_kept(len(c.pixels), (c.left, c.top, c.right, c.bottom), patch, style) for c in canvases])


@lru_cache(1000)
def _kept(size: int, edges: tuple[int, int, int, int], patch: int, style: Style) -> NDArray[np.bool_]:
    masked = masked_patches(~covered(torch.tensor([edges]), size), patch, style)
    return np.asarray(~masked[0].numpy())


def stacked(canvases: Sequence[Canvas], patch: int, style: Style, device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack canvases of one size -> pixels (B, 3, S, S), normalised, 0 outside the image; masked patches (B, P)."""
    raw, edges = stack_pixels(canvases)
    return normalise_and_mask(raw.to(device), edges.to(device), patch, style)


def stack_pixels(canvases: Sequence[Canvas]) -> tuple[Tensor, Tensor]:
    """Stack canvases of one size -> pixels (B, S, S, 3) uint8, and left, top, right, bottom of each image (B, 4)."""
    pixels = torch.from_numpy(np.stack([canvas.pixels for canvas in canvases]))
    return pixels, torch.tensor([[c.left, c.top, c.right, c.bottom] for c in canvases])


def normalise_and_mask(raw: Tensor, edges: Tensor, patch: int, style: Style) -> tuple[Tensor, Tensor]:
    """Normalise what `stack_pixels` gives, on any device -> as `stacked`."""
    inside = covered(edges, raw.shape[1])
    return normalised(raw, inside, style), masked_patches(~inside, patch, style)


def covered(edges: Tensor, size: int) -> Tensor:
    """Mark the pixels of a canvas that are image, (B, 4) left, top, right, bottom -> (B, S, S)."""
    line = torch.arange(size, device=edges.device)
    left, top, right, bottom = (edges[:, i, None] for i in range(4))
    rows, columns = (line >= top) & (line < bottom), (line >= left) & (line < right)
    return rows[:, :, None] & columns[:, None, :]


def normalised(raw: Tensor, inside: Tensor, style: Style) -> Tensor:
    """Normalise pixels (B, S, S, 3) uint8 -> (B, 3, S, S), 0 where `inside` (B, S, S) is not."""
    mean, std = _statistics(style, raw.device)
    return ((raw.permute(0, 3, 1, 2).float() / 255 - mean) / std) * inside[:, None]


@lru_cache
def _statistics(style: Style, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3, 1, 1) on a device; copying them to a GPU would be waited for, so it happens once."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in STATISTICS[style])
    return mean, std


def masked_patches(padding: Tensor, patch: int, style: Style) -> Tensor:
    """Mark the patches to ignore, (B, S, S) True outside the image -> (B, P)."""
    if style == "clean":
        whole = -F.max_pool2d(-padding[:, None].float(), patch)
        return whole.flatten(1) > 0.5
    # Bilinear without antialiasing takes the four pixels at a patch's centre; a tie rounds to "not masked".
    side = padding.shape[-1] // patch
    shares = F.interpolate(padding[:, None].float(), size=(side, side), mode="bilinear", align_corners=False)
    return shares.flatten(1).round().bool()
