"""Score maps: each region's score, painted where the region is, and the best box on the map.

Two published recipes are lines of the same table:

    the classic       cosines; values under the quantile .75 set to it; a cell counts for the box by how far it is above
                      3/7 of the map's range ([-0.75, 1] in the original), but scaled over the whole map, not column by
                      column
    Li et al. 2022    exp(cosine / 0.01), which is CLIP's own temperature, 1 in this table; the share of the map inside
                      the box less `area` times the share of the image
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.grounding import Boxes
from bench.settings import Table
from pipelines.two_stage.segments.segmentation import Float, Segmentation, edges

DEAREST = 0.9  # of the map's range: the best cells always count, even for an object that fills the image
MILLION = 1_000_000
NUMBERS = 2**15  # in a block of the box search: twice as fast while it fits a processor's cache
TINY = 1e-100  # a probability of zero, which a rule may give, has no logarithm


class MapOptions(Table):
    """[pipelines.*.map]."""

    grid: int = Field(40, ge=2, description="cells along the image's long side")
    temperature: float = Field(
        0.0, ge=0, description="paint exp(logit / temperature), so 1 = the ranker's probabilities; 0 = the logits"
    )
    quantile: float = Field(0.75, ge=0, lt=1, description="values under this quantile of the map are set to it")
    threshold: float = Field(3 / 7, ge=0, le=1, description="share of the map's range that costs a box nothing")
    area: float = Field(0.0, ge=0, description="price of a cell, times the map's mean")


def score_maps(probabilities: Float, brush: Float, options: MapOptions) -> Float:
    """Paint probabilities (Q, R) over a scene's regions with brush (R, h, w) -> maps (Q, h, w), 0 to 1 (flat: 0).

    A logarithm of a probability is a logit, that is, a scaled cosine, up to a constant that the map's range removes.
    """
    painted = np.log(np.maximum(probabilities, TINY))
    if options.temperature:
        painted = np.exp((painted - painted.max(axis=1, keepdims=True)) / options.temperature)
    painted = painted - painted.min(axis=1, keepdims=True)  # a cell without a region counts as the worst of them
    maps = np.tensordot(painted, brush, axes=1)
    lowest = np.quantile(maps, options.quantile, axis=(1, 2), keepdims=True)
    maps = np.maximum(maps, lowest) - lowest
    span = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(maps, span, out=np.zeros_like(maps), where=span > 1e-9))


def cells(shape: tuple[int, int], grid: int) -> tuple[int, int]:
    """Compute rows and columns of the map over levels of `shape` (h, w).

    `grid` cells lie along the long side; they are as square as whole numbers allow, and none is smaller than a pixel.
    """
    cell = max(1.0, max(shape) / grid)
    return max(1, round(shape[0] / cell)), max(1, round(shape[1] / cell))


def maps_of(probabilities: Float, regions: Segmentation, options: MapOptions) -> Float:
    """Map probabilities (Q, R) over an image's regions -> (Q, rows, columns) over all of it, 0 to 1 each."""
    return score_maps(probabilities, regions.brush(*cells(regions.shape, options.grid)), options)


def best_on_maps(probabilities: Float, regions: Segmentation, options: MapOptions) -> tuple[Boxes, Float]:
    """Search the best box of each map -> (Q, 4) xyxy pixels of the image, and the map's mean inside, 0 to 1.

    `probabilities` are (Q, R). Without regions, or where all of them score the same, the box is the whole image and its
    score 0.
    """
    count = len(probabilities)
    boxes, scores = np.tile([0.0, 0.0, *map(float, regions.size)], (count, 1)), np.zeros(count)
    if not len(regions) or not count:
        return boxes, scores
    # 1. The price of a cell, by the mean of its map; flat maps are left out.
    maps = maps_of(probabilities, regions, options)
    rows, columns = maps.shape[1:]
    varied = maps.max(axis=(1, 2)) > 0
    price = options.threshold + options.area * maps[varied].mean(axis=(1, 2), keepdims=True)
    price = np.minimum(price, DEAREST)
    # 2. Whole millionths add up exactly: equal boxes stay equal, whatever noise the encoder's batches bring.
    places, sums = best_boxes(np.rint((maps[varied] - price) * MILLION).astype(np.int64))
    inside = (places[:, 2] - places[:, 0]) * (places[:, 3] - places[:, 1])
    scores[varied] = np.minimum(sums / MILLION / inside + price[:, 0, 0], 1.0)
    # 3. A cell begins and ends at a whole pixel of the levels, so its box is exactly the area of its mean.
    x, y = edges(regions.shape[1], columns), edges(regions.shape[0], rows)
    corners = [x[places[:, 0]], y[places[:, 1]], x[places[:, 2]], y[places[:, 3]]]
    boxes[varied] = regions.in_pixels(np.stack(corners, axis=1).astype(np.float64))
    return boxes, scores


def best_boxes(maps: NDArray[np.floating] | NDArray[np.integer]) -> tuple[NDArray[np.intp], Float]:
    """Search the box of the largest sum on each map by Kadane's algorithm in two dimensions.

    (Q, H, W) finite maps -> boxes (Q, 4) xyxy in cells, right and bottom exclusive, and their sums (Q,).

    Every pair of a first and a last row folds the map into one line of column
    sums; along a line the best span that ends at a column is its running sum less the smallest running sum before it.
    All maps, columns and pairs of a block of first rows share a few array operations: O(H^2 W) numbers a map.

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
    # 1. For every pair of rows and every end column, the gain of the best span; the best of all in blocks.
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
        top_gain = gain.argmax(axis=1)
        better = gain[every, top_gain] > best
        best, place = np.where(better, gain[every, top_gain], best), np.where(better, passed + top_gain, place)
        passed += gain.shape[1]
    pair, end = np.divmod(place, width)
    top, bottom = (line[pair] for line in np.triu_indices(height))
    # 2. The best span begins where the running sum was first at its lowest.
    line = integral[every, bottom + 1] - integral[every, top]
    left = np.where(np.arange(width + 1) <= end[:, None], line, np.inf).argmin(axis=1)
    return np.stack([left, top, end + 1, bottom + 1], axis=1), best
