"""Sets of boxes against sets of targets: expressions that refer to nothing, to one object or to several.

A prediction's boxes are those with at least the protocol's threshold as score; boxes without a score always count. They
are paired with the targets one to one, greedily, where the overlap reaches 0.5: in order of score, each box taking the
best free target; or in order of overlap, as gRefCOCO's own evaluation does. Of an expression F1 is 2 pairs / (boxes +
targets).

Where nothing is referred to, only a *rejection* is right: boxes below the threshold alone, or a prediction with `none`
(bench/grounding.py) above its best score. A prediction without boxes and without `none` may be an answer that nobody
could parse: it is no rejection, and neither is an unreadable image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bench.datasets.annotations import Annotations
from bench.evaluation.protocols import Protocol
from bench.runs.answers import Answers
from bench.runs.numbers import Interval, Ratio, SeveralMetrics

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
PAIRS = 200_000  # box x target pairs compared at once
STEP = 2.0**-20  # F1 in an interval's sums: added without rounding in any order, so every machine gives the same


@dataclass(frozen=True, eq=False)
class ScoredBoxes:
    """The B predicted boxes of N expressions, grouped by expression, best score first.

    `owner` (B,) is the expression, `box` (B, 4) xyxy pixels; `score` (B,) is infinite for a box without one; `matched`
    (B,) says that the box has a target of its own, `kept` (B,) that it is part of the prediction; `best` (N,) is the
    best score, -inf without a box; `none` (N,) is the score that nothing is referred to, -inf without one.
    """

    owner: Int
    box: Float
    score: Float
    matched: Bool
    kept: Bool
    best: Float
    none: Float


@dataclass(frozen=True, eq=False)
class SetOutcomes:
    """One entry per expression (N): targets, predicted boxes, pairs; `rejected` says that nothing is predicted.

    `readable` is False for those of unreadable images. `one_box` says that no prediction had more than one box before
    the threshold; `boxes` are those of the predictions, without a threshold.
    """

    targets: Int
    predicted: Int
    pairs: Int
    rejected: Bool
    readable: Bool
    one_box: bool
    boxes: ScoredBoxes

    @property
    def f1(self) -> Float:
        """Return F1 (N,): without a target 1 for a rejection, else 0."""
        made = 2 * self.pairs / np.maximum(self.predicted + self.targets, 1)
        return np.where(self.targets > 0, made, self.rejected)

    @property
    def exact(self) -> Bool:
        """Tell whose F1 is 1 (N,)."""
        return np.where(
            self.targets > 0, (self.pairs == self.targets) & (self.predicted == self.targets), self.rejected
        )

    def ratios(self) -> Iterator[tuple[str, Float, Float]]:
        """Yield each quantity as numerators (N,) and denominators (N,), whose sums' ratio it is."""
        target = (self.targets > 0).astype(np.float64)
        yield "exact", self.exact.astype(np.float64), np.ones_like(target)
        yield "mean_f1", np.rint(self.f1 / STEP) * STEP, np.ones_like(target)
        if not target.all():
            yield "no_target_accuracy", self.rejected * (1 - target), 1 - target
        if target.any():
            yield "target_accuracy", (self.predicted > 0) * target, target


def set_outcomes(
    known: Annotations, answers: Answers, first: Int, unreadable: Bool, sizes: Float, protocol: Protocol
) -> SetOutcomes:
    """Compare the boxes of answers with the targets; `first` (N,) is the answer to each expression, -1 without one.

    `unreadable` (S,) marks images without an answer; `sizes` (S, 2) are widths and heights, infinite where unknown.
    """
    count = len(first)
    readable = ~unreadable[known.image]
    # 1. Every box of every answer that counts, grouped by expression, best first.
    owner, boxes, score = _boxes_of(answers, np.where(readable, first, -1))
    one_box = not len(owner) or int(np.bincount(owner).max()) < 2
    # 2. Pairs, of all boxes: a threshold takes from the end, which moves no earlier pair in order of score.
    keep = np.ones(len(owner), np.bool_) if protocol.threshold is None else score >= protocol.threshold
    within = keep if protocol.sets == "overlap" else np.ones_like(keep)
    matched = np.zeros(len(owner), np.bool_)
    matched[within] = _matched(protocol, owner[within], boxes[within], known, sizes)
    # 3. What is left of them by the threshold, and by the score that nothing is referred to.
    best = np.full(count, -np.inf)
    np.maximum.at(best, owner, score)
    none = np.full(count, -np.inf)
    given = np.flatnonzero((first >= 0) & readable)
    none[given] = [answers.none.get(at, -np.inf) for at in first[given].tolist()]
    keep &= ~(none > best)[owner]
    predicted = np.bincount(owner[keep], minlength=count)
    return SetOutcomes(
        targets=np.bincount(known.owner, minlength=count),
        predicted=predicted,
        pairs=np.bincount(owner[keep & matched], minlength=count),
        rejected=(predicted == 0) & (np.isfinite(none) | (best > -np.inf)),
        readable=readable,
        one_box=one_box,
        boxes=ScoredBoxes(owner, boxes, score, matched, keep, best, none),
    )


