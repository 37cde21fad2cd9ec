"""Resize and normalise images for MDETR.

Short side 800, long side at most 1333, Pillow's antialiased bilinear filter on 8-bit pixels, as in the official
training; nothing is padded, images of equal size share a pass instead.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.grounding import ImageArray
from pipelines.canvas import IMAGENET


def resized(image: ImageArray, short: int, long: int) -> Tensor:
    """Resize RGB uint8 (H, W, 3) -> (3, h, w) uint8, of the size that `target_size` computes."""
    height, width = image.shape[:2]
    w, h = target_size(width, height, short, long)
    out = Image.fromarray(image)
    if (w, h) != (width, height):
        out = out.resize((w, h), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(out)).permute(2, 0, 1)


def target_size(width: int, height: int, short: int, long: int) -> tuple[int, int]:
    """Compute (width, height) after scaling to short side `short`, or less where the long side would pass `long`.

    Rounded and truncated as the official transform does: the long side of a very flat image may still end a few per
    cent above `long`.
    """
    low, high = min(width, height), max(width, height)
    if high / low * short > long:
        short = max(1, round(long * low / high))
    other = int(short * high / low)
    return (short, other) if width < height else (other, short)


def normalised(pixels: Tensor) -> Tensor:
    """Normalise (..., 3, h, w) uint8 by ImageNet's mean and deviation -> float32."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in IMAGENET)
    return (pixels.float() / 255 - mean) / std
