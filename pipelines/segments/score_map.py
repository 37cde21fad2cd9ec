"""Score maps: what each region scores, painted where the region is, and the best box on the map.

Two published recipes are lines of the same table:

    the classic (spec/pipelines.md 1.2)       cosines; what is under the quantile .75 set to it; a cell counts for the
                                              box by how far it is above 3/7 of the map's range ([-0.75, 1] in the
                                              original), but scaled over the whole map, not column by column
    Li et al. 2022 (spec/clipvg.md 9.6)       exp(cosine / 0.01), which is CLIP's own temperature, 1 in this table; the
                                              share of the map inside the box less `area` times the share of the picture
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from bench.grounding import Boxes
from bench.settings import Table
from pipelines.segments.box_search import best_boxes
from pipelines.segments.segmentation import Float, Segmentation, edges

DEAREST = 0.9  # of the map's range: the best cells always count, even for a thing that fills the picture
MILLION = 1_000_000
TINY = 1e-100  # a probability of zero, which a rule may say, has no logarithm


class MapOptions(Table):
    """[pipelines.*.map]."""

    grid: int = Field(40, ge=2, description="cells along the picture's long side")
    temperature: float = Field(
        0.0, ge=0, description="paint exp(logit / temperature), so 1 = the ranker's probabilities; 0 = the logits"
    )
    quantile: float = Field(0.75, ge=0, lt=1, description="what is under this quantile of the map is set to it")
    threshold: float = Field(3 / 7, ge=0, le=1, description="share of the map's range that costs a box nothing")
    area: float = Field(0.0, ge=0, description="price of a cell, times the map's mean")


def score_maps(chances: Float, brush: Float, options: MapOptions) -> Float:
    """Probabilities (Q, R) over a scene's regions, brush (R, h, w) -> maps (Q, h, w), 0 to 1 each (a flat one is 0).

    A logarithm of a probability is a logit, that is, a scaled cosine, up to a constant that the map's range takes away.
    """
    painted = np.log(np.maximum(chances, TINY))
    if options.temperature:
        painted = np.exp((painted - painted.max(axis=1, keepdims=True)) / options.temperature)
    painted = painted - painted.min(axis=1, keepdims=True)  # what no region covers is as good as the worst of them
    maps = np.tensordot(painted, brush, axes=1)
    lowest = np.quantile(maps, options.quantile, axis=(1, 2), keepdims=True)
    maps = np.maximum(maps, lowest) - lowest
    span = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(maps, span, out=np.zeros_like(maps), where=span > 1e-9))


def cells(shape: tuple[int, int], grid: int) -> tuple[int, int]:
    """Rows and columns of the map over levels of `shape` (h, w): `grid` cells along the long side, as square as whole
    numbers allow, none smaller than a pixel.
    """
    cell = max(1.0, max(shape) / grid)
    return max(1, round(shape[0] / cell)), max(1, round(shape[1] / cell))


def maps_of(chances: Float, regions: Segmentation, options: MapOptions) -> Float:
    """Probabilities (Q, R) over a picture's regions -> maps (Q, rows, columns) over all of it, 0 to 1 each."""
    return score_maps(chances, regions.brush(*cells(regions.shape, options.grid)), options)


def best_on_maps(chances: Float, regions: Segmentation, options: MapOptions) -> tuple[Boxes, Float]:
    """Probabilities (Q, R) -> boxes (Q, 4) xyxy pixels of the picture, and the mean of the map inside each, 0 to 1.

    Without regions, or where all of them score the same, the box is the whole picture and its score 0.
    """
    boxes, found = np.tile([0.0, 0.0, *map(float, regions.size)], (len(chances), 1)), np.zeros(len(chances))
    if not len(regions):
        return boxes, found
    maps = maps_of(chances, regions, options)
    rows, columns = maps.shape[1:]
    told = maps.max(axis=(1, 2)) > 0
    price = options.threshold + options.area * maps[told].mean(axis=(1, 2), keepdims=True)
    price = np.minimum(price, DEAREST)
    # Whole millionths add up exactly: equal boxes stay equal, whatever noise the encoder's batches bring.
    places, sums = best_boxes(np.rint((maps[told] - price) * MILLION).astype(np.int64))
    inside = (places[:, 2] - places[:, 0]) * (places[:, 3] - places[:, 1])
    found[told] = np.minimum(sums / MILLION / inside + price[:, 0, 0], 1.0)
    # A cell begins and ends at a whole pixel of the levels, so its box is exactly what it was the mean of.
    x, y = edges(regions.shape[1], columns), edges(regions.shape[0], rows)
    corners = [x[places[:, 0]], y[places[:, 1]], x[places[:, 2]], y[places[:, 3]]]
    boxes[told] = regions.in_pixels(np.stack(corners, axis=1).astype(np.float64))
    return boxes, found
