"""From a picture to the square canvas that CLIP-VG is shown, and from a box on the canvas back to the picture.

Two styles. `official` does to the last rounding what the official code does: ImageNet statistics, one ratio for both
sides, boxes cut to integers, a patch masked by the pixels at its centre (spec clipvg.md 1.4). `clean` does what should
have been done: CLIP's own statistics, each side's own ratio, boxes as they are, a patch masked when it is all padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.boxes import box_cxcywh_to_xyxy
from bench.grounding import Box, Picture

Style = Literal["official", "clean"]
STATISTICS: dict[Style, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "official": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clean": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
# Data sets whose lists hold x, y, width, height: those four are what the official loader cuts to integers.
HELD_AS_XYWH = {"refcoco", "refcoco+", "refcocog", "refcocog-google"}
Boxes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture on its canvas: `pixels` uint8 (S, S, 3), black where there is no picture.

    The picture's rows are `top` to `bottom`, its columns `left` to `right`, of which the last is not one. `ratio` is
    canvas pixels for a picture pixel, across and down.
    """

    pixels: NDArray[np.uint8]
    left: int
    top: int
    right: int
    bottom: int
    ratio: tuple[float, float]

    def to_canvas(self, box: Box) -> Boxes:
        """xyxy pixels of the picture -> (4,) cxcywh in 0..1 of the canvas; outside it where the box is."""
        x1, y1, x2, y2 = box
        across, down = self.ratio
        size = len(self.pixels)
        left, right = x1 * across + self.left, x2 * across + self.left
        top, bottom = y1 * down + self.top, y2 * down + self.top
        return np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]) / size

    def to_picture(self, boxes: Boxes) -> Boxes:
        """(N, 4) cxcywh in 0..1 of the canvas -> xyxy pixels of the picture, unclipped."""
        corners = box_cxcywh_to_xyxy(boxes) * len(self.pixels)
        return np.asarray((corners - np.tile([self.left, self.top], 2)) / np.tile(self.ratio, 2))


def letterboxed(picture: Picture, size: int, style: Style) -> Canvas:
    """(H, W, 3) -> the picture with its long side at `size`, in the middle of a canvas."""
    image = Image.fromarray(picture)
    resized, ratio = long_side_to(image, size, style)
    # The official offset rounds halves down: -0.1 tips them.
    left, top = (round((size - side) / 2 - 0.1) for side in resized.size)
    return pasted(resized, left, top, size, ratio)


def long_side_to(image: Image.Image, size: int, style: Style) -> tuple[Image.Image, tuple[float, float]]:
    """The image with its long side at `size` pixels, and the ratio across and down by which boxes follow it."""
    ratio = size / max(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    both = (ratio, ratio) if style == "official" else (width / image.width, height / image.height)
    return image.resize((width, height), Image.Resampling.BILINEAR), both


def pasted(image: Image.Image, left: int, top: int, size: int, ratio: tuple[float, float]) -> Canvas:
    """An image that fits, put onto a black canvas with its corner at (left, top)."""
    pixels = np.zeros((size, size, 3), np.uint8)
    right, bottom = left + image.width, top + image.height
    pixels[top:bottom, left:right] = np.asarray(image)
    return Canvas(pixels, left, top, right, bottom, ratio)


def integer_box(box: Box, held_as: Literal["xyxy", "xywh"]) -> Box:
    """xyxy pixels as the official loader has them: cut to integers in the form in which the list holds them.

    Of RefCOCO's kind x, y, width and height are cut, so that the right edge can move by almost two pixels.
    """
    if held_as == "xyxy":
        return tuple(float(int(v)) for v in box)  # type: ignore[return-value]
    # Width and height were floats before they became an edge: what the sum lost is given back before the cut.
    x1, y1 = int(box[0]), int(box[1])
    width, height = (int(round(high - low, 6)) for low, high in ((box[0], box[2]), (box[1], box[3])))
    return (float(x1), float(y1), float(x1 + width), float(y1 + height))


def stacked(canvases: Sequence[Canvas], patch: int, style: Style, device: torch.device) -> tuple[Tensor, Tensor]:
    """Canvases of one size -> pixels (B, 3, S, S), normalised, 0 where there is no picture; masked patches (B, P)."""
    raw, edges = together(canvases)
    return shown(raw.to(device), edges.to(device), patch, style)


def together(canvases: Sequence[Canvas]) -> tuple[Tensor, Tensor]:
    """Canvases of one size -> pixels (B, S, S, 3) uint8, and left, top, right, bottom of each picture (B, 4)."""
    pixels = torch.from_numpy(np.stack([canvas.pixels for canvas in canvases]))
    return pixels, torch.tensor([[c.left, c.top, c.right, c.bottom] for c in canvases])


def shown(raw: Tensor, edges: Tensor, patch: int, style: Style) -> tuple[Tensor, Tensor]:
    """What `together` gives, on any device -> what the network is shown, as `stacked` says."""
    device, line = raw.device, torch.arange(raw.shape[1], device=raw.device)
    left, top, right, bottom = (edges[:, i, None] for i in range(4))
    rows, columns = (line >= top) & (line < bottom), (line >= left) & (line < right)
    inside = rows[:, :, None] & columns[:, None, :]  # (B, S, S)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in STATISTICS[style])
    pixels = ((raw.permute(0, 3, 1, 2).float() / 255 - mean) / std) * inside[:, None]
    return pixels, masked_patches(~inside, patch, style)


def masked_patches(padding: Tensor, patch: int, style: Style) -> Tensor:
    """(B, S, S) True where there is no picture -> (B, P) True where the transformer is not to look."""
    if style == "clean":
        whole = -F.max_pool2d(-padding[:, None].float(), patch)
        return whole.flatten(1) > 0.5
    # Bilinear without antialiasing reads the four pixels at a patch's centre; a tie rounds to "look".
    side = padding.shape[-1] // patch
    shares = F.interpolate(padding[:, None].float(), size=(side, side), mode="bilinear", align_corners=False)
    return shares.flatten(1).round().bool()
