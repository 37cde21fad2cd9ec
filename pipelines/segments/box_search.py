"""The best box on a score map: the axis-aligned rectangle of the largest sum, exactly, for many maps at once.

Kadane's algorithm in two dimensions. Every pair of a first and a last row folds the map into one line of column sums;
along a line the best span that ends at a column is its running sum less the smallest running sum before it. All maps,
all columns and all the pairs of a block of first rows go through the same few array operations: O(H^2 W) numbers a map,
no loop over boxes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

NUMBERS = 2**15  # in a block: what stays in a processor's cache is worth a factor of two


def best_boxes(maps: NDArray[np.floating] | NDArray[np.integer]) -> tuple[NDArray[np.intp], Float]:
    """(Q, H, W) finite maps -> boxes (Q, 4) xyxy in cells, right and bottom exclusive, and their sums (Q,).

    A box holds at least one cell, so a map without a positive cell answers with its largest one. Of boxes with the same
    sum the first one wins: by the first, then the last line across the map's shorter side (rows of a square map), then
    by the earliest end, then the earliest start, along the longer side. Sums are taken in float64, from an integral
    image; sums that differ by its rounding alone count as different.
    """
    count, height, width = maps.shape
    if not count:
        return np.zeros((0, 4), np.intp), np.zeros(0)
    if height > width:
        boxes, sums = best_boxes(maps.transpose(0, 2, 1))
        return boxes[:, [1, 0, 3, 2]], sums
    integral = np.zeros((count, height + 1, width + 1))
    integral[:, 1:, 1:] = maps.cumsum(axis=1, dtype=np.float64).cumsum(axis=2)
    every = np.arange(count)
    best, place, passed = np.full(count, -np.inf), np.zeros(count, np.intp), 0
    block = max(1, NUMBERS // (count * height * (width + 1)))
    for start in range(0, height, block):
        tops = range(start, min(height, start + block))
        running = np.concatenate([integral[:, top + 1 :] - integral[:, top, None] for top in tops], axis=1)
        lowest = np.minimum.accumulate(running[:, :, :-1], axis=2)
        gain = np.subtract(running[:, :, 1:], lowest, out=lowest).reshape(count, -1)  # (Q, pairs * W), by end of span
        found = gain.argmax(axis=1)
        better = gain[every, found] > best
        best, place = np.where(better, gain[every, found], best), np.where(better, passed + found, place)
        passed += gain.shape[1]
    pair, end = np.divmod(place, width)
    top, bottom = (line[pair] for line in np.triu_indices(height))
    # The best span begins where the running sum was first at its lowest.
    line = integral[every, bottom + 1] - integral[every, top]
    left = np.where(np.arange(width + 1) <= end[:, None], line, np.inf).argmin(axis=1)
    return np.stack([left, top, end + 1, bottom + 1], axis=1), best
