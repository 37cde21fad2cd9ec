"""Regions of one image, from superpixels or masks: their boxes, and their share of each cell of a grid.

A *level* is one way to cut an image: labels (h, w) of regions that share it out among them, or masks (R, h, w) of
regions that may overlap and need not cover it. All levels of an image have one size, which may be smaller than the
image's own; their pixels are then larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.grounding import Boxes

Level = NDArray[Any]  # integers, or booleans for masks
Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The levels, of `shape` (h, w), of one image of `size` (width, height); regions are numbered through all levels.

    Levels of a single region carry no information and are left out; there may be none at all.
    """

    size: tuple[int, int]
    shape: tuple[int, int]
    levels: tuple[Level, ...]

    def __len__(self) -> int:
        return sum(_count(level) for level in self.levels)

    def boxes(self) -> Boxes:
        """Compute the bounding box of each region -> (R, 4) xyxy pixels of the image."""
        levels = [_boxes(level) for level in self.levels]
        return self.in_pixels(np.concatenate(levels)) if levels else np.zeros((0, 4))

    def in_pixels(self, boxes: Boxes) -> Boxes:
        """Scale boxes (N, 4) xyxy from the levels' pixels to the image's."""
        (height, width), size = self.shape, self.size
        return np.asarray(boxes * np.array([size[0] / width, size[1] / height] * 2))

    def masks(self) -> NDArray[np.bool_]:
        """Enlarge each region to the image -> (R, H, W), by the level's nearest pixel."""
        rows, columns = _centres(self.shape[0], self.size[1]), _centres(self.shape[1], self.size[0])
        near = [level[..., rows, :][..., columns] for level in self.levels]
        return np.concatenate([n if n.ndim == 3 else n == np.arange(_count(n))[:, None, None] for n in near])

    def coverage(self, rows: int, columns: int) -> Float:
        """Compute the share of each cell that each region covers -> (R, rows, columns)."""
        levels = [_coverage(level, rows, columns) for level in self.levels]
        return np.concatenate(levels) if levels else np.zeros((0, rows, columns))

    def brush(self, rows: int, columns: int) -> Float:
        """Compute the weights (R, rows, columns) that turn scores (R,) into a map.

        The map is the mean over levels of the mean over a cell. Masks that overlap share the cell; a cell without any
        stays 0.
        """
        painted = []
        for level in self.levels:
            share = _coverage(level, rows, columns)
            painted.append(share / np.maximum(share.sum(axis=0), 1.0) / len(self.levels))
        return np.concatenate(painted) if painted else np.zeros((0, rows, columns))


def segmentation_of(size: tuple[int, int], levels: Sequence[Level]) -> Segmentation:
    """Collect the levels of an image of `size` (width, height), without those of a single region."""
    height, width = levels[0].shape[-2:]
    return Segmentation(size, (height, width), tuple(level for level in levels if _count(level) > 1))


def edges(length: int, cells: int) -> NDArray[np.intp]:
    """Compute where each of `cells` nearly equal cells along `length` pixels starts and ends -> (cells + 1,)."""
    return np.asarray(np.round(np.linspace(0, length, cells + 1)), np.intp)


def _count(level: Level) -> int:
    return len(level) if level.ndim == 3 else int(level.max(initial=-1)) + 1


def boxes_of_masks(masks: NDArray[np.bool_]) -> Boxes:
    """Box masks (N, H, W), none empty -> (N, 4) xyxy, the outer edges of the outermost pixels."""
    sides = []
    for axis in (1, 2):  # columns that are not empty, then rows
        line = np.asarray(masks.any(axis=axis))
        sides.append((line.argmax(axis=1), line.shape[1] - line[:, ::-1].argmax(axis=1)))
    (left, right), (upper, lower) = sides
    return np.stack([left, upper, right, lower], axis=1).astype(np.float64)


def _boxes(level: Level) -> Boxes:
    """Box a level's regions -> (R, 4) xyxy in its own pixels, right and bottom exclusive."""
    if level.ndim == 3:
        return boxes_of_masks(level)
    # Pixels in the order of their region: each region is one run of them.
    order = np.argsort(level, axis=None, kind="stable")
    starts = np.searchsorted(level.ravel()[order], np.arange(_count(level)))
    rows, columns = np.divmod(order, level.shape[1])
    corners = [np.minimum.reduceat(places, starts) for places in (columns, rows)]
    corners += [np.maximum.reduceat(places, starts) + 1 for places in (columns, rows)]
    return np.stack(corners, axis=1).astype(np.float64)


def _coverage(level: Level, rows: int, columns: int) -> Float:
    """Compute shares (R, rows, columns); a cell smaller than a pixel is the pixel under its centre."""
    height, width = level.shape[-2:]
    level = level if rows <= height else level[..., _centres(height, rows), :]
    level = level if columns <= width else level[..., _centres(width, columns)]
    height, width = level.shape[-2:]
    y, x = edges(height, rows), edges(width, columns)
    pixels = np.diff(y)[:, None] * np.diff(x)
    if level.ndim == 3:
        sums = np.add.reduceat(np.add.reduceat(level, y[:-1], axis=1, dtype=np.float64), x[:-1], axis=2)
        return np.asarray(sums / pixels)
    cell = np.repeat(np.arange(rows), np.diff(y))[:, None] * columns + np.repeat(np.arange(columns), np.diff(x))
    counts = np.bincount((level * (rows * columns) + cell).ravel(), minlength=_count(level) * rows * columns)
    return np.asarray(counts.reshape(-1, rows, columns) / pixels)


def _centres(length: int, cells: int) -> NDArray[np.intp]:
    return np.asarray((np.arange(cells) + 0.5) * length / cells, np.intp)
