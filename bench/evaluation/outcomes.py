"""Answers against annotations: what became of every expression (docs/measurement.md).

An expression is a sample; the prediction is placed as the protocol says, the ground truth never touched; IoU in
float64; no box, a NaN, an inverted or empty box and a missing answer are misses; of two answers the first counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.boxes import iou_elementwise
from bench.errors import DataError
from bench.evaluation.protocols import Protocol
from bench.evaluation.strata import strata
from bench.grounding import Box, Expression, Scene
from bench.runs.outcomes import SceneOutcome
from bench.runs.predictions import SceneAnswers

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

PAIRS = 200_000  # expression x proposal pairs compared at once


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """One entry per expression (N) in the split's order, except the last three.

    `overlap` is the protocol's quantity (IoU, unless it is `giou`), `iou` always the IoU in the protocol's frame, both
    0 or less without a box; `oracle` the best overlap that any proposal of the scene reaches, NaN where there are none.
    `image` is the scene's position. `proposals` (scenes) counts boxes, -1 where the pipeline makes none; `unreadable`
    (scenes) marks images that could not be read; `duplicates` counts second answers, which were dropped.
    """

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


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """The annotated side. A target is one right box: an expression has one, or several under an any-box protocol."""

    expressions: tuple[Expression, ...]
    image: Int  # (N,)
    number: dict[str, int]  # expression id -> position
    scene: dict[str, int]  # scene id -> position
    widths: Float  # (scenes,), infinite where not annotated
    heights: Float
    boxes: Float  # (T, 4), grouped by expression
    owner: Int  # (T,) expression of each target
    first: Int  # (N,) first target of each expression


def outcomes(scenes: Sequence[Scene], answers: Iterable[SceneAnswers], protocol: Protocol) -> Outcomes:
    """Compare answers, in any order, with every expression of `scenes`; scenes without any are misses.

    Raises DataError for an answer about an unknown scene or expression or about another image's expression, and where
    the protocol needs an image's size that is not annotated.
    """
    answers = list(answers)
    scenes = _sized(scenes, answers)
    truth = _truth(scenes, protocol)
    boxes, proposals, unreadable, duplicates = _collect(scenes, truth, answers)
    image = truth.image
    answered: Bool = np.isfinite(boxes[:, 0])
    shown = image[truth.owner]
    with np.errstate(over="ignore", invalid="ignore"):  # a model may say 1e300
        overlap, iou = _compare(protocol, boxes[truth.owner], truth.boxes, truth.widths[shown], truth.heights[shown])
        best = _best_proposals(protocol, truth, proposals)
    some = len(truth.first) > 0
    overlap = np.maximum.reduceat(overlap, truth.first) if some else overlap
    iou = np.maximum.reduceat(iou, truth.first) if some else iou
    return Outcomes(
        expressions=truth.expressions,
        iou=iou,
        overlap=overlap,
        hit=protocol.reached(overlap, 0.5) & answered,
        answered=answered,
        image=image,
        oracle=np.fmax.reduceat(best, truth.first) if some else best,
        proposals=np.array([-1 if some is None else len(some) for some in proposals], np.int64),
        unreadable=unreadable,
        duplicates=duplicates,
    )


def by_scene(found: Outcomes, scenes: Sequence[Scene]) -> Iterator[SceneOutcome]:
    """The outcomes as a run stores them (bench/runs/outcomes.py): one row for each of `scenes`, in their order."""
    ends = np.searchsorted(found.image, np.arange(len(scenes)), side="right").tolist()
    iou, hit = found.iou.tolist(), found.hit.tolist()
    start = 0
    for scene, end in zip(scenes, ends, strict=True):
        asked = found.expressions[start:end]
        labels = [strata(expression, scene) for expression in asked]
        cuts = dict.fromkeys(cut for each in labels for cut in each)
        yield SceneOutcome(
            scene=scene.id,
            ids=[expression.id for expression in asked],
            iou=iou[start:end],
            hit=hit[start:end],
            strata={cut: [each.get(cut) for each in labels] for cut in cuts},
        )
        start = end


def _sized(scenes: Sequence[Scene], answers: Sequence[SceneAnswers]) -> Sequence[Scene]:
    """`scenes`, with the sizes that the run saw where none is annotated."""
    seen = {line.scene: line.size for line in answers if line.size is not None}
    if not seen:
        return scenes
    return [
        replace(scene, width=seen[scene.id][0], height=seen[scene.id][1])
        if scene.width is None and scene.id in seen
        else scene
        for scene in scenes
    ]


def _truth(scenes: Sequence[Scene], protocol: Protocol) -> _Truth:
    expressions: list[Expression] = []
    number: dict[str, int] = {}
    image: list[int] = []
    targets: list[Box] = []
    owner: list[int] = []
    for position, scene in enumerate(scenes):
        if protocol.needs_size and not (scene.width and scene.height):
            raise DataError(
                f"protocol {protocol.name!r} needs every image's size, and that of {scene.file!r} is not annotated; "
                "index lists hold no sizes: run a pipeline on the images, or prepare the data set from refer files"
            )
        for expression in scene.expressions:
            if expression.id in number:
                continue
            number[expression.id] = len(expressions)
            right = (expression.box, *expression.also)
            targets.extend(right)
            owner.extend([len(expressions)] * len(right))
            expressions.append(expression)
            image.append(position)
    owners = np.array(owner, np.int64)
    return _Truth(
        expressions=tuple(expressions),
        image=np.array(image, np.int64),
        number=number,
        scene={scene.id: position for position, scene in enumerate(scenes)},
        widths=np.array([scene.width or math.inf for scene in scenes], np.float64),
        heights=np.array([scene.height or math.inf for scene in scenes], np.float64),
        boxes=np.array(targets, np.float64).reshape(-1, 4),
        owner=owners,
        first=np.searchsorted(owners, np.arange(len(expressions))),
    )


def _collect(
    scenes: Sequence[Scene], truth: _Truth, answers: Iterable[SceneAnswers]
) -> tuple[Float, list[tuple[Box, ...] | None], Bool, int]:
    """Boxes (N, 4), NaN without a usable one; proposals and unreadable images by scene; the number of duplicates."""
    usable = np.full((len(truth.expressions), 4), np.nan)
    proposals: list[tuple[Box, ...] | None] = [None] * len(scenes)
    unreadable, duplicates = np.zeros(len(scenes), np.bool_), 0
    images = truth.image.tolist()
    seen: set[int] = set()
    numbers: list[int] = []
    boxes: list[Box] = []
    for line in answers:
        position = truth.scene.get(line.scene)
        if position is None:
            raise DataError(f"an answer is about image {line.scene!r}, which the split does not hold")
        if line.error is not None:
            unreadable[position] = True
        if proposals[position] is None:
            proposals[position] = line.proposals
        for answer in line.answers:
            number = truth.number.get(answer.id)
            if number is None:
                raise DataError(
                    f"an answer (image {line.scene!r}) is to expression {answer.id!r}, unknown in the split"
                )
            if images[number] != position:
                home = scenes[images[number]].id
                raise DataError(f"expression {answer.id!r} is about image {home!r}, answered on {line.scene!r}")
            if number in seen:
                duplicates += 1
                continue
            seen.add(number)
            if answer.box is not None:
                numbers.append(number)
                boxes.append(answer.box)
    if boxes:
        table = np.array(boxes, np.float64)
        real = np.isfinite(table).all(axis=1) & (table[:, 2:] > table[:, :2]).all(axis=1)
        usable[np.array(numbers)[real]] = table[real]
    usable[unreadable[truth.image]] = np.nan
    return usable, proposals, unreadable, duplicates


def _compare(protocol: Protocol, boxes: Float, truths: Float, widths: Float, heights: Float) -> tuple[Float, Float]:
    """(M, 4) boxes, (M, 4) ground truths, (M,) sizes of their images -> the protocol's overlap (M,), the IoU (M,)."""
    boxes, truths = protocol.place(boxes, truths, widths, heights)
    overlap = protocol.overlap(boxes, truths)
    return overlap, overlap if protocol.is_iou else iou_elementwise(boxes, truths)


