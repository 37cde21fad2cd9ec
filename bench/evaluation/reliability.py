"""Reliability of pseudo-labels: how far a measurer agrees with each row's own box (spec clipvg.md 4.1, 4.2).

    r = IoU(M(picture, text), the row's box)

A measurer is a pipeline trained on pseudo-labels: on the very rows that it scores (source-specific reliability) or on
those of another source (cross-source). Pictures are prepared and shown as in an evaluation, and the IoU is that of a
run's protocol, by default `iou`: in pixels of the picture, its box clipped to the picture.

The official scorer is close to the protocol `letterbox-clamped`, which differs in two ways: the row's box is cut to
whole pixels, and the measurer's is clamped to the padded square that the network saw, so that what it answers in the
padding still counts against it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.evaluation.answering import Advance, Gather, gathered
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Box, PictureSource, Pipeline, Scene
from bench.runs.predictions import SceneAnswers
from bench.settings import RunSettings

log = logging.getLogger("bench.label")


class Reliability(NamedTuple):
    """Of one row: the IoU in 0..1, and the measurer's box as it said it, xyxy pixels of the picture and unclipped.

    Without a box (None), or with one that encloses nothing, the IoU is 0.
    """

    iou: float
    box: Box | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Expression id -> its reliability, in the order of the scenes, and how many rows are 0 because of no answer.

    `sizes` (scene id -> width, height) are those of pictures whose size was not annotated.
    """

    rows: Mapping[str, Reliability]
    no_box: int = 0
    unreadable: int = 0  # rows about pictures that cannot be read
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def reliability(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    pictures: PictureSource,
    settings: RunSettings,
    index: int = 0,
    count: int = 1,
    gather: Gather | None = None,
    under: str = "iou",
) -> dict[str, Reliability]:
    """Expression id -> reliability, for every row of `scenes`, in their order.

    `index`, `count` and `gather` share the work among processes as in `bench.evaluation.validation.validate`; every
    process returns the same rows. `under` names the protocol. No box, a NaN and a picture that cannot be read are
    reliability 0, and the log says how many. Raises what `measure` raises.
    """
    return dict(measure(pipeline, scenes, pictures, settings, index, count, gather, under).rows)


def measure(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    pictures: PictureSource,
    settings: RunSettings,
    index: int = 0,
    count: int = 1,
    gather: Gather | None = None,
    under: str = "iou",
    advance: Advance | None = None,
) -> Measured:
    """`reliability`, with its counts; `advance` is told of every batch how many pictures it held.

    Raises UnknownName for the protocol, DataError when there is no row or no picture can be read, BenchError when the
    gathered shares are not all scenes, and what `answers` raises.
    """
    rule = protocol(under)
    scenes, answered = gathered(pipeline, scenes, pictures, settings, "label", log, index, count, gather, advance)
    # Unread pictures are left out of the comparison: a protocol may need a size that nobody knows.
    unread = {row.scene for row in answered if row.error is not None}
    read = [row for row in answered if row.error is None]
    found = outcomes([scene for scene in scenes if scene.id not in unread], read, rule)
    overlaps = found.iou.clip(0.0, 1.0).tolist()
    known = {e.id: r for e, r in zip(found.expressions, overlaps, strict=True)}
    boxes = _first_boxes(read)
    every = [(e.id, scene.id in unread) for scene in scenes for e in scene.expressions]
    rows = {name: Reliability(known.get(name, 0.0), boxes.get(name)) for name, _ in every}
    no_box = int((~found.answered).sum())
    if no_box and index == 0:
        name = pipeline.card.name
        log.warning("label: %s gives no box for %d of %d rows, which count as 0", name, no_box, len(rows))
    sizes = {row.scene: row.size for row in read if row.size is not None}
    return Measured(rows, no_box, sum(lost for _, lost in every), sizes)


def _first_boxes(answered: Sequence[SceneAnswers]) -> dict[str, Box | None]:
    """What was answered to each expression; of two answers the first counts, as in a run."""
    boxes: dict[str, Box | None] = {}
    for row in answered:
        for answer in row.answers:
            boxes.setdefault(answer.id, answer.box)
    return boxes
