"""The sample a comparison is about, as sums per image, and those sums over draws of images.

Shapes: N expressions, m images that have any, R runs, S strata. Everything that is drawn is a whole number (IoUs in
millionths, as they are stored), so the sums are exact and the same on every machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.comparison.contestants import Contestant
from bench.evaluation.statistics import resampled_sums
from bench.evaluation.strata import in_order
from bench.runs.outcomes import StoredOutcomes

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

MILLION = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Stratum:
    """Expressions that share a label of a cut: their positions (n,), and how many images they are about."""

    cut: str
    label: str
    rows: Int
    images: int


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What the runs made of the same expressions. `image` (N,) counts only images with an expression."""

    image: Int
    images: int
    hit: Bool  # (N, R)
    iou: Int  # (N, R), millionths
    strata: tuple[Stratum, ...]

    @classmethod
    def of(cls, runs: Sequence[Contestant]) -> Sample:
        """The runs' outcomes, which are of the same expressions (bench/comparison/contestants.py)."""
        first = runs[0].outcomes
        asked, image = np.unique(first.image, return_inverse=True)
        return cls(
            image=image.astype(np.int64),
            images=len(asked),
            hit=np.stack([run.outcomes.hit for run in runs], axis=1),
            iou=np.stack([np.rint(run.outcomes.iou * MILLION).astype(np.int64) for run in runs], axis=1),
            strata=tuple(_strata(first, image)),
        )

    def per_image(self, values: NDArray[np.generic], rows: Int | slice = slice(None)) -> Float:
        """(n,) or (n, K) values of expressions, all or those at `rows` -> (m,) or (m, K) their sums per image."""
        image = self.image[rows]
        table = np.asarray(values, np.float64).reshape(len(image), -1)
        columns = [np.bincount(image, weights=column, minlength=self.images) for column in table.T]
        sums: Float = np.stack(columns, axis=1).astype(np.float64).reshape(self.images, *values.shape[1:])
        return sums

    def drawn(self, draws: int, seed: int) -> Drawn:
        """The sums over draws of images, all from one set of draws."""
        blocks = [np.ones((len(self.image), 1)), self.hit, self.iou]
        tables = [self.per_image(np.hstack(blocks))]
        for stratum in self.strata:
            inside = np.hstack([np.ones((len(stratum.rows), 1)), self.hit[stratum.rows]])
            tables.append(self.per_image(inside, stratum.rows))
        totals = resampled_sums(np.hstack(tables), draws, seed) if self.images else np.zeros((draws, 0))
        return Drawn(totals, self.hit.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Totals (draws, 1 + 2 R + S (1 + R)): expressions, each run's hits and IoU, and of each stratum the same."""

    totals: Float
    runs: int

    def difference(self, a: int, b: int, stratum: int | None = None) -> Float:
        """(draws,) differences of accuracy, run b - run a; in a stratum, of the draws that hold any of it."""
        start = 0 if stratum is None else 1 + 2 * self.runs + stratum * (1 + self.runs)
        return _ratios(self.totals[:, start + 1 + b] - self.totals[:, start + 1 + a], self.totals[:, start])

    def iou_difference(self, a: int, b: int) -> Float:
        """(draws,) differences of the mean IoU, run b - run a."""
        start = 1 + self.runs
        return _ratios(self.totals[:, start + b] - self.totals[:, start + a], MILLION * self.totals[:, 0])


def _ratios(above: Float, below: Float) -> Float:
    some = below > 0
    ratios: Float = above[some] / below[some]
    return ratios


def _strata(outcomes: StoredOutcomes, image: NDArray[np.integer]) -> list[Stratum]:
    """Every label of every cut with its expressions, in the order of a table."""
    counts = {cut: Counter(label for label in labels if label is not None) for cut, labels in outcomes.strata.items()}
    found = []
    for cut, labels in in_order(counts).items():
        own = np.array(outcomes.strata[cut], object)
        for label in labels:
            rows = np.flatnonzero(own == label)
            found.append(Stratum(cut, label, rows, len(np.unique(image[rows]))))
    return found
