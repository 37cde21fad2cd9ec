"""Ranks of the runs of a table: ranges, from what became of every expression (outcomes.jsonl) and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.comparison.ranks import RankRange, rank_ranges
from bench.errors import RunError
from bench.runs.outcomes import OUTCOMES, StoredOutcomes, read_outcomes
from bench.runs.record import RunRecord

KEEP = "`bench score RUN --keep` makes it"


@dataclass(frozen=True, slots=True)
class Rank:
    """The best and the worst rank that a run may have, from 1; None with the reason where it cannot be ranked."""

    range: RankRange | None
    reason: str = ""


def ranks(results: Path, runs: Sequence[tuple[RunRecord, str]]) -> list[Rank]:
    """The rank of each run among those of its table; `runs` are records with their folders under `results`.

    A run whose outcomes are missing, not those of its record, or about other expressions than most is left out of the
    ranking: the others are ranked among themselves.
    """
    read = [_read(results / run, record) for record, run in runs]
    rows = [outcomes for outcomes in read if isinstance(outcomes, StoredOutcomes)]
    if not rows:
        return [Rank(None, str(reason)) for reason in read]
    common = max(rows, key=lambda row: sum(_same(row, other) for other in rows))
    ranked = [row for row in rows if _same(row, common)]
    pictures = len(common.scenes)
    counts = np.bincount(common.picture, minlength=pictures)
    hits = [np.bincount(row.picture, weights=row.hit.astype(np.float64), minlength=pictures) for row in ranked]
    ranges = iter(rank_ranges(np.stack(hits, axis=1), counts))
    out = []
    for row in read:
        if not isinstance(row, StoredOutcomes):
            out.append(Rank(None, row))
        elif not _same(row, common):
            out.append(Rank(None, f"{OUTCOMES} is about other expressions than the other runs'; {KEEP} anew"))
        else:
            out.append(Rank(next(ranges)))
    return out


def _read(folder: Path, record: RunRecord) -> StoredOutcomes | str:
    """The outcomes of a run, or why they cannot be used."""
    try:
        found = read_outcomes(folder)
    except RunError:
        there = (folder / OUTCOMES).is_file()
        return f"{OUTCOMES} cannot be read; {KEEP} anew" if there else f"no {OUTCOMES}; {KEEP}"
    said = record.metrics
    if said is None or (len(found.ids), int(found.hit.sum())) != (said.n, said.hits):
        return f"{OUTCOMES} does not count what run.json says; {KEEP} anew"
    return found


def _same(one: StoredOutcomes, other: StoredOutcomes) -> bool:
    return one is other or (
        one.ids == other.ids and one.scenes == other.scenes and np.array_equal(one.picture, other.picture)
    )
