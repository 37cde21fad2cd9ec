"""Region views: the square images of a box that CLIP encodes, for all boxes of a batch at once.

A view is made by two weighted sums, of columns of pixels then of rows, with the weights of an antialiased bicubic
resize (the filter of Pillow, a = -0.5, widened when shrinking): no loop over boxes, the same code on CPU and GPU.

    crop          the box alone
    blur          the whole image, blurred outside the box            (ReCLIP; Subramanian et al. 2022)
    mask-blur     the whole image, blurred outside the box's mask     (FGVP; Yang et al. 2023)
    red-ellipse   the whole image, a red ellipse drawn in the box     (Red Circle; Shtedritski et al. 2023)
    tint          the whole image, the box filled with a colour       (CPT; Yao et al. 2021), for CLIPs tuned on it

A part that is not square becomes so by one of three policies: `squash` it, `pad` it with grey, or keep its `center`
only, which loses the ends of long parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import SettingsError
from bench.grounding import Boxes, ImageArray
from pipelines.engine import to_device

View = Literal["crop", "blur", "mask-blur", "red-ellipse", "tint"]
Resize = Literal["squash", "pad", "center"]
Masks = NDArray[np.bool_] | None
BLUR_SIGMA = 0.16  # of the image's side: ReCLIP's radius of 100 pixels on an image of 640
LINE = 2.0  # pixels of CLIP's: how thick the red ellipse is drawn
ELLIPSE_GROWS = 0.01  # of the box's sides, so that the line lies around the object
GREY = 0.5


class Tint(NamedTuple):
    """How a box is tinted: RGB, how much of the colour is laid over the box, and the line along its edge, inside it.

    The line is of the plain colour, in pixels of CLIP's square.
    """

    colour: tuple[int, int, int] = (50, 205, 50)
    alpha: float = 0.5
    line: float = 2.0


LIMEGREEN = Tint()
# Boxes in one step: a CPU is fastest while what a step makes (3 MB a box) is memory that it has already.
STEP = {"cpu": 16, "cuda": 256}


def make_views(
    images: Sequence[ImageArray],
    boxes: Sequence[Boxes],
    views: Sequence[View],
    size: int,
    margin: float,
    device: torch.device,
    resize: Resize = "squash",
    masks: Sequence[Masks] | None = None,
    tint: Tint = LIMEGREEN,
) -> Tensor:
    """Make views of images' boxes: RGB uint8 (H, W, 3), (N, 4) xyxy pixels -> (V, sum of N, 3, size, size) in 0..1.

    `masks` are (N, H, W) for each image; `margin` widens each box by that share of its sides before it is cropped.
    Images of one size that come one after the other are processed together. Raises SettingsError for a view of masks
    where there are none.
    """
    counts = [len(own) for own in boxes]
    out = torch.empty(len(views), sum(counts), 3, size, size, device=device)
    rows = zip(images, boxes, masks or [None] * len(images), counts, strict=True)
    start = 0
    for _, run in groupby(rows, key=lambda row: row[0].shape):
        alike, corners, regions, some = zip(*run, strict=True)
        if "mask-blur" in views and any(region is None for region in regions):
            raise SettingsError(
                'the view "mask-blur" needs a mask for each box, and this proposer has boxes only; use proposer.kind = '
                '"masks", or the view "blur", which takes the box for the mask'
            )
        with torch.autocast(device.type, enabled=False):  # in a training step of 16 bits too
            _draw(out[:, start : start + sum(some)], alike, corners, regions, views, margin, resize, tint)
        start += sum(some)
    return out


def _draw(
    out: Tensor,
    images: Sequence[ImageArray],
    boxes: Sequence[Boxes],
    masks: Sequence[Masks],
    views: Sequence[View],
    margin: float,
    resize: Resize,
    tint: Tint,
) -> None:
    """Draw the views (V, N, 3, size, size) of the boxes of images of one size."""
    size, device = out.shape[-1], out.device
    columns = as_columns(to_device(torch.from_numpy(np.stack(images)), device)) / 255
    # Boxes stay on the host until they are drawn: by their sizes is known how long the sums are.
    corners = torch.from_numpy(np.concatenate(boxes)).float().reshape(-1, 4)
    every = torch.arange(len(images))
    owners = every.repeat_interleave(torch.tensor([len(own) for own in boxes]))
    # 1. The whole images, if a view shows them.
    whole = torch.tensor([[0.0, 0.0, *images[0].shape[1::-1]]]).expand(len(images), 4)
    if set(views) - {"crop"}:
        sharp, frames = _squared(columns, whole, every, size, resize)
        frame = frames[:1]
    if {"blur", "mask-blur"} & set(views):
        blurred = _blurred(sharp)
    # 2. The boxes, step by step.
    for start in range(0, len(corners), STEP[device.type]):
        step = slice(start, start + STEP[device.type])
        some, owner = corners[step], owners[step]
        own = to_device(owner, device)
        for name, place in zip(views, out[:, step], strict=True):
            if name == "crop":
                _squared(columns, widened(some, margin), owner, size, resize, place)
                continue
            if name == "red-ellipse":
                ellipses = inside(widened(some, ELLIPSE_GROWS / 2), frame, size)
                torch.lerp(
                    sharp[own], _flat((255, 0, 0), device), _ellipses(to_device(ellipses, device), size), out=place
                )
                continue
            if name == "tint":
                covered = _tinted(to_device(inside(some, frame, size), device), size, tint)
                torch.lerp(sharp[own], _flat(tint.colour, device), covered, out=place)
                continue
            # (N, 1, size, size): the part of each pixel that stays sharp.
            if name == "blur":
                mask = coverage_of(to_device(inside(some, frame, size), device), size)
            else:
                regions = to_device(torch.from_numpy(np.concatenate(masks)[step]), device)  # type: ignore[arg-type]
                numbers = torch.arange(len(some))
                mask = resample(as_columns(regions[..., None]), frame.expand(len(some), 4), numbers, size)
            torch.lerp(blurred[own], sharp[own], mask, out=place)


def as_columns(images: Tensor) -> Tensor:
    """Turn images (B, H, W, C) into what `resample` takes: their columns of pixels, (B, W, H, C) float32."""
    return images.permute(0, 2, 1, 3).contiguous().float()


def widened(boxes: Tensor, share: float) -> Tensor:
    """Widen boxes (N, 4) by a share of their sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.cat([boxes[:, :2] - sides * share, boxes[:, 2:] + sides * share], dim=1)


