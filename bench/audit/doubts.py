"""Find the labels of a split that are doubtful, from its annotations and from runs that agree against them.

    same text      the same words about another box of the image: no prediction can be right for both
    runs agree     every run misses, and their boxes overlap one another with IoU >= 0.7: they mean one other place

Exact repeats (text and box of an earlier expression) are counted, not doubted: n counts their prediction twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.boxes import clip_xyxy, iou_elementwise, iou_pairwise
from bench.comparison.compared_runs import ComparedRun, read_runs
from bench.datasets.annotations import Annotations, annotations_of
from bench.datasets.split import Split
from bench.errors import UsageError
from bench.evaluation.rescored import split_of
from bench.runs.integrity import complete_answers
from bench.settings import Resolved

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Int = NDArray[np.int64]
AGREE = 0.7  # IoU of boxes that mean the same place
SAME = 0.5  # IoU with the expression's own target, from which on another annotated box is not another object


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """The doubtful expressions of a split; arrays have an entry an expression (N), in its order.

    `same_text`, `repeated`, `missed` (by every run) and `agreed` (N,) are of bool; `other` (N,) is the position of the
    expression whose object all runs mean where they agree, -1 without one. `boxes` (R, N, 4) are the runs', xyxy pixels
    clipped to the image, NaN without one.
    """

    split: Split
    runs: Sequence[ComparedRun]
    known: Annotations
    same_text: Bool
    repeated: Bool
    missed: Bool
    agreed: Bool
    other: Int
    boxes: Float

    @property
    def doubtful(self) -> Int:
        """Return the positions of the doubtful expressions."""
        return np.flatnonzero(self.same_text | self.agreed)

    def counts(self) -> dict[str, int]:
        """Count each kind of doubt."""
        return {
            "expressions": len(self.missed),
            "same_text": int(self.same_text.sum()),
            "repeated": int(self.repeated.sum()),
            "missed_by_all": int(self.missed.sum()),
            "runs_agree": int(self.agreed.sum()),
            "on_another_object": int((self.other >= 0).sum()),
            "doubtful": len(self.doubtful),
        }


def audit(folders: Sequence[Path], resolved: Resolved, split: str | None = None) -> Audit:
    """Read two or more runs of one split, and find the labels that are doubtful.

    `split` names the split where the record's name does not lead to it. Raises RunError for runs that cannot be
    compared, DataError for a split that is not at hand, and UsageError for a protocol over sets of boxes.
    """
    runs = read_runs(folders)
    if runs[0].metrics.several is not None:
        raise UsageError(f"{runs[0].folder}: its predictions are sets of boxes; an audit compares runs with one box")
    data = split_of(runs[0].folder, runs[0].record, split, resolved)
    known = annotations_of(data.scenes)
    boxes = np.stack([_boxes(run, data, known) for run in runs])
    missed = ~np.any([run.outcomes.hit for run in runs], axis=0)
    agreed, other = agreements(known, boxes, missed)
    same_text, repeated = repeats(known)
    return Audit(data, runs, known, same_text, repeated, missed, agreed, other, boxes)


def repeats(known: Annotations) -> tuple[Bool, Bool]:
    """Find texts that have another box on the same image, and repeats of an earlier text and box -> (N,), (N,)."""
    n = len(known.image)
    starts = np.searchsorted(known.owner, np.arange(n + 1))
    targets = [tuple(sorted(map(tuple, known.targets[a:b].tolist()))) for a, b in pairwise(starts)]
    texts = list(zip(known.image.tolist(), known.texts, strict=True))
    labels = list(zip(texts, targets, strict=True))
    once = set(labels)
    boxes = Counter(text for text, _ in once)
    first = {label: place for place, label in reversed(list(enumerate(labels)))}
    same = np.array([boxes[text] > 1 for text in texts], np.bool_)
    return same, np.array([first[label] != place for place, label in enumerate(labels)], np.bool_)


def agreements(known: Annotations, boxes: Float, missed: Bool) -> tuple[Bool, Int]:
    """Find misses (N,) on which all boxes (R, N, 4) agree -> (N,), and the expression whose object they mean -> (N,).

    Another object's box overlaps the expression's own by less than 0.5, and every run's by 0.7 or more.
    """
    # 1. All pairs of runs overlap.
    agreed = missed.copy()
    for a, b in combinations(boxes, 2):
        agreed &= iou_elementwise(a, b) >= AGREE  # NaN is no overlap
    # 2. The annotated object of the image that they overlap most.
    other = np.full(len(missed), -1)
    places = np.flatnonzero(agreed)
    for place, image in zip(places.tolist(), known.image[places].tolist(), strict=True):
        beside = np.arange(*np.searchsorted(known.image, [image, image + 1]))
        beside = beside[~np.isnan(known.boxes[beside, 0])]
        own = known.targets[known.owner == place]
        if len(own):
            beside = beside[iou_pairwise(known.boxes[beside], own).max(axis=1) < SAME]
        met = iou_pairwise(known.boxes[beside], boxes[:, place]).min(axis=1)
        if len(met) and met.max() >= AGREE:
            other[place] = beside[met.argmax()]
    return agreed, other


def _boxes(run: ComparedRun, split: Split, known: Annotations) -> Float:
    """Return a run's box of each expression (N, 4), clipped to the image where its size is annotated."""
    answers = complete_answers(run.folder, run.record, split.scenes)
    boxes = np.full((len(known.image), 4), np.nan)
    first = {name: place for place, name in reversed(list(enumerate(answers.ids)))}
    matches = [(at, first[name]) for name, at in known.position.items() if name in first]
    at, place = np.array(matches, np.int64).reshape(-1, 2).T
    boxes[at] = answers.boxes[place]
    sizes = np.nan_to_num(known.sizes[known.image], nan=np.inf)
    return clip_xyxy(boxes, sizes[:, 0], sizes[:, 1])
