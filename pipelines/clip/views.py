"""Region views: what CLIP is shown of a box. All boxes of a picture at once, every view squashed to a square.

A view is made by two matrix products, rows then columns, with the weights of an antialiased bicubic resize (the filter
of Pillow, a = -0.5, widened when shrinking): no loop over boxes, no file formats, the same code on CPU and GPU.

    crop    the box, squashed to the square                                     (spec/pipelines.md 3.1)
    blur    the whole picture, squashed, blurred outside the box                (ReCLIP; Subramanian et al. 2022)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.grounding import Picture

View = Literal["crop", "blur"]
BLUR_SIGMA = 0.16  # of the picture's side: ReCLIP's radius of 100 pixels on a picture of 640


def make_views(
    picture: Picture, boxes: NDArray[np.float64], views: Sequence[View], size: int, margin: float, device: torch.device
) -> Tensor:
    """RGB uint8 (H, W, 3) and boxes (N, 4) xyxy pixels -> (V, N, 3, size, size) in 0..1.

    `margin` widens each box by that share of its sides before it is cropped.
    """
    image = torch.tensor(picture, device=device).permute(2, 0, 1).float() / 255
    corners = torch.as_tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 4)
    return torch.stack([VIEWS[view](image, corners, size, margin) for view in views])


def crop(image: Tensor, boxes: Tensor, size: int, margin: float) -> Tensor:
    """(3, H, W), (N, 4) -> (N, 3, size, size): each box, squashed."""
    grow = (boxes[:, 2:] - boxes[:, :2]) * margin
    return resample(image, torch.cat([boxes[:, :2] - grow, boxes[:, 2:] + grow], dim=1), size)


def blur(image: Tensor, boxes: Tensor, size: int, margin: float) -> Tensor:
    """(3, H, W), (N, 4) -> (N, 3, size, size): the whole picture squashed, blurred outside each box."""
    height, width = image.shape[1:]
    whole = torch.tensor([[0.0, 0.0, width, height]], device=image.device)
    sharp = resample(image, whole, size)  # (1, 3, size, size)
    kernel = _gaussian(size, BLUR_SIGMA * size).to(image.device)
    soft = kernel @ sharp @ kernel.T
    scale = torch.tensor([size / width, size / height] * 2, device=image.device)
    mask = _coverage(boxes * scale, size)  # (N, 1, size, size)
    return mask * sharp + (1 - mask) * soft


VIEWS: dict[View, Callable[[Tensor, Tensor, int, float], Tensor]] = {"crop": crop, "blur": blur}


def resample(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """(C, H, W) and boxes (N, 4) xyxy in pixels -> (N, C, size, size), antialiased bicubic, clamped to 0..1.

    Beyond the picture's edge its outermost pixels go on.
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
