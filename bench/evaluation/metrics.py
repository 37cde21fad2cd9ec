"""The numbers of a run, made of its outcomes: accuracies with intervals, the proposals' ceiling, the strata."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.datasets.split import Split
from bench.evaluation.outcomes import Outcomes, outcomes
from bench.evaluation.protocols import Protocol, protocol
from bench.evaluation.statistics import ratio_intervals
from bench.evaluation.strata import in_order, strata
from bench.grounding import Scene
from bench.runs.predictions import SceneAnswers
from bench.runs.record import Bootstrap, Interval, Metrics, Stratum
from bench.settings import EvaluationSettings

Int = NDArray[np.int64]


def compute(
    split: Split | Sequence[Scene],
    answers: Iterable[SceneAnswers],
    under: str | Protocol = "iou",
    settings: EvaluationSettings | Bootstrap | None = None,
) -> Metrics:
    """The metrics of stored answers about a split, under a protocol; the same input gives the same bytes.

    `settings` names the bootstrap's draws, seed and confidence. Raises UnknownName for the protocol, DataError for an
    answer that is not about the split.
    """
    scenes = split.scenes if isinstance(split, Split) else split
    rule = protocol(under) if isinstance(under, str) else under
    return summary(outcomes(scenes, answers, rule), scenes, rule, settings or EvaluationSettings())


def summary(
    found: Outcomes, scenes: Sequence[Scene], rule: Protocol, settings: EvaluationSettings | Bootstrap
) -> Metrics:
    """Outcomes to metrics. Accuracies are hits over expressions; without any expression 0, with the interval (0, 1)."""
    n = len(found.expressions)
    bootstrap = Bootstrap(draws=settings.draws, seed=settings.seed, confidence=settings.confidence)
    members = _members(found, scenes)
    columns = [np.arange(n), *(rows for cut in members.values() for rows in cut.values())]
    intervals = iter(_intervals(found, columns, bootstrap))
    pipelined = found.proposals >= 0
    overlap = np.where(found.answered, found.overlap, -np.inf)

    def part(count: int | np.integer) -> float:
        return int(count) / n if n else 0.0

    return Metrics(
        n=n,
        hits=int(found.hit.sum()),
        accuracy=part(found.hit.sum()),
        ci95=next(intervals),
        accuracy_70=part(rule.reached(overlap, 0.7).sum()),
        accuracy_90=part(rule.reached(overlap, 0.9).sum()),
        mean_iou=math.fsum(found.iou.tolist()) / n if n else 0.0,  # fsum: the same to the bit on every machine
        oracle=part(rule.reached(found.oracle, 0.5).sum()) if pipelined.any() else None,
        proposals_per_image=int(found.proposals[pipelined].sum()) / int(pipelined.sum()) if pipelined.any() else None,
        no_box=int((~found.answered & ~found.unreadable[found.image]).sum()),
        errors=int(found.unreadable.sum()),
        duplicates=found.duplicates,
        bootstrap=bootstrap,
        strata={
            cut: {label: _stratum(found, rows, next(intervals)) for label, rows in labels.items()}
            for cut, labels in members.items()
        },
    )


def _members(found: Outcomes, scenes: Sequence[Scene]) -> Mapping[str, Mapping[str, Int]]:
    """cut -> label -> positions of the expressions that have it, in the order of a table."""
    rows: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, (expression, image) in enumerate(zip(found.expressions, found.image.tolist(), strict=True)):
        for cut, label in strata(expression, scenes[image]).items():
            rows[cut][label].append(number)
    order = in_order({cut: Counter({label: len(at) for label, at in labels.items()}) for cut, labels in rows.items()})
    return {cut: {label: np.array(rows[cut][label], np.int64) for label in labels} for cut, labels in order.items()}


def _intervals(found: Outcomes, columns: Sequence[Int], bootstrap: Bootstrap) -> list[Interval]:
    """One interval of the hit rate for each group of expressions, all from one set of draws over the images."""
    asked = np.bincount(found.image, minlength=len(found.unreadable)) > 0  # other images are not part of the sample
    image, images = (np.cumsum(asked) - 1)[found.image], int(asked.sum())
    hits = np.empty((images, len(columns)))
    sizes = np.empty_like(hits)
    for column, rows in enumerate(columns):
        sizes[:, column] = np.bincount(image[rows], minlength=images)
        hits[:, column] = np.bincount(image[rows], weights=found.hit[rows].astype(np.float64), minlength=images)
    return ratio_intervals(hits, sizes, bootstrap.draws, bootstrap.seed, bootstrap.confidence)


def _stratum(found: Outcomes, rows: Int, interval: Interval) -> Stratum:
    hits = int(found.hit[rows].sum())
    return Stratum(n=len(rows), hits=hits, accuracy=hits / len(rows), ci95=interval)
