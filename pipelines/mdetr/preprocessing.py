"""Pictures as MDETR sees them: short side 800, long side at most 1333, ImageNet's mean and deviation taken off.

Pillow's antialiased bilinear filter on 8-bit pixels, as in training, so that published weights see what they know
(spec/pipelines.md 2.1). Nothing is padded: pictures of equal size share a pass instead.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.grounding import Picture

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resized(picture: Picture, short: int, long: int) -> Tensor:
    """RGB uint8 (H, W, 3) -> (3, h, w) float32 in 0..1, of the size that `target_size` says."""
    height, width = picture.shape[:2]
    w, h = target_size(width, height, short, long)
    image = Image.fromarray(picture)
    if (w, h) != (width, height):
        image = image.resize((w, h), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def target_size(width: int, height: int, short: int, long: int) -> tuple[int, int]:
    """(width, height) in pixels -> the size after scaling: short side `short`, or less where the long side would pass
    `long`. Rounded and truncated as the official transform does, so the long side of a very flat picture may still end
    a few per cent above `long`.
    """
    low, high = min(width, height), max(width, height)
    if high / low * short > long:
        short = max(1, round(long * low / high))
    other = int(short * high / low)
    return (short, other) if width < height else (other, short)


def normalised(pixels: Tensor) -> Tensor:
    """(..., 3, h, w) in 0..1 -> the same with ImageNet's mean taken off and divided by its deviation."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std
