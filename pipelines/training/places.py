"""Places of a feature map: which of them a box covers, and a small head that reads something off each of them.

MDETR's own loss speaks to a network only through the queries of its decoder, and from nothing it takes long until they
look anywhere in particular. What stands at a place can be told to the place itself; the heads that do it are thrown
away after training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlaceReader(nn.Module):
    """Features of places (..., d) -> logits (..., K) and a box (..., 4), cxcywh in shares of the picture."""

    def __init__(self, width: int, logits: int) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(width, width), nn.Linear(width, logits + 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(features)
        said = self.out(x + F.relu(self.inner(x)))
        return said[..., :-4], said[..., -4:].sigmoid()


def covered(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(M, 4) cxcywh in 0..1 -> (M, h, w) True at the cells of an h x w grid whose centre lies in the box.

    A box between centres still has the one cell that its own centre lies in.
    """
    inside = []
    for axis, cells in zip((1, 0), grid, strict=True):
        centre, half = boxes[:, axis, None], boxes[:, axis + 2, None] / 2
        index = torch.arange(cells, device=boxes.device)
        own = (centre * cells).long().clamp(max=cells - 1) == index
        inside.append((((index + 0.5) / cells - centre).abs() <= half) | own)
    rows, columns = inside
    return rows[:, :, None] & columns[:, None, :]


def grid_of(pixels: Tensor, places: int) -> tuple[int, int]:
    """The (h, w) of the feature map that a picture (..., H, W) becomes, told from its number of places.

    Every stage of the backbones halves a side and rounds up. Raises ValueError when no number of halvings fits.
    """
    height, width = pixels.shape[-2:]
    for halvings in range(8):
        step = 2**halvings
        grid = (-(-height // step), -(-width // step))
        if grid[0] * grid[1] == places:
            return grid
    raise ValueError(f"no feature map of {places} places comes of a picture of {width} x {height}")
