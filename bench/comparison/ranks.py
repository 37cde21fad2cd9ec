"""Rank runs as ranges: those that the paired comparison of their outcomes cannot tell apart share theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.comparison.paired import every_pair_p, holm, paired_p
from bench.errors import RunError
from bench.evaluation.statistics import resampled_sums
from bench.runs.outcomes import OUTCOMES, StoredOutcomes, read_outcomes
from bench.runs.packed import packed_name
from bench.runs.record import RunRecord

KEEP = "`bench score RUN --keep` makes it"
OTHER_COUNTS = f"damaged: {OUTCOMES} does not count what run.json says"
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
    ps = every_pair_p(sums, table, size)
    # 3. Holm's correction, and how many runs are significantly better and worse.
    total, better, worse = table.sum(axis=0), [0] * runs, [0] * runs
    for (a, b), p in zip(combinations(range(runs), 2), holm(ps), strict=True):
        if p <= 1 - confidence:
            ahead, behind = (b, a) if total[b] > total[a] else (a, b)
            better[behind] += 1
            worse[ahead] += 1
    return [(1 + better[run], runs - worse[run]) for run in range(runs)]


def ranks(results: Path, runs: Sequence[tuple[RunRecord, str]]) -> list[tuple[RankRange | None, str]]:
    """Rank each run among those of its table; None with the reason where it cannot be ranked.

    `runs` are records with their folders under `results`. A run whose outcomes are missing, not those of its record,
    or about other expressions than most is left out of the ranking: the others are ranked among themselves.
    """
    # 1. Of each run only its hits on each image are kept, and which of the sets of expressions it is about.
    alike: dict[bytes, StoredOutcomes] = {}
    about: dict[tuple[object, ...], int] = {}
    loaded: list[tuple[int, NDArray[np.float64], NDArray[np.float64]] | str] = []
    for record, run in runs:
        row = _read(results / run, record, alike)
        if not isinstance(row, str):
            number = about.setdefault((row.ids, row.scenes, row.image.tobytes()), len(about))
            loaded.append((number, *row.per_image(row.hit)))
        else:
            loaded.append(row)
    # 2. Those about the commonest set are ranked.
    numbers = Counter(row[0] for row in loaded if not isinstance(row, str))
    if not numbers:
        return [(None, str(reason)) for reason in loaded]
    ((common, _),) = numbers.most_common(1)
    ranked = [row for row in loaded if not isinstance(row, str) and row[0] == common]
    ranges = iter(rank_ranges(np.stack([hits for _, hits, _ in ranked], axis=1), ranked[0][2]))
    others = f"{OUTCOMES} is about other expressions than the other runs'; {KEEP} anew"
    return [
        (None, row) if isinstance(row, str) else (next(ranges), "") if row[0] == common else (None, others)
        for row in loaded
    ]


def compare_with(
    results: Path, baseline: tuple[RunRecord, str], others: Sequence[tuple[RunRecord, str]], metric: str = "acc@0.5"
) -> list[tuple[float, float] | None]:
    """Compare each run with the baseline: its metric minus the baseline's, and the paired p, not corrected.

    None for a run, or for all where it is the baseline, whose outcomes are missing or about other expressions.
    """
    alike: dict[bytes, StoredOutcomes] = {}
    first, *rest = (_read(results / run, record, alike) for record, run in (baseline, *others))
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


def _read(folder: Path, record: RunRecord, alike: dict[bytes, StoredOutcomes]) -> StoredOutcomes | str:
    """Return the outcomes of a run, or why they cannot be used."""
    try:
        outcomes = read_outcomes(folder, alike)
    except RunError:
        there = any((folder / name).is_file() for name in (OUTCOMES, packed_name("outcomes")))
        return f"{OUTCOMES} cannot be read; {KEEP} anew" if there else f"no {OUTCOMES}; {KEEP}"
    metrics = record.metrics
    if metrics is None or (len(outcomes.ids), int(outcomes.hit.sum())) != (metrics.n, metrics.hits):
        return OTHER_COUNTS
    return outcomes


def _same(one: StoredOutcomes, other: StoredOutcomes) -> bool:
    return one is other or (
        one.ids == other.ids and one.scenes == other.scenes and np.array_equal(one.image, other.image)
    )