def _best_proposals(protocol: Protocol, truth: _Truth, proposals: Sequence[tuple[Box, ...] | None]) -> Float:
    """For each target (T,), the best overlap among its scene's proposals; NaN where the scene has none."""
    best = np.full(len(truth.owner), np.nan)
    flat = np.array([box for boxes in proposals for box in boxes or ()], np.float64).reshape(-1, 4)
    each = np.array([len(boxes or ()) for boxes in proposals], np.int64)
    start = np.concatenate([[0], np.cumsum(each)[:-1]]) if len(each) else each
    shown = truth.image[truth.owner]
    for target in _blocks(np.flatnonzero(each[shown] > 0), each[shown]):
        scene = shown[target]
        count = each[scene]
        ends = np.cumsum(count)
        begins = ends - count
        pair = np.repeat(np.arange(len(target)), count)
        box = flat[start[scene][pair] + np.arange(ends[-1]) - begins[pair]]
        place = scene[pair]
        overlap, _ = _compare(protocol, box, truth.boxes[target][pair], truth.widths[place], truth.heights[place])
        best[target] = np.maximum.reduceat(overlap, begins)
    return best


def _blocks(targets: Int, each: Int) -> Iterator[Int]:
    """`targets` in consecutive blocks of about PAIRS pairs, so that a split of any size needs the same memory."""
    block = np.cumsum(each[targets]) // PAIRS
    yield from np.split(targets, np.flatnonzero(np.diff(block)) + 1) if len(targets) else ()
