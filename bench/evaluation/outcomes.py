"""Answers against annotations: the outcome of every expression (docs/measurement.md).

An expression is a sample; the prediction is placed as the protocol says, the ground truth never touched; IoU in
float64; no box, a NaN, an inverted or empty box and an unreadable image are misses; of two answers the first counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.boxes import iou_elementwise
from bench.datasets.annotations import Annotations, annotations_of
from bench.errors import DataError
from bench.evaluation.masks import MaskOutcomes, mask_outcomes
from bench.evaluation.protocols import Protocol
from bench.evaluation.several import SetOutcomes, set_outcomes
from bench.evaluation.strata import ORDER, Cut, strata
from bench.grounding import Expression, Scene
from bench.runs.answers import Answers, answers_of
from bench.runs.outcomes import write_outcomes
from bench.runs.predictions import SceneAnswers

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

PAIRS = 200_000  # expression x proposal pairs compared at once


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One entry per expression (N) in the split's order, except `scenes` and those from `proposals` on.

    `overlap` is the protocol's quantity (IoU, unless it is `giou`), `iou` always the IoU in the protocol's frame, both
    0 or less without a box; `scores` are NaN without a box or a score; `oracle` the best overlap that any proposal of
    the scene reaches, NaN where there are none. `image` is the scene's position. `proposals` (scenes) counts boxes, -1
    where the pipeline makes none; `unreadable` (scenes) marks images that could not be read; `duplicates` counts second
    answers, which were dropped. `masks` is None where the split or the answers have none. Under a protocol over sets
    there are `sets`, `overlap` and `iou` are F1, and a rejection counts as answered. `cuts` are further strata.
    """

    protocol: Protocol
    scenes: Sequence[Scene]
    annotations: Annotations
    iou: Float
    overlap: Float
    hit: Bool
    answered: Bool
    scores: Float
    image: Int
    oracle: Float
    proposals: Int
    unreadable: Bool
    duplicates: int
    masks: MaskOutcomes | None = None
    sets: SetOutcomes | None = None
    cuts: Mapping[str, Cut] = field(default_factory=dict)

    @cached_property
    def expressions(self) -> tuple[Expression, ...]:
        """Return the expressions, of several with one id the first."""
        once = {e.id: e for scene in reversed(self.scenes) for e in reversed(scene.expressions)}
        return tuple(once[each] for each in self.annotations.position)

    @cached_property
    def strata(self) -> dict[str, Cut]:
        """Return the label of each expression in each cut."""
        cuts = {**strata(self.annotations), **self.cuts}
        if self.sets is None:
            return cuts
        return cuts | {"targets": Cut(np.minimum(self.sets.targets, 2), ORDER["targets"])}


