"""Compute which difference of two pipelines a split shows, and how many expressions show a given one.

The variance of a paired difference D of n expressions is effect * (discordant - D**2) / n: `discordant` is the share of
expressions that exactly one of the two hits, `effect` how much larger the variance is than of independent expressions,
for those of an image are alike. A true difference is significant with probability `power` where it is as large as
normal quantiles of 1 - (1 - confidence) / 2 and of `power` together, times the standard error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.comparison.compared_runs import read_runs
from bench.comparison.paired import NORMAL, POWER, standard_error
from bench.datasets.load import FILE, find_split, load_split
from bench.datasets.split import Counts
from bench.errors import DataError, UsageError
from bench.settings import Resolved

# Qwen2.5-VL and InternVL2.5 on RefCOCO testA: 11.3 % and 1.21; two LBYL-Nets on RefCOCO val: 12.1 % and 1.46.
DISCORDANT, EFFECT = 0.12, 1.4
MEASURED = (
    "as on two LBYL-Nets on RefCOCO val: 12.1 %, 1.46, and Qwen2.5-VL and InternVL2.5 on RefCOCO testA: 11.3 %, 1.21"
)


def power_of(
    split: str,
    expressions: int,
    images: int | None,
    difference: float | None = None,
    discordant: float = DISCORDANT,
    effect: float = EFFECT,
    assumed: str = "",
    power: float = POWER,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Compute what a split of this size shows; differences are fractions.

    The keys are the arguments, `detectable` on the split, and of `difference` `expressions_needed` and `images_needed`
    (None without it). Raises UsageError for a difference above the discordant share.
    """
    for name, value in (("--discordant", discordant), ("--power", power), ("--confidence", confidence)):
        if not 0 < value < 1:
            raise UsageError(f"{name} {value:g}: expected a fraction between 0 and 1")
    if effect <= 0:
        raise UsageError(f"--design-effect {effect:g}: expected a number above 0")
    if difference is not None and not 0 < difference <= discordant:
        raise UsageError(
            f"--difference {100 * difference:g}: expected points above 0 and up to {100 * discordant:g}, the share of "
            "expressions that exactly one of the two hits (--discordant)"
        )
    # difference = both * sqrt(effect * (discordant - difference**2) / n), solved for the difference and for n.
    both = NORMAL.inv_cdf(1 - (1 - confidence) / 2) + NORMAL.inv_cdf(power)
    rate = both**2 * effect / expressions
    needed = images_needed = None
    if difference is not None:
        needed = math.ceil(both**2 * effect * (discordant - difference**2) / difference**2)
        images_needed = math.ceil(needed * images / expressions) if images else None
    return {
        "split": split,
        "expressions": expressions,
        "images": images,
        "discordant": discordant,
        "effect": effect,
        "assumed": assumed,
        "power": power,
        "confidence": confidence,
        "detectable": math.sqrt(rate * discordant / (1 + rate)),
        "difference": difference,
        "expressions_needed": needed,
        "images_needed": images_needed,
    }


def published_counts(name: str, resolved: Resolved) -> tuple[str, int, int | None]:
    """Return name, expressions and images of a split, published or, where they are not, counted in the prepared one.

    Raises UnknownName, and DataError where neither is known.
    """
    if not name.startswith(FILE):
        dataset, part = find_split(name)
        if part.expressions and (part.images or not dataset.ready(part.name, resolved)):
            return f"{dataset.name}-{part.name}", part.expressions, part.images
    split = load_split(name, resolved)
    counts: Counts = split.counts
    if not counts.expressions:
        raise DataError(f"{name}: has no expressions")
    return split.name, counts.expressions, counts.images


def measured(folders: Sequence[Path]) -> tuple[str, int, int, float, float]:
    """Measure two runs: split, expressions, images, their share of discordant expressions, their design effect.

    Raises RunError where they cannot be compared, UsageError where the effect cannot be computed.
    """
    a, b = read_runs(folders)
    gain = a.outcomes.hit.astype(np.float64) - b.outcomes.hit
    gains, counts = a.outcomes.per_image(gain)
    n, error = len(gain), standard_error(gains, counts)
    discordant = float((gain != 0).mean()) if n else 0.0
    independent = (discordant - float(gain.mean()) ** 2) / n if n else 0.0
    if not error > 0 or not independent > 0:
        raise UsageError(f"{folders[0]} and {folders[1]} do not differ enough to measure how images vary; give --split")
    return a.record.identity.data.split, n, len(counts), discordant, error**2 / independent


def sentences(split: Mapping[str, Any]) -> list[str]:
    """Word what a split shows, and what was assumed."""
    images = f" about {split['images']:,} images" if split["images"] else ""
    level = f"{100 * (1 - split['confidence']):.3g} %"
    lines = [
        f"{split['split']}: {split['expressions']:,} expressions{images}",
        f"It shows a true difference of {100 * split['detectable']:.2f} points with a probability of "
        f"{100 * split['power']:g} % (paired test at {level}).",
    ]
    if needed := split["expressions_needed"]:
        images = f" about {split['images_needed']:,} such images" if split["images_needed"] else ""
        times = needed / split["expressions"]
        enough = "the split is large enough" if times <= 1 else f"{times:.1f} times the split"
        lines.append(f"{100 * split['difference']:g} points need {needed:,} expressions{images}: {enough}.")
    source = f" ({split['assumed']})" if split["assumed"] else ""
    lines.append(
        f"Assumed: exactly one of the two hits {100 * split['discordant']:.1f} % of the expressions, and the variance "
        f"is {split['effect']:.2f} times that of independent expressions, for those of an image are alike{source}."
    )
    return lines