def _squared(
    columns: Tensor, boxes: Tensor, owner: Tensor, size: int, resize: Resize, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Make parts (N, 4) of images square -> (N, 3, size, size), and the frames (N, 4) that they show."""
    frames = frames_of(boxes, resize)
    square = resample(columns, frames, owner, size, out)
    if resize == "pad":
        real = coverage_of(to_device(inside(boxes, frames, size), columns.device), size)
        square.sub_(GREY).mul_(real).add_(GREY)
    return square, frames


def frames_of(boxes: Tensor, resize: Resize) -> Tensor:
    """Compute the frames that become the squares of boxes (N, 4) -> (N, 4)."""
    if resize == "squash":
        return boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    side = (sides.amax if resize == "pad" else sides.amin)(dim=1, keepdim=True)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([centre - side / 2, centre + side / 2], dim=1)


def inside(boxes: Tensor, frame: Tensor, size: int) -> Tensor:
    """Move boxes (N, 4) from the image's pixels to those of the square that shows the frame (N or 1, 4)."""
    corner, extent = frame[:, :2].repeat(1, 2), (frame[:, 2:] - frame[:, :2]).repeat(1, 2)
    return (boxes - corner) * (size / extent)


def _blurred(sharp: Tensor) -> Tensor:
    size = sharp.shape[-1]
    kernel = _gaussian(size, BLUR_SIGMA * size, sharp.device)
    soft: Tensor = kernel @ sharp @ kernel.T
    return soft


def _ellipses(boxes: Tensor, size: int) -> Tensor:
    """Draw ellipses in boxes (N, 4) on a square -> (N, 1, size, size), the share of each pixel under the line.

    The distance to an ellipse is taken to first order: its implicit function over the length of its gradient.
    """
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, :, None, None]
    radii = ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp_min(LINE / 2)[:, :, None, None]
    pixel = torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5
    place = torch.stack(torch.meshgrid(pixel, pixel, indexing="xy"))[None]  # (1, 2, size, size): x, y
    unit = (place - centre) / radii
    length = unit.norm(dim=1, keepdim=True)
    slope = (unit / radii).norm(dim=1, keepdim=True) / length.clamp_min(1e-6)
    distance = ((length - 1) / slope.clamp_min(1e-6)).abs()
    covered: Tensor = (LINE / 2 + 0.5 - distance).clamp(0, 1)
    return covered


