"""Region views: what CLIP is shown of a box. All boxes of an image at once, every view as a square.

A view is made by two matrix products, rows then columns, with the weights of an antialiased bicubic resize (the filter
of Pillow, a = -0.5, widened when shrinking): no loop over boxes, no file formats, the same code on CPU and GPU.

    crop          the box alone                                         (spec/pipelines.md 3.1)
    blur          the whole image, blurred outside the box            (ReCLIP; Subramanian et al. 2022)
    mask-blur     the whole image, blurred outside the box's mask     (FGVP; Yang et al. 2023)
    red-ellipse   the whole image, a red ellipse drawn in the box     (Red Circle; Shtedritski et al. 2023)

What is not square becomes so by one of three policies (spec/pipelines.md 6): `squash` it, `pad` it with grey, or keep
its `center` only, which loses the ends of what is long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
ELLIPSE_GROWS = 0.01  # of the box's sides, so that the line lies around the thing
GREY = 0.5


@dataclass(frozen=True, slots=True)
class Regions:
    """What a view is made from: the image (3, H, W) in 0..1, boxes (N, 4) xyxy pixels, their masks (N, H, W) if any."""

    image: Tensor
    boxes: Tensor
    masks: Tensor | None
    size: int
    margin: float
    resize: Resize


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
    """RGB uint8 (H, W, 3), boxes (N, 4) xyxy pixels, masks (N, H, W) -> (V, N, 3, size, size) in 0..1.

    `margin` widens each box by that share of its sides before it is cropped. Raises SettingsError for a view of masks
    where there are none.
    """
    tensor = torch.tensor(image, device=device).permute(2, 0, 1).float() / 255
    corners = torch.as_tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 4)
    regions = Regions(
        tensor, corners, None if masks is None else torch.tensor(masks, device=device), size, margin, resize
    )
    return torch.stack([VIEWS[view](regions) for view in views])


def crop(r: Regions) -> Tensor:
    """(N, 3, size, size): each box."""
    grow = (r.boxes[:, 2:] - r.boxes[:, :2]) * r.margin
    return _squared(r, torch.cat([r.boxes[:, :2] - grow, r.boxes[:, 2:] + grow], dim=1))[0]


def blur(r: Regions) -> Tensor:
    """(N, 3, size, size): the whole image, blurred outside each box."""
    sharp, frame = _squared(r, _whole(r))
    mask = _coverage(_inside(r.boxes, frame, r.size), r.size)  # (N, 1, size, size)
    return mask * sharp + (1 - mask) * _blurred(sharp)


def mask_blur(r: Regions) -> Tensor:
    """(N, 3, size, size): the whole image, blurred outside each mask. Raises SettingsError without masks."""
    if r.masks is None:
        raise SettingsError(
            'the view "mask-blur" needs a mask for each box, and this proposer finds boxes only; use proposer.kind = '
            '"masks", or the view "blur", which takes the box for the mask'
        )
    sharp, frame = _squared(r, _whole(r))
    mask = resample(r.masks.to(sharp.dtype), frame, r.size).transpose(0, 1)  # (N, 1, size, size)
    return mask * sharp + (1 - mask) * _blurred(sharp)


def red_ellipse(r: Regions) -> Tensor:
    """(N, 3, size, size): the whole image, with a red ellipse around what is in each box."""
    sharp, frame = _squared(r, _whole(r))
    grow = (r.boxes[:, 2:] - r.boxes[:, :2]) * ELLIPSE_GROWS / 2
    line = _ellipses(_inside(torch.cat([r.boxes[:, :2] - grow, r.boxes[:, 2:] + grow], dim=1), frame, r.size), r.size)
    red = torch.tensor([1.0, 0, 0], device=sharp.device).view(3, 1, 1)
    return line * red + (1 - line) * sharp


VIEWS: dict[View, Callable[[Regions], Tensor]] = {
    "crop": crop,
    "blur": blur,
    "mask-blur": mask_blur,
    "red-ellipse": red_ellipse,
}


def _squared(r: Regions, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Parts (N, 4) of the image by the policy -> (N, 3, size, size), and the frames (N, 4) that they show."""
    if r.resize == "squash":
        return resample(r.image, boxes, r.size), boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    side = (sides.amax if r.resize == "pad" else sides.amin)(dim=1, keepdim=True)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    frame = torch.cat([centre - side / 2, centre + side / 2], dim=1)
    shown = resample(r.image, frame, r.size)
    if r.resize == "pad":
        inside = _coverage(_inside(boxes, frame, r.size), r.size)
        shown = inside * shown + (1 - inside) * GREY
    return shown, frame


def _whole(r: Regions) -> Tensor:
    height, width = r.image.shape[1:]
    return torch.tensor([[0.0, 0.0, width, height]], device=r.image.device)


def _inside(boxes: Tensor, frame: Tensor, size: int) -> Tensor:
    """Boxes (N, 4) in pixels of the image -> in pixels of the square that shows the frame (N or 1, 4)."""
    corner, extent = frame[:, :2].repeat(1, 2), (frame[:, 2:] - frame[:, :2]).repeat(1, 2)
    return (boxes - corner) * (size / extent)


def _blurred(sharp: Tensor) -> Tensor:
    size = sharp.shape[-1]
    kernel = _gaussian(size, BLUR_SIGMA * size).to(sharp.device)
    soft: Tensor = kernel @ sharp @ kernel.T
    return soft


def _ellipses(boxes: Tensor, size: int) -> Tensor:
    """(N, 4) on a square of `size` -> (N, 1, size, size), how much of each pixel the line of the ellipse covers.

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
    """(C, H, W) and boxes (N, 4) xyxy in pixels -> (N, C, size, size), antialiased bicubic, clamped to 0..1.

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
    """Weights (N, size, length) that take a line of `length` pixels to `size` samples of each span [start, stop]."""
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
    """(N, 4) xyxy on a square of `size` -> (N, 1, size, size), the share of each pixel inside the box."""
    edge = torch.arange(size, device=boxes.device, dtype=boxes.dtype)

    def along(low: Tensor, high: Tensor) -> Tensor:
        inside = torch.minimum(high[:, None], edge + 1) - torch.maximum(low[:, None], edge)
        return inside.clamp(0, 1)

    return (along(boxes[:, 1], boxes[:, 3])[:, :, None] * along(boxes[:, 0], boxes[:, 2])[:, None, :])[:, None]


@lru_cache(maxsize=8)
def _gaussian(size: int, sigma: float) -> Tensor:
    """(size, size): a line of pixels -> the same line blurred, borders renormalised."""
    place = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-((place[:, None] - place[None, :]) ** 2) / (2 * sigma**2))
    return weights / weights.sum(dim=1, keepdim=True)
