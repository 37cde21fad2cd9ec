"""Answers against annotations: the outcome of every expression (docs/measurement.md).

An expression is a sample; the prediction is placed as the protocol says, the ground truth never touched; IoU in
float64; no box, a NaN, an inverted or empty box and a missing answer are misses; of two answers the first counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.boxes import iou_elementwise
from bench.errors import DataError
from bench.evaluation.protocols import Protocol
from bench.evaluation.strata import split_strata
from bench.grounding import Box, Expression, Prediction, Scene
from bench.runs.outcomes import write_outcomes
from bench.runs.predictions import SceneAnswers

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

PAIRS = 200_000  # expression x proposal pairs compared at once


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One entry per expression (N) in the split's order, except `scenes` and the last three.

    `overlap` is the protocol's quantity (IoU, unless it is `giou`), `iou` always the IoU in the protocol's frame, both
    0 or less without a box; `oracle` the best overlap that any proposal of the scene reaches, NaN where there are none.
    `image` is the scene's position. `proposals` (scenes) counts boxes, -1 where the pipeline makes none; `unreadable`
    (scenes) marks images that could not be read; `duplicates` counts second answers, which were dropped.
    """

    protocol: Protocol
    scenes: Sequence[Scene]
    expressions: tuple[Expression, ...]
    iou: Float
    overlap: Float
    hit: Bool
    answered: Bool
    image: Int
    oracle: Float
    proposals: Int
    unreadable: Bool
    duplicates: int

    @cached_property
    def labels(self) -> list[dict[str, str]]:
        """Return the strata of each expression, cut -> label."""
        return split_strata(self.expressions, self.scenes, self.image.tolist())


def outcomes(scenes: Sequence[Scene], answers: Iterable[SceneAnswers], protocol: Protocol) -> Outcomes:
    """Compare answers, in any order, with every expression of `scenes`; scenes without any are misses.

    Raises DataError for an answer about an unknown scene or expression or about another image's expression, and where
    the protocol needs an image's size that is not annotated.
    """
    answers = list(answers)
    # 1. Ground truth as arrays: expressions (N,), their targets (T, 4) grouped by expression.
    widths, heights = _sizes(scenes, answers, protocol)
    positions: dict[str, int] = {}  # expression id -> position
    expressions: list[Expression] = []
    places: list[int] = []  # of each expression, its scene
    for place, scene in enumerate(scenes):
        for expression in scene.expressions:
            if expression.id not in positions:
                positions[expression.id] = len(expressions)
                expressions.append(expression)
                places.append(place)
    image = np.array(places, np.int64)
    groups = [expression.targets for expression in expressions]
    truth = np.array([box for group in groups for box in group], np.float64).reshape(-1, 4)
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])  # (T,) expression of each target
    scene_of = image[owner]  # (T,) scene of each target
    # 2. Predictions as arrays: one usable box an expression (N, 4), or NaN.
    predictions, proposals, unreadable, duplicates = _collect(scenes, positions, places, answers)
    boxes = np.full((len(groups), 4), np.nan)
    given = [(n, p.box) for n, p in predictions.items() if p.box is not None and not unreadable[places[n]]]
    if given:
        table = np.array([box for _, box in given], np.float64)
        real = np.isfinite(table).all(axis=1) & (table[:, 2:] > table[:, :2]).all(axis=1)
        boxes[np.array([n for n, _ in given])[real]] = table[real]
    answered: Bool = np.isfinite(boxes[:, 0])
    # 3. Overlap of each prediction and of each proposal with each target; the best target counts.
    with np.errstate(over="ignore", invalid="ignore"):  # a model may answer 1e300
        overlap, iou = _compare(protocol, boxes[owner], truth, widths[scene_of], heights[scene_of])
        best = _best_proposals(protocol, truth, scene_of, widths, heights, proposals)
        overlap, iou = (_best_of(values, owner, len(groups), 0.0) for values in (overlap, iou))
        hit = protocol.reached(overlap, 0.5) & answered
        if protocol.decide is not None:
            overlap, hit = _decide(protocol, groups, predictions, places, widths, heights, unreadable)
    return Outcomes(
        protocol=protocol,
        scenes=scenes,
        expressions=tuple(expressions),
        iou=iou,
        overlap=overlap,
        hit=hit,
        answered=answered,
        image=image,
        oracle=_best_of(best, owner, len(groups), np.nan),
        proposals=np.array([-1 if some is None else len(some) for some in proposals], np.int64),
        unreadable=unreadable,
        duplicates=duplicates,
    )


def store_outcomes(folder: Path, results: Outcomes) -> None:
    """Write outcomes.jsonl into a run's folder, whole or not at all. Raises RunError."""
    write_outcomes(folder, _by_scene(results))


def _by_scene(results: Outcomes) -> Iterator[dict[str, Any]]:
    """Yield the outcomes as a run stores them (bench/runs/outcomes.py): one row a scene, in order."""
    ends = np.searchsorted(results.image, np.arange(len(results.scenes)), side="right").tolist()
    iou, hit = results.iou.tolist(), results.hit.tolist()
    start = 0
    for scene, end in zip(results.scenes, ends, strict=True):
        labels = results.labels[start:end]
        cuts = dict.fromkeys(cut for each in labels for cut in each)
        yield {
            "scene": scene.id,
            "ids": [expression.id for expression in results.expressions[start:end]],
            "iou": iou[start:end],
            "hit": hit[start:end],
            "strata": {cut: [each.get(cut) for each in labels] for cut in cuts},
        }
        start = end


