"""Check that the intervals of accuracies keep their promise with few images, on made-up data whose truth is known.

    python -m tools.benchmarks.interval_simulation [--sets 1000] [--draws 1000]

An image's expressions are hit with a probability of its own, from a beta distribution; `alike` is the correlation of
two expressions of one image. Images have one expression each, 1 + Poisson, or a geometric number of up to 60
("crowded"). Target: a 95 % interval covers the true accuracy in 90 % of the data sets or more, in every world. A set
whose interval is left out counts neither way. `plain` is the percentile bootstrap for all. Leaves with 1 when the
target is missed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bench.evaluation.statistics import FEW_IMAGES, ratio_intervals, resampled_sums

Float = NDArray[np.float64]

IMAGES = (2, 3, 5, 10, 20, 30, 100)
LEAST = 0.9
SIZES = ((1, False), (3, False), (7, False), (7, True), (20, True))  # expressions an image on average, crowded


@dataclass(frozen=True, slots=True)
class World:
    images: int
    accuracy: float
    alike: float
    expressions: int
    crowded: bool

    def sets(self, number: int, chance: np.random.Generator) -> tuple[Float, Float]:
        """Draw data sets -> hits (images, number) and expressions (images, number)."""
        shape = (self.images, number)
        if self.crowded:
            sizes = np.minimum(chance.geometric(1 / self.expressions, shape), 60)
        else:
            sizes = 1 + chance.poisson(self.expressions - 1, shape)
        rate = np.full(shape, self.accuracy)
        if self.alike:
            spread = (1 - self.alike) / self.alike
            rate = chance.beta(self.accuracy * spread, (1 - self.accuracy) * spread, shape)
        return chance.binomial(sizes, rate).astype(float), sizes.astype(float)


def worlds(images: int) -> list[World]:
    """List the worlds of one number of images; single expressions cannot be alike."""
    every = product((0.5, 0.7, 0.9, 0.97), (0.0, 0.1, 0.3, 0.6), SIZES)
    return [World(images, rate, alike, *size) for rate, alike, size in every if not (alike and size[0] == 1)]


def coverage(world: World, sets: int, draws: int, seed: int = 0) -> tuple[float, float, float, float]:
    """Return the parts of the sets that the printed and the plain interval cover, that have none; the mean width."""
    hits, sizes = world.sets(sets, np.random.default_rng(seed))
    printed = [bounds for bounds, _ in ratio_intervals(hits, sizes, draws, seed) if bounds]
    covered = [low - 1e-9 <= world.accuracy <= high + 1e-9 for low, high in printed]
    totals = resampled_sums(np.hstack([hits, sizes]), draws, seed)
    low, high = np.quantile(totals[:, :sets] / totals[:, sets:], [0.025, 0.975], axis=0)
    plain = (low - 1e-9 <= world.accuracy) & (world.accuracy <= high + 1e-9)
    width = float(np.mean([high - low for low, high in printed]))
    return float(np.mean(covered)), float(plain.mean()), 1 - len(printed) / sets, width


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    print("images  printed: mean  worst   width | plain: mean  worst   the worst world of the printed")
    failed = False
    for images in IMAGES:
        every = worlds(images)
        found = np.array([coverage(world, options.sets, options.draws) for world in every])
        covered, plain, _, width = found.T
        worst = every[int(covered.argmin())]
        # Beyond few images the plain interval is what is printed, except where hits or misses are on few of them.
        failed |= bool(covered.min() < LEAST and images < FEW_IMAGES)
        print(
            f"{images:6} {100 * covered.mean():12.1f} % {100 * covered.min():5.1f} % {100 * width.mean():6.1f} |"
            f"{100 * plain.mean():10.1f} % {100 * plain.min():5.1f} %   accuracy {worst.accuracy:g}, alike "
            f"{worst.alike:g}, {worst.expressions} an image{' crowded' * worst.crowded}",
            flush=True,
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
