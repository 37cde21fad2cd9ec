"""How a run's numbers differ from those that its predictions give here; float noise of another machine is none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import Outcomes, outcomes
from bench.evaluation.protocols import protocol
from bench.evaluation.strata import LATER
from bench.grounding import Scene
from bench.runs.answers import Answers
from bench.runs.integrity import complete_answers
from bench.runs.numbers import OLD, Metrics
from bench.runs.outcomes import NO_MASK, StoredOutcomes, read_outcomes
from bench.runs.packed import OUTCOMES, TIMES, packed_name, stored_bytes
from bench.runs.record import RECORD, RunRecord
from bench.runs.store import parse_times, throughput

NAMED = 5  # numbers that differ
ROUNDED = 1e-6  # IoUs of outcomes are stored with 6 decimals


def other_numbers(
    folder: Path, record: RunRecord, scenes: Sequence[Scene], alike: dict[bytes, StoredOutcomes]
) -> Iterator[str]:
    """List how metrics, outcomes and throughput differ from what the predictions and batches give.

    `alike` is that of `read_outcomes`, for runs about the same expressions.
    """
    rescored, _, differences = score_here(record, complete_answers(folder, record, scenes), scenes)
    yield from differences
    if any((folder / name).is_file() for name in (packed_name(OUTCOMES), f"{OUTCOMES}.jsonl")):
        stored = read_outcomes(folder, alike)
        if stored.ids != tuple(rescored.annotations.position):
            yield f"{OUTCOMES} are about other expressions than the split"
        elif wrong := _other_outcomes(stored, rescored):
            yield f"{OUTCOMES}: {wrong:,} are not those that the predictions give"
    if record.throughput is not None:
        try:
            times = parse_times(stored_bytes(folder, TIMES))
        except FileNotFoundError:  # of a run that was handed in
            return
        again = throughput(times, record.throughput.load_seconds)
        if again != record.throughput:
            yield f"run.json: throughput is not what {TIMES} give ({again.expressions_per_s} expressions_per_s)"


def _other_outcomes(stored: StoredOutcomes, rescored: Outcomes) -> int:
    """Count the expressions whose stored outcome or strata are not those of a re-score."""
    wrong = (stored.hit != rescored.hit) | (np.abs(stored.iou - np.maximum(rescored.iou, 0)) > ROUNDED)
    nothing, strata = [None] * len(wrong), {cut: column.labels() for cut, column in rescored.strata.items()}
    for cut in (strata.keys() | stored.strata.keys()) - (LATER - stored.strata.keys()):
        pairs = zip(stored.strata.get(cut, nothing), strata.get(cut, nothing), strict=True)
        wrong |= np.array([a != b for a, b in pairs], bool)
    # Masks are left out where the split was prepared without them.
    if stored.masks is not None and rescored.masks is not None:
        masks = np.array([row or NO_MASK for row in rescored.masks.of_expressions(len(wrong))], np.float64)
        wrong |= ~np.isclose(stored.masks, masks, rtol=0, atol=ROUNDED, equal_nan=True).all(axis=1)
    return int(wrong.sum())


def score_here(
    record: RunRecord, answers: Answers | Sequence[Any], scenes: Sequence[Scene]
) -> tuple[Outcomes, Metrics, list[str]]:
    """Score the answers here; return outcomes, metrics, and how run.json differs from them."""
    assert record.metrics is not None  # `why_left_out`
    rescored = outcomes(scenes, answers, protocol(record.protocol), partial=record.imported is not None)
    again = summary(rescored, record.metrics.bootstrap)
    return rescored, again, list(_other_metrics(record.metrics, again))


def _other_metrics(theirs: Metrics, again: Metrics) -> Iterator[str]:
    """List how the metrics of run.json differ from a re-score; float noise of another machine is no difference."""
    made = {cut: own for cut, own in again.strata.items() if cut in theirs.strata or cut not in LATER}
    # Masks came later, too, and are not there where the split was prepared without them.
    masks = again.masks if theirs.masks is not None else None
    again = again.model_copy(update={"strata": made, "masks": masks})
    if masks is None:
        theirs = theirs.model_copy(update={"masks": None})
    was, here = (dict(flat(each.model_dump(mode="json", by_alias=True))) for each in (theirs, again))
    keys = [key for key in dict.fromkeys([*was, *here]) if not _equal(was.get(key), here.get(key))]
    if theirs.ci95_note in (None, OLD):  # an older version, whose intervals of few images were others
        keys = [key for key in keys if "ci95" not in key]
    for key in keys[:NAMED]:
        yield f"{RECORD}: metrics.{key[:100]}: {was.get(key)!r}, but its predictions give {here.get(key)!r}"
    if len(keys) > NAMED:
        yield f"{RECORD}: metrics: {len(keys) - NAMED:,} more numbers differ"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=1e-9)
    return type(one) is type(other) and bool(one == other)


def flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested tables and lists with its dotted key."""
    items: Any = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else None
    )
    if items is None:
        yield at, value
        return
    for key, inner in items:
        yield from flat(inner, f"{at}.{key}" if at else str(key))
