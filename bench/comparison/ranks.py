"""Rank runs as ranges: those that the paired comparison of their outcomes cannot tell apart share theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.comparison.paired import holm, paired_p
from bench.errors import RunError
from bench.evaluation.statistics import resampled_sums
from bench.runs.outcomes import OUTCOMES, StoredOutcomes, read_outcomes
from bench.runs.packed import packed_name
from bench.runs.record import RunRecord

KEEP = "`bench score RUN --keep` makes it"
RankRange = tuple[int, int]
Values = Callable[[StoredOutcomes], NDArray[Any]]  # -> (N,) of expressions
VALUES: dict[str, Values] = {  # metric -> the values whose mean it is
    "acc@0.5": lambda outcomes: outcomes.hit,
    "acc@0.7": lambda outcomes: outcomes.iou >= 0.7,
    "acc@0.9": lambda outcomes: outcomes.iou >= 0.9,
    "mean_iou": lambda outcomes: outcomes.iou,
}


def rank_ranges(
    hits: ArrayLike, counts: ArrayLike, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> list[RankRange]:
    """Return each run's best and worst rank, from 1, of (images, runs) hits and (images,) expressions.

    The best is 1 + the runs that are significantly better, the worst the number of runs less those significantly worse,
    as `compare` would say of all of them together: from one set of draws, with Holm's correction over the pairs.
    """
    # 1. Images without expressions are no part of the sample.
    present = np.asarray(counts) > 0
    size, table = np.asarray(counts, np.float64)[present], np.asarray(hits, np.float64)[present]
    runs = table.shape[1]
    # 2. The bootstrap; the sign of a difference needs no number of expressions, so hits are all that is drawn.
    sums = resampled_sums(table, draws, seed)
    # 3. Every pair's p.
    pairs = list(combinations(range(runs), 2))
    gains = [table[:, b] - table[:, a] for a, b in pairs]
    ps = [paired_p(sums[:, b] - sums[:, a], gain, size) for (a, b), gain in zip(pairs, gains, strict=True)]
    # 4. Holm's correction, and how many runs are significantly better and worse.
    better, worse = [0] * runs, [0] * runs
    for (a, b), gain, p in zip(pairs, gains, holm(ps), strict=True):
        if p <= 1 - confidence:
            ahead, behind = (b, a) if gain.sum() > 0 else (a, b)
            better[behind] += 1
            worse[ahead] += 1
    return [(1 + better[run], runs - worse[run]) for run in range(runs)]


def ranks(results: Path, runs: Sequence[tuple[RunRecord, str]]) -> list[tuple[RankRange | None, str]]:
    """Rank each run among those of its table; None with the reason where it cannot be ranked.

    `runs` are records with their folders under `results`. A run whose outcomes are missing, not those of its record,
    or about other expressions than most is left out of the ranking: the others are ranked among themselves.
    """
    loaded = [_read(results / run, record) for record, run in runs]
    rows = [outcomes for outcomes in loaded if isinstance(outcomes, StoredOutcomes)]
    if not rows:
        return [(None, str(reason)) for reason in loaded]
    common = max(rows, key=lambda row: sum(_same(row, other) for other in rows))
    ranked = [row for row in rows if _same(row, common)]
    hits = [row.per_image(row.hit) for row in ranked]
    ranges = iter(rank_ranges(np.stack([sums for sums, _ in hits], axis=1), hits[0][1]))
    others = f"{OUTCOMES} is about other expressions than the other runs'; {KEEP} anew"
    return [
        (None, row) if isinstance(row, str) else (next(ranges), "") if _same(row, common) else (None, others)
        for row in loaded
    ]


def compare_with(
    results: Path, baseline: tuple[RunRecord, str], others: Sequence[tuple[RunRecord, str]], metric: str = "acc@0.5"
) -> list[tuple[float, float] | None]:
    """Compare each run with the baseline: its metric minus the baseline's, and the paired p, not corrected.

    None for a run, or for all where it is the baseline, whose outcomes are missing or about other expressions.
    """
    first, *rest = (_read(results / run, record) for record, run in (baseline, *others))
    if isinstance(first, str):
        return [None] * len(rest)
    rows = [row for row in rest if isinstance(row, StoredOutcomes) and _same(row, first)]
    per_image = [row.per_image(VALUES[metric](row)) for row in (first, *rows)]
    table, size = np.stack([sums for sums, _ in per_image], axis=1), per_image[0][1]
    sums = resampled_sums(table, 10_000, 0)
    results_of: dict[int, tuple[float, float]] = {}
    for place, row in enumerate(rows, 1):
        gain = table[:, place] - table[:, 0]
        p = paired_p(sums[:, place] - sums[:, 0], gain, size)
        results_of[id(row)] = (float(gain.sum() / size.sum()), p)
    return [results_of.get(id(row)) for row in rest]


def _read(folder: Path, record: RunRecord) -> StoredOutcomes | str:
    """Return the outcomes of a run, or why they cannot be used."""
    try:
        outcomes = read_outcomes(folder)
    except RunError:
        there = any((folder / name).is_file() for name in (OUTCOMES, packed_name("outcomes")))
        return f"{OUTCOMES} cannot be read; {KEEP} anew" if there else f"no {OUTCOMES}; {KEEP}"
    metrics = record.metrics
    if metrics is None or (len(outcomes.ids), int(outcomes.hit.sum())) != (metrics.n, metrics.hits):
        return f"{OUTCOMES} does not count what run.json says; {KEEP} anew"
    return outcomes


def _same(one: StoredOutcomes, other: StoredOutcomes) -> bool:
    return one is other or (
        one.ids == other.ids and one.scenes == other.scenes and np.array_equal(one.image, other.image)
    )