def _tinted(boxes: Tensor, size: int, tint: Tint) -> Tensor:
    """Compute how much of each pixel is the tint's colour, boxes (N, 4) on a square -> (N, 1, size, size)."""
    within = torch.cat(
        [boxes[:, :2] + tint.line, boxes[:, 2:] - tint.line], dim=1
    )  # nothing, of a box that is all line
    return coverage_of(boxes, size) - (1 - tint.alpha) * coverage_of(within, size)


def resample(columns: Tensor, boxes: Tensor, owner: Tensor, size: int, out: Tensor | None = None) -> Tensor:
    """Resample boxes (N, 4) xyxy pixels -> (N, C, size, size) on the device, antialiased bicubic, in 0..1.

    `columns` (B, W, H, C) are images from `as_columns`, and `owner` (N,) numbers the one of each box; it and the boxes
    are on the host. Beyond an image's edge its outermost pixels go on.
    """
    width, height, channels = columns.shape[1:]
    out = columns.new_empty(len(boxes), channels, size, size) if out is None else out
    both = torch.cat([boxes, owner[:, None]], dim=1)  # whole numbers up to 2^24 are exact
    for start in range(0, len(boxes), STEP[columns.device.type]):
        some, place = (rows[start : start + STEP[columns.device.type]] for rows in (both, out))
        longest = [ceil(4 * max(float(side.max()) / size, 1.0)) + 1 for side in (some[:, 2:4] - some[:, :2]).T]
        there = to_device(some, columns.device)
        # 1. Each sample's column, a sum of the image's: (n * size, H * C).
        index, weights = _bicubic(there[:, 0], there[:, 2], size, width, longest[0])
        index += (there[:, 4].long() * width)[:, None, None]
        lines = _sums(columns.reshape(-1, height * channels), index, weights)
        # 2. Each sample's row, a sum of the rows that these columns make: (n * size, C * size).
        lines = lines.unflatten(0, (-1, size)).transpose(1, 2).reshape(-1, channels * size)
        index, weights = _bicubic(there[:, 1], there[:, 3], size, height, longest[1])
        index += (torch.arange(len(some), device=index.device) * height)[:, None, None]
        rows = _sums(lines, index, weights).view(-1, size, channels, size)
        torch.clamp(rows.transpose(1, 2), 0, 1, out=place)
    return out


def _bicubic(start: Tensor, stop: Tensor, size: int, length: int, most: int) -> tuple[Tensor, Tensor]:
    """Compute which pixels of a line make each of `size` samples of spans [start, stop], and their weights.

    (N,) each -> (N, size, most), `most` being enough for the longest span; those beyond the line weigh nothing.
    """
    step = ((stop - start) / size).clamp_min(1e-6)[:, None]
    centre = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * step
    centre = centre.clamp(0, length)[..., None]
    wide = step.clamp_min(1.0)[..., None]
    pixel = (centre - 2 * wide - 0.5).ceil() + torch.arange(most, device=start.device)
    distance = ((pixel + 0.5 - centre) / wide).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = torch.where((pixel >= 0) & (pixel < length), weights, 0.0)
    return pixel.long().clamp(0, length - 1), weights / weights.sum(-1, keepdim=True)


def _sums(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sum rows of a table (R, D) by index and weights (N, size, K) -> (N * size, D)."""
    return F.embedding_bag(index.flatten(0, 1), table, mode="sum", per_sample_weights=weights.flatten(0, 1))


def coverage_of(boxes: Tensor, size: int) -> Tensor:
    """Compute the share of each pixel inside boxes (N, 4) xyxy on a square -> (N, 1, size, size)."""
    edge = torch.arange(size, device=boxes.device, dtype=boxes.dtype)

    def along(low: Tensor, high: Tensor) -> Tensor:
        inside = torch.minimum(high[:, None], edge + 1) - torch.maximum(low[:, None], edge)
        return inside.clamp(0, 1)

    return (along(boxes[:, 1], boxes[:, 3])[:, :, None] * along(boxes[:, 0], boxes[:, 2])[:, None, :])[:, None]


@lru_cache(maxsize=8)
def _gaussian(size: int, sigma: float, device: torch.device) -> Tensor:
    """Make the matrix (size, size) that blurs a line of pixels, borders renormalised."""
    place = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-((place[:, None] - place[None, :]) ** 2) / (2 * sigma**2))
    return (weights / weights.sum(dim=1, keepdim=True)).to(device)


@lru_cache(maxsize=8)
def _flat(colour: tuple[int, int, int], device: torch.device) -> Tensor:
    return torch.tensor(colour, device=device).view(3, 1, 1) / 255
