"""What several runs made of the same expressions, summed over each image and resampled.

Everything that is drawn is a whole number (IoUs in millionths, as they are stored), so the sums are exact and the same
on every machine. Shapes: N expressions, m images that have any, R runs, S strata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.comparison.compared_runs import ComparedRun
from bench.evaluation.statistics import resampled_sums
from bench.evaluation.strata import in_order

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

MILLION = 1_000_000


class Sample:
    """The runs' outcomes of the same expressions, and their sums per image.

    `image` (N,) counts only images with an expression; `hit` and `iou` (in millionths) are (N, R). A stratum is
    (cut, label, positions of its expressions).
    """

    def __init__(self, runs: Sequence[ComparedRun]) -> None:
        first = runs[0].outcomes
        present, image = np.unique(first.image, return_inverse=True)
        self.image: Int = image.astype(np.int64)
        self.images = len(present)
        self.hit: Bool = np.stack([run.outcomes.hit for run in runs], axis=1)
        self.iou: Int = np.stack([np.rint(run.outcomes.iou * MILLION).astype(np.int64) for run in runs], axis=1)
        counts = {cut: Counter(label for label in labels if label is not None) for cut, labels in first.strata.items()}
        self.strata: list[tuple[str, str, Int]] = []
        for cut, labels in in_order(counts).items():
            own = np.array(first.strata[cut], object)
            for label in labels:
                rows = np.flatnonzero(own == label)
                self.strata.append((cut, label, rows))

    def per_image(self, values: NDArray[np.generic], rows: Int | slice = slice(None)) -> Float:
        """Sum (n,) or (n, K) values of expressions, all or those at `rows`, over each image -> (m,) or (m, K)."""
        image = self.image[rows]
        table = np.asarray(values, np.float64).reshape(len(image), -1)
        columns = [np.bincount(image, weights=column, minlength=self.images) for column in table.T]
        sums: Float = np.stack(columns, axis=1).astype(np.float64).reshape(self.images, *values.shape[1:])
        return sums

    def within(self, gain: Int, rows: Int) -> tuple[Float, Float]:
        """Return the gains and the numbers of the expressions at `rows` on each image that has any."""
        counts = self.per_image(np.ones(len(rows)), rows)
        return self.per_image(gain[rows], rows)[counts > 0], counts[counts > 0]

    def resampled(self, draws: int, seed: int) -> Float:
        """Draw images with replacement -> totals (draws, 1 + 2 R + S (1 + R)).

        They are expressions, each run's hits, each run's IoU, and of each stratum expressions and hits.
        """
        tables = [self.per_image(np.hstack([np.ones((len(self.image), 1)), self.hit, self.iou]))]
        for _, _, rows in self.strata:
            tables.append(self.per_image(np.hstack([np.ones((len(rows), 1)), self.hit[rows]]), rows))
        return resampled_sums(np.hstack(tables), draws, seed) if self.images else np.zeros((draws, 0))

    def hit_differences(self, totals: Float, a: int, b: int, stratum: int | None = None) -> Float:
        """Return (draws,) differences of accuracy, run a - run b; in a stratum, of the draws that have any of it."""
        runs = self.hit.shape[1]
        start = 0 if stratum is None else 1 + 2 * runs + stratum * (1 + runs)
        return _ratios(totals[:, start + 1 + a] - totals[:, start + 1 + b], totals[:, start])

    def iou_differences(self, totals: Float, a: int, b: int) -> Float:
        """Return (draws,) differences of the mean IoU, run a - run b."""
        start = 1 + self.hit.shape[1]
        return _ratios(totals[:, start + a] - totals[:, start + b], MILLION * totals[:, 0])


def _ratios(above: Float, below: Float) -> Float:
    some = below > 0
    ratios: Float = above[some] / below[some]
    return ratios