def _sizes(scenes: Sequence[Scene], answers: Sequence[SceneAnswers], protocol: Protocol) -> tuple[Float, Float]:
    """Return widths and heights (scenes,): annotated, else those of the decoded images, else infinite."""
    decoded = {row.scene: row.size for row in answers if row.size is not None}
    sizes = [
        decoded.get(scene.id, (None, scene.height)) if scene.width is None else (scene.width, scene.height)
        for scene in scenes
    ]
    for scene, size in zip(scenes, sizes, strict=True):
        if protocol.needs_size and not all(size):
            raise DataError(
                f"protocol {protocol.name!r} needs every image's size, and that of {scene.file!r} is not annotated; "
                "index lists hold no sizes: run a pipeline on the images, or prepare the data set from refer files"
            )
    widths, heights = ([size[axis] or math.inf for size in sizes] for axis in (0, 1))
    return np.array(widths, np.float64), np.array(heights, np.float64)


def _collect(
    scenes: Sequence[Scene], positions: Mapping[str, int], places: Sequence[int], answers: Iterable[SceneAnswers]
) -> tuple[dict[int, Prediction], list[tuple[Box, ...] | None], Bool, int]:
    """Return the first prediction by expression; proposals and unreadable images by scene; the number of duplicates."""
    scene_at = {scene.id: place for place, scene in enumerate(scenes)}
    predictions: dict[int, Prediction] = {}
    proposals: list[tuple[Box, ...] | None] = [None] * len(scenes)
    unreadable, duplicates = np.zeros(len(scenes), np.bool_), 0
    for line in answers:
        place = scene_at.get(line.scene)
        if place is None:
            raise DataError(f"an answer is about image {line.scene!r}, which the split does not hold")
        if line.error is not None:
            unreadable[place] = True
        if proposals[place] is None:
            proposals[place] = line.proposals
        for answer in line.answers:
            number = positions.get(answer.id)
            if number is None:
                raise DataError(
                    f"an answer (image {line.scene!r}) is to expression {answer.id!r}, unknown in the split"
                )
            if places[number] != place:
                home = scenes[places[number]].id
                raise DataError(f"expression {answer.id!r} is about image {home!r}, answered on {line.scene!r}")
            if number in predictions:
                duplicates += 1
                continue
            predictions[number] = answer
    return predictions, proposals, unreadable, duplicates


def _compare(protocol: Protocol, boxes: Float, truths: Float, widths: Float, heights: Float) -> tuple[Float, Float]:
    """(M, 4) boxes, (M, 4) ground truths, (M,) sizes of their images -> the protocol's overlap (M,), the IoU (M,)."""
    boxes, truths = protocol.place(boxes, truths, widths, heights)
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
    protocol: Protocol,
    truth: Float,
    scene_of: Int,
    widths: Float,
    heights: Float,
    proposals: Sequence[tuple[Box, ...] | None],
) -> Float:
    """For each target (T,), the best overlap among its scene's proposals; NaN where the scene has none."""
    best = np.full(len(truth), np.nan)
    # All proposals in one array; those of scene s start at start[s].
    flat = np.array([box for boxes in proposals for box in boxes or ()], np.float64).reshape(-1, 4)
    each = np.array([len(boxes or ()) for boxes in proposals], np.int64)
    start = np.concatenate([[0], np.cumsum(each)[:-1]]) if len(each) else each
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
        box = flat[start[scene][pair] + np.arange(ends[-1]) - begins[pair]]
        place = scene[pair]
        overlap, _ = _compare(protocol, box, truth[target][pair], widths[place], heights[place])
        best[target] = np.maximum.reduceat(overlap, begins)
    return best


def _decide(
    protocol: Protocol,
    groups: Sequence[tuple[Box, ...]],
    predictions: Mapping[int, Prediction],
    places: Sequence[int],
    widths: Float,
    heights: Float,
    unreadable: Bool,
) -> tuple[Float, Bool]:
    """Apply a protocol over sets to each expression: its overlap (N,) and hit (N,)."""
    assert protocol.decide is not None
    overlap, hit = np.zeros(len(groups)), np.zeros(len(groups), np.bool_)
    for number, targets in enumerate(groups):
        place = places[number]
        if unreadable[place]:  # a miss, also where nothing is referred to
            continue
        prediction = predictions.get(number)
        scored = [each for each in prediction.boxes if np.isfinite(each.box).all()] if prediction else []
        # Every predicted box with every target, P x T pairs.
        count = len(scored) * len(targets)
        pairs = np.array([each.box for each in scored for _ in targets], np.float64).reshape(-1, 4)
        truths = np.array(list(targets) * len(scored), np.float64).reshape(-1, 4)
        sizes = np.full(count, widths[place]), np.full(count, heights[place])
        matrix = protocol.overlap(*protocol.place(pairs, truths, *sizes)).reshape(len(scored), len(targets))
        scores = np.array([np.nan if each.score is None else each.score for each in scored], np.float64)
        overlap[number], hit[number] = protocol.decide(matrix, scores)
    return overlap, hit