def _boxes_of(answers: Answers, first: Int) -> tuple[Int, Float, Float]:
    """Return owners (B,), boxes (B, 4) and scores (B,) of the answers `first` (N,), grouped by owner, best first."""
    there = np.flatnonzero(first >= 0)
    own = there[~np.isnan(answers.boxes[first[there], 0])]
    more = [(at, others) for at in there.tolist() if (others := answers.others.get(int(first[at])))]
    further = list(chain.from_iterable(others for _, others in more))
    owner = np.concatenate([own, np.repeat([at for at, _ in more], [len(others) for _, others in more]).astype(int)])
    boxes = np.concatenate([answers.boxes[first[own]], np.array([b.box for b in further]).reshape(-1, 4)])
    score = np.concatenate(
        [answers.scores[first[own]], np.array([np.nan if b.score is None else b.score for b in further])]
    )
    score = np.where(np.isnan(score), np.inf, score)
    order = np.lexsort((-score, owner))
    return owner[order], boxes[order], score[order]


def _matched(protocol: Protocol, owner: Int, boxes: Float, known: Annotations, sizes: Float) -> Bool:
    """Tell which boxes (B,) get a target of their own, greedily."""
    taken, used = np.zeros(len(owner), np.bool_), np.zeros(len(known.targets), np.bool_)
    count = len(known.image)
    targets = np.bincount(known.owner, minlength=count)
    start = np.cumsum(targets) - targets  # the targets of expression e are those from start[e] on
    # 1. Every box with every target of its expression, in blocks of whole boxes, so that any split needs one memory.
    each = targets[owner]
    box, target, overlap = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    block = np.cumsum(each) // PAIRS
    for some in np.split(np.arange(len(owner)), np.flatnonzero(np.diff(block)) + 1) if len(owner) else ():
        ends = np.cumsum(each[some])
        one = np.repeat(some, each[some])
        other = start[owner[one]] + np.arange(len(one)) - np.repeat(ends - each[some], each[some])
        size = sizes[known.image[owner[one]]]
        with np.errstate(over="ignore", invalid="ignore"):
            placed = protocol.place(boxes[one], known.targets[other], size[:, 0], size[:, 1])
            value = protocol.overlap(*placed)
            near = protocol.reached(value, 0.5)
        box.append(one[near])
        target.append(other[near])
        overlap.append(value[near])
    one, other, value = np.concatenate(box), np.concatenate(target), np.concatenate(overlap)
    # 2. By expression, the pair that has priority first.
    keys = (-value, one, owner[one]) if protocol.sets == "score" else (-value, owner[one])
    order = np.lexsort(keys)
    one, other = one[order], other[order]
    # 3. In each round every expression's first pair is made, and all pairs with its box or its target go.
    while len(one):
        leads = np.flatnonzero(np.diff(owner[one], prepend=-1))
        taken[one[leads]], used[other[leads]] = True, True
        left = ~(taken[one] | used[other])
        one, other = one[left], other[left]
    return taken


def set_metrics(
    results: SetOutcomes, threshold: float | None, intervals: Iterator[tuple[Interval | None, str]]
) -> SeveralMetrics:
    """Sum up sets of boxes; `intervals` are those of `ratios`, in order."""
    parts: dict[str, Ratio] = {}
    for name, above, below in results.ratios():
        ci95, note = next(intervals)
        parts[name] = Ratio(value=float(above.sum()) / float(below.sum() or 1), ci95=ci95, ci95_note=note)
    return SeveralMetrics(
        no_target=int((results.targets == 0).sum()),
        several=int((results.targets > 1).sum()),
        boxes=int(results.predicted.sum()),
        one_box=results.one_box,
        threshold=threshold,
        **parts,
    )
