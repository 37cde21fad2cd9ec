"""Images that a model was trained on, as a stratum: its accuracy on them and on the others, and the difference.

A list is a text file of image ids, one a line, a JSON list of them, Visual Genome's `image_data.json` (the ids of COCO
in it), or a split, whose images count. Ids go by `image_key`: 581857 and COCO_train2014_000000581857.jpg are one.

No image is in both parts, so they are independent and nothing is paired. The difference is Agresti and Caffo's (2000),
one hit and one miss added to each part; the variance of a part is that clustered by image, at least that of independent
expressions; Student's degrees of freedom are Welch's, of images of equal size.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.comparison.paired import UNKNOWN, standard_error, student_cdf
from bench.datasets.fingerprint import image_key
from bench.datasets.load import load_split
from bench.errors import DataError, short
from bench.evaluation.outcomes import Outcomes
from bench.evaluation.statistics import Interval, equal_images, ratio_intervals, student_quantile
from bench.inputs import load_json, load_text
from bench.reporting.cells import interval, percent, signed
from bench.reporting.comparison_text import p_text
from bench.runs.numbers import Bootstrap
from bench.settings import Resolved

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Part:
    """The expressions on the images of a list, or on the others."""

    images: int
    n: int
    hits: int
    ci95: Interval | None
    ci95_note: str

    @property
    def accuracy(self) -> float:
        return self.hits / self.n if self.n else math.nan


@dataclass(frozen=True, slots=True)
class TrainImages:
    """A run on the images of a list (`inside`) and on the others; difference, inside - outside, None without both."""

    name: str
    listed: int
    inside: Part
    outside: Part
    difference: float | None
    ci95: Interval
    p: float


def train_image_lines(made: TrainImages) -> Iterator[str]:
    """Yield a run's accuracy on the images of a list and on the others, and what the difference says."""
    yield f"{made.name}: {made.listed:,} images are in the list"
    nothing = "no image of the split is in the list; are these ids of its images?", "there are none in the split"
    for part, what, none in zip((made.inside, made.outside), ("on them", "on the others"), nothing, strict=True):
        if part.n:
            score = f"{percent(part.accuracy)} {interval(part.ci95, part.ci95_note)}"
            yield f"  {what}: {score}, {part.n:,} expressions about {part.images:,} images of the split"
        else:
            yield f"  {what}: {none}"
    if made.difference is not None:
        yield (
            f"  difference {signed(100 * made.difference)} points {interval(made.ci95)} ({p_text(made.p)}), of "
            "independent images; the two parts may differ in more than the training"
        )


def image_list(given: str, resolved: Resolved) -> tuple[str, frozenset[str]]:
    """Read FILE, NAME=FILE, SPLIT or NAME=SPLIT -> its name, keys of images. Raises DataError, UnknownName."""
    name, _, source = ("", "", given) if Path(given).exists() else given.rpartition("=")
    path = Path(source).expanduser()
    if path.is_file():
        keys = _keys(path)
    elif path.suffix in (".txt", ".json"):
        raise DataError(f"{path}: there is no such file; give a list of image ids, or the name of a split")
    else:
        keys = frozenset(image_key(scene.file) for scene in load_split(source, resolved).scenes)
    return name or path.stem, keys


def _keys(path: Path) -> frozenset[str]:
    """Read the ids of a text or JSON file."""
    if path.suffix != ".json":
        rows: list[object] = [line.strip() for line in load_text(path).splitlines() if line.strip()]
    else:
        loaded = load_json(path)
        if not isinstance(loaded, list):
            raise DataError(f"{path}: expected a JSON list of image ids, not {type(loaded).__name__}")
        # Visual Genome's own ids are other numbers; an image that is not from COCO has null.
        rows = [row["coco_id"] if isinstance(row, dict) and "coco_id" in row else row for row in loaded]
        rows = [row for row in rows if row is not None]
    keys = set()
    for number, row in enumerate(rows, 1):
        if type(row) not in (int, str) or len(str(row)) > 1000:
            raise DataError(f"{path}: image id {number} is {short(row)}; expected a number or a file's name")
        text = str(row)
        keys.add(str(int(text)) if text.isascii() and text.isdecimal() else image_key(text))
    if not keys:
        raise DataError(f"{path}: there is no image id in it")
    return frozenset(keys)


def on_train_images(results: Outcomes, name: str, keys: Collection[str], bootstrap: Bootstrap) -> TrainImages:
    """Split the outcomes by whether their image is in a list, and test the difference."""
    whole = len(results.scenes)
    counts = np.bincount(results.image, minlength=whole).astype(np.float64)
    hits = np.bincount(results.image, weights=results.hit, minlength=whole)
    listed = np.array([image_key(scene.file) in keys for scene in results.scenes], bool)
    parts, sides = [], [(own := listed[counts > 0]), ~own]
    hits, counts = hits[counts > 0], counts[counts > 0]
    above, below = (np.stack([values * side for side in sides], axis=1) for values in (hits, counts))
    intervals = ratio_intervals(above, below, bootstrap.draws, bootstrap.seed, bootstrap.confidence)
    for side, (bounds, note) in zip(sides, intervals, strict=True):
        parts.append(Part(int(side.sum()), int(counts[side].sum()), int(hits[side].sum()), bounds, note))
    inside, outside = parts
    ci95, p = independent_difference([(hits[side], counts[side]) for side in sides], bootstrap.confidence)
    difference = inside.accuracy - outside.accuracy if inside.n and outside.n else None
    return TrainImages(name, len(keys), inside, outside, difference, ci95, p)


def independent_difference(parts: Sequence[tuple[Float, Float]], confidence: float) -> tuple[Interval, float]:
    """Return interval and p of the first part's hit rate minus the second's, from hits and counts (m,) of images.

    Nothing is known where a part has fewer than two images.
    """
    if min(len(counts) for _, counts in parts) < 2:
        return UNKNOWN, 1.0
    rates, variances, freedoms = [], [], []
    for hits, counts in parts:
        n = float(counts.sum()) + 2
        rate = (float(hits.sum()) + 1) / n
        rates.append(rate)
        variances.append(max(standard_error(hits, counts) ** 2, rate * (1 - rate) / n))
        freedoms.append(max(equal_images(counts) - 1, 1.0))
    difference, variance = rates[0] - rates[1], sum(variances)
    freedom = variance**2 / sum(own**2 / each for own, each in zip(variances, freedoms, strict=True))
    half = student_quantile(1 - (1 - confidence) / 2, freedom) * math.sqrt(variance)
    p = 2 * student_cdf(-abs(difference) / math.sqrt(variance), freedom)
    return (round(max(-1.0, difference - half), 6), round(min(1.0, difference + half), 6)), p
