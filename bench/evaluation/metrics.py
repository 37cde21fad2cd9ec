"""Metrics of a run from its outcomes: accuracies with intervals, the proposals' ceiling, the strata."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.datasets.split import Split
from bench.evaluation.masks import mask_metrics
from bench.evaluation.outcomes import Outcomes, outcomes, store_outcomes
from bench.evaluation.protocols import Protocol, protocol
from bench.evaluation.several import set_metrics
from bench.evaluation.statistics import ratio_intervals
from bench.evaluation.strata import in_order
from bench.grounding import Scene
from bench.runs.numbers import Bootstrap, Interval, Metrics, Stratum
from bench.runs.predictions import SceneAnswers
from bench.settings import EvaluationSettings

Int = NDArray[np.int64]
Float = NDArray[np.float64]
NotedInterval = tuple[Interval | None, str]


def compute(
    split: Split | Sequence[Scene],
    answers: Iterable[SceneAnswers],
    under: str | Protocol = "iou",
    settings: EvaluationSettings | Bootstrap | None = None,
    folder: Path | None = None,
) -> Metrics:
    """Compute the metrics of stored answers about a split; the same input gives the same bytes.

    `under` is a protocol or its name; `settings` has the bootstrap's draws, seed and confidence; with `folder` the
    outcomes are stored there. Raises UnknownName for the protocol, DataError for an answer that is not about the split.
    """
    scenes = split.scenes if isinstance(split, Split) else split
    rule = protocol(under) if isinstance(under, str) else under
    results = outcomes(scenes, answers, rule)
    if folder is not None:
        store_outcomes(folder, results)
    return summary(results, settings or EvaluationSettings())


def summary(results: Outcomes, settings: EvaluationSettings | Bootstrap) -> Metrics:
    """Sum up outcomes as metrics.

    Accuracies are hits over expressions; without any expression 0.
    """
    n, rule = len(results.iou), results.protocol
    bootstrap = Bootstrap(draws=settings.draws, seed=settings.seed, confidence=settings.confidence)
    members = _members(results)
    columns = [np.arange(n), *(rows for cut in members.values() for rows in cut.values())]
    masks, sets = results.masks, results.sets
    ratios = [] if masks is None else [(masks.expression, above, below) for _, above, below in masks.ratios()]
    ratios += [] if sets is None else [(np.arange(n), above, below) for _, above, below in sets.ratios()]
    intervals = iter(_intervals(results, columns, ratios, bootstrap))
    whole = next(intervals)
    pipelined = results.proposals >= 0
    overlap = np.where(results.answered, results.overlap, -np.inf)

    def part(hits: NDArray[np.bool_]) -> float:
        return int(hits.sum()) / n if n else 0.0

    return Metrics(
        n=n,
        hits=int(results.hit.sum()),
        accuracy=part(results.hit),
        ci95=whole[0],
        ci95_note=whole[1],
        accuracy_70=part(rule.reached(overlap, 0.7)),
        accuracy_90=part(rule.reached(overlap, 0.9)),
        mean_iou=math.fsum(results.iou.tolist()) / n if n else 0.0,  # fsum: the same to the bit on every machine
        oracle=part(rule.reached(results.oracle, 0.5)) if pipelined.any() else None,
        proposals_per_image=int(results.proposals[pipelined].sum()) / int(pipelined.sum()) if pipelined.any() else None,
        no_box=int((~results.answered & ~results.unreadable[results.image]).sum()),
        errors=int(results.unreadable.sum()),
        duplicates=results.duplicates,
        bootstrap=bootstrap,
        strata={
            cut: {label: _stratum(results, rows, next(intervals)) for label, rows in labels.items()}
            for cut, labels in members.items()
        },
        masks=None if masks is None else mask_metrics(masks, intervals),
        several=None if sets is None else set_metrics(sets, rule.threshold, intervals),
    )


def _members(results: Outcomes) -> Mapping[str, Mapping[str, Int]]:
    """Group expressions: cut -> label -> positions, in the order of a table."""
    rows = {
        cut: {name: at for code, name in enumerate(column.names) if len(at := np.flatnonzero(column.codes == code))}
        for cut, column in results.strata.items()
    }
    order = in_order({cut: {label: len(at) for label, at in groups.items()} for cut, groups in rows.items()})
    return {cut: {label: rows[cut][label] for label in names} for cut, names in order.items()}


def _intervals(
    results: Outcomes, columns: Sequence[Int], ratios: Sequence[tuple[Int, Float, Float]], bootstrap: Bootstrap
) -> list[NotedInterval]:
    """Return an interval of the hit rate for each group of expressions, then of each ratio, with its note.

    A ratio is of expressions (M,), with numerators and denominators (M,). The draws are the same for all.
    """
    # 1. Number the images of the sample: those with an expression.
    used = np.bincount(results.image, minlength=len(results.unreadable)) > 0
    image, images = (np.cumsum(used) - 1)[results.image], int(used.sum())
    # 2. Hits and expressions of each group on each image.
    hits = np.empty((images, len(columns) + len(ratios)))
    sizes = np.empty_like(hits)
    for column, rows in enumerate(columns):
        sizes[:, column] = np.bincount(image[rows], minlength=images)
        hits[:, column] = np.bincount(image[rows], weights=results.hit[rows].astype(np.float64), minlength=images)
    for column, (expressions, above, below) in enumerate(ratios, len(columns)):
        of = image[expressions]
        hits[:, column] = np.bincount(of, weights=above, minlength=images)
        sizes[:, column] = np.bincount(of, weights=below, minlength=images)
    # 3. One set of draws serves every group.
    return ratio_intervals(hits, sizes, bootstrap.draws, bootstrap.seed, bootstrap.confidence)


def _stratum(results: Outcomes, rows: Int, noted: NotedInterval) -> Stratum:
    hits = int(results.hit[rows].sum())
    return Stratum(n=len(rows), hits=hits, accuracy=hits / len(rows), ci95=noted[0], ci95_note=noted[1])
