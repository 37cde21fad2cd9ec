"""Check that intervals and p-values of `bench compare` keep their promise, on made-up data whose truth is known.

    python -m tools.benchmarks.compare_simulation [--sets 2000] [--draws 2000]

Each data set has images with expressions, and two pipelines. An expression is hit when image effect (shared by
both), expression effect (shared), the pipeline's own effect on the image and its own on the expression add up to more
than 0: clustered, correlated, and with a true difference that has a closed form. Targets at 95 %: intervals cover the
truth in 93 to 97 % of the sets, and where the truth is 0 the paired test finds a difference in 3.5 to 6.5 %; with 20
images or fewer, where a set may have few images with a flip, in 90 % or more and in 6.5 % or less. Leaves with 1 when
one is missed. `bootstrap` beside them is the interval of many images for all, `plain` the plain percentile interval,
`McNemar` the false alarms of the exact test that takes expressions for independent.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.comparison.paired import difference_interval, mcnemar, paired_interval, paired_p
from bench.evaluation.statistics import resampled_sums

Float = NDArray[np.float64]

COVERS, ALARMS = (0.93, 0.97), (0.035, 0.065)
FEW, FEW_COVERS = 20, 0.9  # images; the least coverage
EASE = 0.5  # both pipelines' accuracy without a difference: normal_cdf(0.5 / standard deviation)
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated. `own` is the standard deviation of what only one pipeline sees; less of it, fewer flips.

    `crowded` draws an image's number of expressions from a geometric distribution (up to 60) and not 1 + Poisson(6.2).
    """

    images: int
    gain: float = 0.0
    own: float = 0.8
    crowded: bool = False

    @property
    def truth(self) -> float:
        """The true difference of accuracy. Expressions of an image are alike, so it is the same for every image."""
        spread = math.sqrt(2 + self.own**2)
        return NormalDist().cdf((EASE + self.gain) / spread) - NormalDist().cdf(EASE / spread)

    def sets(self, number: int, chance: np.random.Generator) -> Iterator[tuple[Float, Float, Float]]:
        """Per image (m,): expressions, those that only A hits, those that only B hits."""
        for _ in range(number):
            m = self.images
            sizes = np.minimum(chance.geometric(0.15, m), 60) if self.crowded else 1 + chance.poisson(6.2, m)
            of = np.repeat(np.arange(m), sizes)
            shared = chance.normal(size=m)[of] + chance.normal(size=len(of)) + EASE
            part = self.own * math.sqrt(0.5)
            a, b = (
                shared + chance.normal(0, part, m)[of] + chance.normal(0, part, len(of)) + gain > 0
                for gain in (0.0, self.gain)
            )
            yield sizes.astype(float), np.bincount(of, a & ~b, m), np.bincount(of, b & ~a, m)


WORLDS = (
    *(
        World(m, gain, own, crowded)
        for m in (3, 5, 10)
        for gain, own in ((0.0, 0.8), (0.5, 0.8), (1.5, 0.8), (0.0, 0.25), (0.3, 0.25), (0.2, 0.1))
        for crowded in (False, True)
    ),
    *(World(20, gain, own, True) for gain, own in ((0.5, 0.8), (0.3, 0.25), (0.2, 0.1))),
    *(World(m, gain, own) for m in (20, 50, 150, 600, 1500) for gain, own in ((0.0, 0.8), (0.25, 0.8), (0.0, 0.25))),
    World(50, crowded=True),
    World(150, gain=0.25, crowded=True),
    World(600, crowded=True),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """Parts of the sets: intervals that cover the truth, tests that find a difference, and for comparison others."""

    covers: float
    finds: float
    agrees: float
    bootstrap_covers: float
    plain_covers: float
    mcnemar_finds: float
    flips: float


def simulate(world: World, sets: int, draws: int, seed: int = 0) -> Kept:
    """All the sets share one set of draws, as two calls of `bench compare` with one seed would."""
    made = list(world.sets(sets, np.random.default_rng(seed)))
    sizes, a_only, b_only = (np.stack(each, axis=1) for each in zip(*made, strict=True))
    totals = resampled_sums(np.hstack([sizes, b_only - a_only]), draws, seed)
    drawn = totals[:, sets:] / totals[:, :sets]
    kept = np.zeros(6)
    tail = ALPHA / 2
    for number in range(sets):
        column = np.ascontiguousarray(drawn[:, number])
        gains, counts = (b_only - a_only)[:, number], sizes[:, number]
        low, high = paired_interval(column, gains, counts, 1 - ALPHA)
        many = difference_interval(column, world.images, 1 - ALPHA)
        differs = paired_p(column, gains, counts) <= ALPHA
        plain = np.quantile(column, [tail, 1 - tail])
        flips = mcnemar(int(a_only[:, number].sum()), int(b_only[:, number].sum()))
        kept += (
            low <= world.truth <= high,
            differs,
            differs == (low > 0 or high < 0),
            many[0] <= world.truth <= many[1],
            plain[0] <= world.truth <= plain[1],
            flips <= ALPHA,
        )
    return Kept(*(kept / sets), flips=float((a_only + b_only).sum() / sets))


def missed(world: World, kept: Kept) -> bool:
    """Whether a target is missed, or an interval and its p disagree."""
    if world.images <= FEW:
        return kept.covers < FEW_COVERS or (world.gain == 0 and kept.finds > ALARMS[1])
    covered = COVERS[0] <= kept.covers <= COVERS[1]
    quiet = world.gain != 0 or ALARMS[0] <= kept.finds <= ALARMS[1]
    return not (covered and quiet and kept.agrees == 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    print("images   flips  own   truth    covers   finds     | bootstrap  plain covers  McNemar finds")
    failed = False
    for world in WORLDS:
        began = time.perf_counter()
        kept = simulate(world, options.sets, options.draws)
        bad = missed(world, kept)
        failed |= bad
        what = "false alarms" if world.gain == 0 else "power"
        row = (
            f"{world.images:8,}{'*' if world.crowded else ' '}{kept.flips:7.0f}  {world.own:4.2f}  {world.truth:.4f}",
            f"{100 * kept.covers:5.1f} %  {100 * kept.finds:5.1f} % {what:12} |",
            "  ".join(f"{100 * x:5.1f} %" for x in (kept.bootstrap_covers, kept.plain_covers, kept.mcnemar_finds)),
            f"{'MISSED' if bad else 'met'} ({time.perf_counter() - began:.0f} s)",
        )
        print("  ".join(row), flush=True)
    print("* crowded images: up to 60 expressions")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
