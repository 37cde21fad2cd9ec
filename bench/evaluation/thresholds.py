"""The threshold of a pipeline's scores, chosen on a val split and nowhere else.

In order of score a threshold takes boxes from the end, and moves no earlier pair. So an expression with T targets has
F1 = 1 exactly where the first T boxes are paired and the threshold lies between the scores of box T and of the next
one: one interval an expression. The threshold is the middle of the range that lies in most intervals.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.datasets.split import Split
from bench.errors import UsageError
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import PROTOCOLS, Protocol, with_threshold
from bench.evaluation.several import SetOutcomes
from bench.runs.integrity import complete_answers
from bench.runs.record import FILE, RunRecord

Float = NDArray[np.float64]
SEVERAL = "several"


def right_between(results: SetOutcomes) -> tuple[Float, Float]:
    """Return low (N,) and high (N,): F1 is 1 for a threshold t with low < t <= high; NaN where it never is.

    `results` are those without a threshold, in order of score.
    """
    boxes, targets = results.boxes, results.targets
    count = np.bincount(boxes.owner, minlength=len(targets))
    start = np.cumsum(count) - count
    low, high = np.full(len(targets), np.nan), np.full(len(targets), np.nan)
    # 1. With targets: the first T boxes have one each, and no score says that there is none.
    enough = (targets > 0) & (count >= targets) & ~(boxes.none > boxes.best)
    paired = np.concatenate([[0], np.cumsum(boxes.matched)])
    at = np.flatnonzero(enough)
    at = at[paired[start[at] + targets[at]] - paired[start[at]] == targets[at]]
    high[at] = boxes.score[start[at] + targets[at] - 1]
    more = at[count[at] > targets[at]]
    low[at] = -np.inf
    low[more] = boxes.score[start[more] + targets[more]]
    # 2. Without: above the best score, and anywhere where an answer is that nothing is there.
    nothing = (targets == 0) & results.readable & ((count > 0) | np.isfinite(boxes.none))
    low[nothing], high[nothing] = boxes.best[nothing], np.inf
    low[nothing & (boxes.none > boxes.best)] = -np.inf
    return low, high


def best_threshold(low: Float, high: Float) -> tuple[float, int]:
    """Return the middle of the range of thresholds that lies in most intervals (low, high], and their number."""
    known = low < high
    low, high = np.sort(low[known]), np.sort(high[known])
    edges = np.unique(np.concatenate([low, high]))
    edges = edges[np.isfinite(edges)]
    if not len(edges):
        raise UsageError("no threshold can be chosen: no answer has boxes with scores")
    # A threshold at an edge, or in the middle of two, or above all.
    tried = np.unique(np.concatenate([edges, (edges[1:] + edges[:-1]) / 2, edges[-1:] + 1e-6]).round(6))
    right = np.searchsorted(low, tried, side="left") - np.searchsorted(high, tried, side="left")
    best = np.flatnonzero(right == right.max())
    last = best[int(np.argmax(np.diff(best, append=best[-1] + 2) > 1))]  # of the first range of them
    below = tried[best[0] - 1] if best[0] else tried[best[0]]
    middle = round(float(below + tried[last]) / 2, 6)
    return middle if middle > below else float(tried[last]), int(right.max())  # scores may differ in the last digit


def chosen_threshold(folder: Path, record: RunRecord, split: Split, target: RunRecord) -> tuple[Protocol, str]:
    """Choose a threshold on a run of a val split for `target`, a run of the same pipeline; say what was chosen.

    Raises UsageError where `refuse_unfit` does, or no answer has scores.
    """
    refuse_unfit(folder, record, target)
    rule = PROTOCOLS[SEVERAL]
    answers = complete_answers(folder, record, split.scenes)
    results = outcomes(split.scenes, answers, rule, partial=record.imported is not None).sets
    assert results is not None
    threshold, right = best_threshold(*right_between(results))
    share, where = right / max(len(results.targets), 1), record.identity.data.split
    return with_threshold(rule, threshold), f"threshold {threshold:g} chosen on {where}, where F1 is 1 for {share:.2%}"


def refuse_unfit(folder: Path, record: RunRecord, target: RunRecord) -> None:
    """Raise UsageError where a run is on no val split, or of another pipeline, and so chooses no threshold."""
    data, own = record.identity, target.identity
    part = data.data.split.rpartition("-")[2]
    if record.status != "complete" or data.data.partial:
        raise UsageError(f"{folder}: a threshold is chosen on a complete run; finish it, without --limit")
    if (data.pipeline, record.provenance) != (own.pipeline, target.provenance):
        raise UsageError(
            f"{folder}: a threshold is chosen on a run of the same pipeline, and this is {data.pipeline!r}"
        )
    if record.provenance == "run" and data.weights != own.weights:
        raise UsageError(f"{folder}: a threshold is chosen with the same weights, and these are others")
    if part.startswith("test") or (data.data.split.startswith(FILE) and data.data.fingerprint == own.data.fingerprint):
        raise UsageError(
            f"{folder}: {data.data.split} is what is scored or a test split; a threshold is chosen on a val split"
        )
