"""Intervals from a bootstrap over images.

Expressions of one image share its objects, its crowding and often its wording, so they are not independent; images
are what the split was sampled by, so images are what is drawn again (the cluster bootstrap; Field and Welsh 2007).
One set of draws serves every quantity: each draw is a vector of how often each image was taken, and a quantity is the
ratio of two weighted sums of per-image sums. The memory needed is one chunk of draws, whatever their number.

The bootstrap's interval is too narrow where few images inform it: of 5 images it covers the truth in 14 to 95 % of the
simulated data sets instead of 95 %. There `few_images_interval` takes its place, which covers it in 90 % or more
(tools/benchmarks/interval_simulation.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

Interval = tuple[float, float]

FEW_IMAGES = 30  # of equal size; fewer get the interval of few images
FEW_EVENTS = 10  # so do fewer images with a hit, or with a miss
ALIKE_EVENTS = 3  # below this many the spread between images is not estimated but taken as the largest possible
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

    Exact for whole numbers (they are added without rounding in any order), so counts give the same bytes anywhere.
    """
    table = np.asarray(sums, np.float64)
    images = len(table)
    # Half the work where no total can reach the whole numbers that float32 does not have.
    if table.size and images * float(np.abs(table).max()) < 2**24 and (table == np.rint(table)).all():
        table = table.astype(np.float32)
    totals = np.empty((draws, table.shape[1]))
    done = 0
    for drawn in drawn_images(images, draws, seed, chunk):
        rows = len(drawn)
        drawn += np.arange(rows, dtype=np.int64)[:, None] * images  # a cell of its own for each draw and image
        weights = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        totals[done : done + rows] = weights.astype(table.dtype) @ table
        done += rows
    return totals


def ratio_intervals(
    numerators: ArrayLike,
    denominators: ArrayLike,
    draws: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    chunk: int = CHUNK,
) -> list[tuple[Interval | None, str]]:
    """Compute K intervals of hits / samples from (images, K) per-image hits and counts, each with a note.

    Where images are few it is the interval of few images, and the note their number: "4 images", or "3 images with a
    miss". Samples in fewer than two images have None. Else it is the percentile interval of the draws with a sample,
    and no note.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    notes = [_few(above[:, column], below[:, column]) for column in range(below.shape[1])]
    intervals = [
        few_images_interval(above[:, column], below[:, column], confidence) if note else None
        for column, note in enumerate(notes)
    ]
    # One set of draws for numerators and denominators; then quantiles of each column's ratio.
    known = [column for column, note in enumerate(notes) if not note]
    totals = resampled_sums(np.hstack([above[:, known], below[:, known]]), draws, seed, chunk) if known else None
    tail = (1 - confidence) / 2
    for place, column in enumerate(known):
        assert totals is not None
        size = totals[:, len(known) + place]
        ratios = totals[size > 0, place] / size[size > 0]
        if len(ratios):  # else a rare stratum, and few draws
            low, high = np.quantile(ratios, [tail, 1 - tail])
            intervals[column] = (float(low), float(high))
    return list(zip(intervals, notes, strict=True))


def _few(hits: Float, sizes: Float) -> str:
    """Return the number of images that inform a hit rate, in words, where they are few; else ""."""
    images = int((sizes > 0).sum())
    if not images or equal_images(sizes) < FEW_IMAGES:
        return f"{images} image{'s' * (images != 1)}"
    number, what = min((int((hits > 0).sum()), "hit"), (int((hits < sizes).sum()), "miss"))
    return f"{number} image{'s' * (number != 1)} with a {what}" if number < FEW_EVENTS else ""


def equal_images(sizes: Float) -> float:
    """Return how many images of equal size tell as much as images of these sizes (m,) where an image is one vote."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def few_images_interval(hits: Float, sizes: Float, confidence: float = 0.95) -> Interval | None:
    """Compute the interval of a hit rate from few images' hits and counts (m,); None for fewer than two images.

    Student's interval on the scale of the logit. Its variance is the jackknife's over images, at least that of
    independent samples, and where hits or misses lie on fewer than ALIKE_EVENTS images that of images in which all
    samples are alike; its degrees of freedom are those of `equal_images`. Without any hit or any miss it is Wilson's
    interval of that many images. Rounded, so that every machine gives the same.
    """
    from scipy.special import expit, logit

    used = sizes > 0
    hits, sizes = hits[used], sizes[used]
    images, total = len(sizes), float(sizes.sum())
    if images < 2:
        return None
    rate, equal = float(hits.sum()) / total, equal_images(sizes)
    t = student_quantile(1 - (1 - confidence) / 2, max(equal - 1, 1.0))
    events = min(int((hits > 0).sum()), int((hits < sizes).sum()))
    if not events:
        end = 1 / (1 + t * t / equal)
        return (round(end, 6), 1.0) if rate else (0.0, round(1 - end, 6))
    without = (hits.sum() - hits) / (total - sizes)  # the rate without each image
    jackknife = (images - 1) / images * float(((without - rate) ** 2).sum())
    spread = rate * (1 - rate)
    half = t * np.sqrt(max(jackknife, spread / (equal if events < ALIKE_EVENTS else total))) / spread
    low, high = expit(logit(rate) + np.array([-half, half]))
    return (round(float(low), 6), round(float(high), 6))


def student_quantile(part: float, freedom: float) -> float:
    """Return Student's quantile. scipy is imported here, so that `bench --help` and pure reading do not wait for it."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, part))