def outcomes(
    scenes: Sequence[Scene], answers: Answers | Iterable[SceneAnswers], protocol: Protocol, partial: bool = False
) -> Outcomes:
    """Compare answers, in any order, with every expression of `scenes`; `partial`: those that lack one are misses.

    Raises DataError for an expression without an answer, for an answer about an unknown scene or expression or about
    another image's expression, and where the protocol needs an image's size that is not annotated.
    """
    answers = answers if isinstance(answers, Answers) else answers_of(answers)
    # 1. Ground truth: N expressions, their targets (T, 4) grouped by expression.
    known = annotations_of(scenes)
    image, owner, truth = known.image, known.owner, known.targets
    scene_of = image[owner]  # (T,) scene of each target
    count = len(image)
    # 2. Predictions: the first answer to each expression (N,), -1 without one; its box (N, 4) where usable, or NaN.
    place = _places(known, answers)
    first = _first_answers(known, answers, place)
    sizes = _sizes(known, answers, place, protocol)
    unreadable = np.zeros(len(scenes), np.bool_)
    unreadable[[place[line] for line, error in enumerate(answers.errors) if error is not None]] = True
    if not partial:
        _refuse_missing(known, (first < 0) & ~unreadable[image])
    boxes = np.full((count, 4), np.nan)
    given = (first >= 0) & ~unreadable[image]
    boxes[given] = answers.boxes[first[given]]
    with np.errstate(invalid="ignore"):
        boxes[~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))] = np.nan
    answered: Bool = np.isfinite(boxes[:, 0])
    scores = np.full(count, np.nan)
    scores[answered] = answers.scores[first[answered]]
    # 3. Overlap of each prediction and of each proposal with each target; the best target counts.
    pools = _pools(len(scenes), answers, place)
    with np.errstate(over="ignore", invalid="ignore"):  # a model may answer 1e300
        overlap, iou = _compare(protocol, boxes[owner], truth, sizes[scene_of])
        best = _best_proposals(protocol, truth, scene_of, sizes, pools, answers)
        overlap, iou = (_best_of(values, owner, count, 0.0) for values in (overlap, iou))
        hit = protocol.reached(overlap, 0.5) & answered
    # 4. Under a protocol over sets all boxes count, and F1 is the overlap.
    sets = set_outcomes(known, answers, first, unreadable, sizes, protocol) if protocol.sets else None
    if sets is not None:
        overlap = iou = sets.f1
        hit, answered = sets.exact, (sets.predicted > 0) | sets.rejected
    return Outcomes(
        protocol=protocol,
        scenes=scenes,
        annotations=known,
        iou=iou,
        overlap=overlap,
        hit=hit,
        answered=answered,
        scores=scores,
        image=image,
        oracle=_best_of(best, owner, count, np.nan),
        proposals=np.where(pools < 0, -1, answers.counts[pools]) if len(answers.counts) else pools,
        unreadable=unreadable,
        duplicates=len(answers.ids) - int((first >= 0).sum()),
        masks=mask_outcomes(known, answers, first, unreadable, protocol),
        sets=sets,
    )


def store_outcomes(folder: Path, results: Outcomes) -> None:
    """Write outcomes.jsonl into a run's folder, whole or not at all. Raises RunError."""
    write_outcomes(folder, _by_scene(results))


def _by_scene(results: Outcomes) -> Iterator[dict[str, Any]]:
    """Yield the outcomes as a run stores them (bench/runs/outcomes.py): one row a scene, in order."""
    ends = np.searchsorted(results.image, np.arange(len(results.scenes)), side="right").tolist()
    iou, hit, ids = results.iou.tolist(), results.hit.tolist(), [*results.annotations.position]
    labels = {cut: column.labels() for cut, column in results.strata.items()}
    masks = results.masks.of_expressions(len(ids)) if results.masks is not None else None
    start = 0
    for scene, end in zip(results.annotations.scenes, ends, strict=True):
        own = {cut: column[start:end] for cut, column in labels.items()}
        cuts: dict[str, None] = {}  # by the first expression that has them
        for at in range(end - start):
            cuts |= {cut: None for cut, column in own.items() if column[at] is not None}
            if len(cuts) == len(own):
                break
        yield {
            "scene": scene,
            "ids": ids[start:end],
            "iou": iou[start:end],
            "hit": hit[start:end],
            "strata": {cut: own[cut] for cut in cuts},
            "masks": masks and masks[start:end],
        }
        start = end


def _places(known: Annotations, answers: Answers) -> Int:
    """Return the scene of each line (R,). Raises DataError for one that the split does not have."""
    scene_at = {scene: place for place, scene in enumerate(known.scenes)}
    places = [scene_at.get(scene, -1) for scene in answers.scenes]
    if -1 in places:
        scene = answers.scenes[places.index(-1)]
        raise DataError(f"an answer is about image {scene!r}, which the split does not hold")
    return np.array(places, np.int64)


def _first_answers(known: Annotations, answers: Answers, place: Int) -> Int:
    """Return the first answer to each expression (N,), -1 without one. Raises DataError for one of another image."""
    position = known.position
    number = np.array([position.get(each, -1) for each in answers.ids], np.int64)
    on = place[answers.line]  # (A,) scene of each answer
    wrong = np.flatnonzero((number < 0) | (known.image[number] != on)) if len(known.image) else np.arange(len(number))
    if len(wrong):
        at = int(wrong[0])
        answer, line = answers.ids[at], answers.scenes[answers.line[at]]
        if number[at] < 0:
            raise DataError(f"an answer (image {line!r}) is to expression {answer!r}, unknown in the split")
        home = known.scenes[known.image[number[at]]]
        raise DataError(f"expression {answer!r} is about image {home!r}, answered on {line!r}")
    first = np.full(len(known.image), -1)
    first[number[::-1]] = np.arange(len(number))[::-1]
    return first


