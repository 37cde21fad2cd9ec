"""Region views: the square images of a box that CLIP encodes, for all boxes of an image at once.

A view is made by two matrix products, rows then columns, with the weights of an antialiased bicubic resize (the filter
of Pillow, a = -0.5, widened when shrinking): no loop over boxes, no file formats, the same code on CPU and GPU.

    crop          the box alone
    blur          the whole image, blurred outside the box            (ReCLIP; Subramanian et al. 2022)
    mask-blur     the whole image, blurred outside the box's mask     (FGVP; Yang et al. 2023)
    red-ellipse   the whole image, a red ellipse drawn in the box     (Red Circle; Shtedritski et al. 2023)

A part that is not square becomes so by one of three policies: `squash` it, `pad` it with grey, or keep its `center`
only, which loses the ends of long parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import SettingsError
from bench.grounding import ImageArray

View = Literal["crop", "blur", "mask-blur", "red-ellipse"]
Resize = Literal["squash", "pad", "center"]
BLUR_SIGMA = 0.16  # of the image's side: ReCLIP's radius of 100 pixels on an image of 640
LINE = 2.0  # pixels of CLIP's: how thick the red ellipse is drawn
ELLIPSE_GROWS = 0.01  # of the box's sides, so that the line lies around the object
GREY = 0.5


def make_views(
    image: ImageArray,
    boxes: NDArray[np.float64],
    views: Sequence[View],
    size: int,
    margin: float,
    device: torch.device,
    resize: Resize = "squash",
    masks: NDArray[np.bool_] | None = None,
) -> Tensor:
    """Make views of an image's boxes: RGB uint8 (H, W, 3), boxes (N, 4) xyxy pixels -> (V, N, 3, size, size) in 0..1.

    `masks` are (N, H, W); `margin` widens each box by that share of its sides before it is cropped. Raises
    SettingsError for a view of masks where there are none.
    """
    pixels = torch.tensor(image, device=device).permute(2, 0, 1).float() / 255  # (3, H, W)
    corners = torch.as_tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    height, width = image.shape[:2]

    def widened(share: float) -> Tensor:
        return torch.cat([corners[:, :2] - sides * share, corners[:, 2:] + sides * share], dim=1)

    def view(name: View) -> Tensor:
        if name == "crop":
            return _squared(pixels, widened(margin), size, resize)[0]
        sharp, frame = _squared(pixels, torch.tensor([[0.0, 0.0, width, height]], device=device), size, resize)
        if name == "red-ellipse":
            line = _ellipses(_inside(widened(ELLIPSE_GROWS / 2), frame, size), size)
            return line * torch.tensor([1.0, 0, 0], device=device).view(3, 1, 1) + (1 - line) * sharp
        # (N, 1, size, size): the part of each pixel that stays sharp.
        if name == "blur":
            mask = _coverage(_inside(corners, frame, size), size)
        elif masks is None:
            raise SettingsError(
                'the view "mask-blur" needs a mask for each box, and this proposer has boxes only; use proposer.kind = '
                '"masks", or the view "blur", which takes the box for the mask'
            )
        else:
            mask = resample(torch.tensor(masks, device=device).to(sharp.dtype), frame, size).transpose(0, 1)
        return mask * sharp + (1 - mask) * _blurred(sharp)

    return torch.stack([view(name) for name in views])


def _squared(image: Tensor, boxes: Tensor, size: int, resize: Resize) -> tuple[Tensor, Tensor]:
    """Make parts (N, 4) of an image square -> (N, 3, size, size), and the frames (N, 4) that they show."""
    if resize == "squash":
        return resample(image, boxes, size), boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    side = (sides.amax if resize == "pad" else sides.amin)(dim=1, keepdim=True)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    frame = torch.cat([centre - side / 2, centre + side / 2], dim=1)
    square = resample(image, frame, size)
    if resize == "pad":
        inside = _coverage(_inside(boxes, frame, size), size)
        square = inside * square + (1 - inside) * GREY
    return square, frame


def _inside(boxes: Tensor, frame: Tensor, size: int) -> Tensor:
    """Move boxes (N, 4) from the image's pixels to those of the square that shows the frame (N or 1, 4)."""
    corner, extent = frame[:, :2].repeat(1, 2), (frame[:, 2:] - frame[:, :2]).repeat(1, 2)
    return (boxes - corner) * (size / extent)


def _blurred(sharp: Tensor) -> Tensor:
    size = sharp.shape[-1]
    kernel = _gaussian(size, BLUR_SIGMA * size).to(sharp.device)
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


def resample(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Resample boxes (N, 4) xyxy pixels of (C, H, W) -> (N, C, size, size), antialiased bicubic, in 0..1.

    Beyond the image's edge its outermost pixels go on.
    """
    channels, height, width = image.shape
    rows = _bicubic(boxes[:, 1], boxes[:, 3], size, height)  # (N, size, H)
    columns = _bicubic(boxes[:, 0], boxes[:, 2], size, width)  # (N, size, W)
    lines = rows.reshape(-1, height) @ image.permute(1, 0, 2).reshape(height, channels * width)  # (N * size, C * W)
    lines = lines.reshape(len(boxes), size * channels, width)
    out = torch.bmm(lines, columns.transpose(1, 2)).reshape(len(boxes), size, channels, size)
    return out.permute(0, 2, 1, 3).clamp(0, 1)


def _bicubic(start: Tensor, stop: Tensor, size: int, length: int) -> Tensor:
    """Compute weights (N, size, length) from a line of pixels to `size` samples of each span [start, stop]."""
    step = ((stop - start) / size).clamp_min(1e-6)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[None, :, None] + 0.5) * step
    centre = centre.clamp(0, length)
    pixel = torch.arange(length, device=start.device)[None, None, :] + 0.5
    distance = ((pixel - centre) / step.clamp_min(1.0)).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(-1, keepdim=True)


def _coverage(boxes: Tensor, size: int) -> Tensor:
    """Compute the share of each pixel inside boxes (N, 4) xyxy on a square -> (N, 1, size, size)."""
    edge = torch.arange(size, device=boxes.device, dtype=boxes.dtype)

    def along(low: Tensor, high: Tensor) -> Tensor:
        inside = torch.minimum(high[:, None], edge + 1) - torch.maximum(low[:, None], edge)
        return inside.clamp(0, 1)

    return (along(boxes[:, 1], boxes[:, 3])[:, :, None] * along(boxes[:, 0], boxes[:, 2])[:, None, :])[:, None]


@lru_cache(maxsize=8)
def _gaussian(size: int, sigma: float) -> Tensor:
    """Make the matrix (size, size) that blurs a line of pixels, borders renormalised."""
    place = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-((place[:, None] - place[None, :]) ** 2) / (2 * sigma**2))
    return weights / weights.sum(dim=1, keepdim=True)
