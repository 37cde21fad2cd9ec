"""Intervals from a bootstrap over images.

Expressions of one image share its objects, its crowding and often its wording, so they are not independent; images
are what the split was sampled by, so images are what is drawn again (the cluster bootstrap; Field and Welsh 2007).
One set of draws serves every quantity: each draw is a vector of how often each image was taken, and a quantity is the
ratio of two weighted sums of per-image sums. The memory needed is one chunk of draws, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

CHUNK = 500_000  # draws x images in memory at once: 4 MB of weights


def drawn_images(images: int, draws: int, seed: int, chunk: int = CHUNK) -> Iterator[Int]:
    """Yield blocks (draws in the block, images) of image numbers, each row one draw with replacement.

    Made from the raw words of PCG64, which numpy promises never to change, rather than from `Generator.integers`,
    which it may: the same seed gives the same interval with every numpy. Each draw uses words of its own, so the size
    of a block changes nothing. A 32-bit word w becomes w * images >> 32, uneven by less than images / 2**32.
    """
    source = np.random.PCG64(seed)
    words = (images + 1) // 2  # two 32-bit numbers each
    block = max(1, chunk // max(1, images))
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        raw = source.random_raw(rows * words).astype("<u8", copy=False).reshape(rows, words)
        drawn = np.multiply(raw.view("<u4")[:, :images], np.uint64(images), dtype=np.uint64)
        drawn >>= np.uint64(32)
        yield drawn.view(np.int64)


def resampled_sums(sums: ArrayLike, draws: int, seed: int, chunk: int = CHUNK) -> Float:
    """Resample (images, K) per-image sums -> (draws, K) totals over each draw of images.

    Exact for whole numbers (float64 adds them without rounding in any order), so counts give the same bytes anywhere.
    """
    table = np.asarray(sums, np.float64)
    images = len(table)
    totals = np.empty((draws, table.shape[1]))
    done = 0
    for drawn in drawn_images(images, draws, seed, chunk):
        rows = len(drawn)
        drawn += np.arange(rows, dtype=np.int64)[:, None] * images  # a cell of its own for each draw and image
        weights = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        totals[done : done + rows] = weights.astype(np.float64) @ table
        done += rows
    return totals


def ratio_intervals(
    numerators: ArrayLike,
    denominators: ArrayLike,
    draws: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    chunk: int = CHUNK,
) -> list[tuple[float, float]]:
    """Compute K percentile intervals of hits / samples from (images, K) per-image hits and counts.

    A draw without a sample of a column is left out of that column. A column
    with samples in fewer than two images gets (0, 1), for one cluster has no spread between
    clusters, and so does one of which no draw has a sample.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    columns = below.shape[1]
    known = np.flatnonzero((below > 0).sum(axis=0) >= 2)
    intervals = [(0.0, 1.0)] * columns
    if not len(known):
        return intervals
    # One set of draws for numerators and denominators; then quantiles of each column's ratio.
    totals = resampled_sums(np.hstack([above[:, known], below[:, known]]), draws, seed, chunk)
    tail = (1 - confidence) / 2
    for place, column in enumerate(known.tolist()):
        size = totals[:, len(known) + place]
        some = size > 0
        if not some.any():  # a rare stratum, and few draws
            continue
        ratios = totals[some, place] / size[some]
        low, high = np.quantile(ratios, [tail, 1 - tail])
        intervals[column] = (float(low), float(high))
    return intervals