def _refuse_missing(known: Annotations, missing: Bool) -> None:
    """Raise DataError where expressions (N,) lack an answer: lost or cut predictions are no misses."""
    if missing.any():
        at = int(missing.argmax())
        raise DataError(
            f"{int(missing.sum()):,} of {len(missing):,} expressions have no prediction (the first is "
            f"{[*known.position][at]!r}, image {known.scenes[known.image[at]]!r}), and that is no miss: ground "
            "them, or give them a prediction without a box"
        )


def _sizes(known: Annotations, answers: Answers, place: Int, protocol: Protocol) -> Float:
    """Return widths and heights (S, 2): annotated, else those of the decoded images, else infinite."""
    sizes = known.sizes.copy()
    for line, size in enumerate(answers.sizes):
        if size is not None and np.isnan(known.sizes[place[line], 0]):
            sizes[place[line]] = size
    absent = np.flatnonzero(~(sizes > 0).all(axis=1))
    if protocol.needs_size and len(absent):
        raise DataError(
            f"protocol {protocol.name!r} needs every image's size, and that of {known.files[absent[0]]!r} is not "
            "annotated; index lists hold no sizes: run a pipeline on the images, or prepare the data set from refer "
            "files"
        )
    return np.where(sizes > 0, sizes, np.inf)


def _pools(scenes: int, answers: Answers, place: Int) -> Int:
    """Return the line with the proposals of each scene (S,), the first one that has them; -1 without any."""
    lines = np.flatnonzero(answers.counts >= 0)[::-1]
    pools = np.full(scenes, -1)
    pools[place[lines]] = lines
    return pools


def _compare(protocol: Protocol, boxes: Float, truths: Float, sizes: Float) -> tuple[Float, Float]:
    """(M, 4) boxes, (M, 4) ground truths, (M, 2) sizes of their images -> the protocol's overlap (M,), the IoU (M,)."""
    boxes, truths = protocol.place(boxes, truths, sizes[:, 0], sizes[:, 1])
    overlap = protocol.overlap(boxes, truths)
    return overlap, overlap if protocol.is_iou else iou_elementwise(boxes, truths)


def _best_of(values: Float, owner: Int, count: int, empty: float) -> Float:
    """(T,) values of targets -> (count,) the best of each expression; NaN only where all are; `empty` without any."""
    best = np.full(count, empty)
    if len(values):
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        best[owner[first]] = np.fmax.reduceat(values, first)
    return best


def _best_proposals(
    protocol: Protocol, truth: Float, scene_of: Int, sizes: Float, pools: Int, answers: Answers
) -> Float:
    """For each target (T,), the best overlap among its scene's proposals; NaN where the scene has none."""
    best = np.full(len(truth), np.nan)
    if not len(answers.proposals):
        return best
    # The proposals of scene s are those from start[s] on.
    start = (np.cumsum(np.maximum(answers.counts, 0)) - np.maximum(answers.counts, 0))[pools]
    each = np.where(pools < 0, 0, answers.counts[pools])
    # Targets in consecutive blocks of about PAIRS pairs, so that a split of any size needs the same memory.
    targets = np.flatnonzero(each[scene_of] > 0)
    block = np.cumsum(each[scene_of][targets]) // PAIRS
    for target in np.split(targets, np.flatnonzero(np.diff(block)) + 1) if len(targets) else ():
        scene = scene_of[target]
        count = each[scene]
        ends = np.cumsum(count)
        begins = ends - count
        # Pair k of the block compares target pair[k] with one proposal of its scene.
        pair = np.repeat(np.arange(len(target)), count)
        box = answers.proposals[start[scene][pair] + np.arange(ends[-1]) - begins[pair]]
        overlap, _ = _compare(protocol, box, truth[target][pair], sizes[scene[pair]])
        best[target] = np.maximum.reduceat(overlap, begins)
    return best
