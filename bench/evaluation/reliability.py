"""Reliability of pseudo-labels: how far a scorer agrees with each row's own box (CLIP-VG, section III-C).

    r = IoU(M(image, text), the row's box)

M is a pipeline trained on pseudo-labels: the very rows that it scores (source-specific reliability) or those of another
source (cross-source). The IoU is that of a run's protocol, by default `iou`. The official scorer is close to
`letterbox-clamped`, but cuts the row's box to whole pixels and clamps its own box to the padded square.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.evaluation.answering import Gather, gather_answers
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Box, ImageSource, Pipeline, Scene
from bench.settings import RunSettings

log = logging.getLogger("bench.label")


class Reliability(NamedTuple):
    """One row: the IoU in 0..1 (0 without a usable box), and the scorer's box, xyxy pixels, unclipped."""

    iou: float
    box: Box | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Expression id -> its reliability, in the order of the scenes, and how many rows are 0 because of no answer.

    `sizes` (scene id -> width, height) are those of images whose size was not annotated.
    """

    rows: Mapping[str, Reliability]
    no_box: int = 0
    unreadable: int = 0  # rows about images that cannot be read
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def measure(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    images: ImageSource,
    settings: RunSettings,
    index: int = 0,
    count: int = 1,
    gather: Gather | None = None,
    under: str = "iou",
    title: str = "",
    store: Path | None = None,
) -> Measured:
    """Measure the reliability of every row of `scenes`, under the protocol called `under`.

    `index`, `count`, `gather`, `title` and `store` are those of `gather_answers`; every process returns the same rows.
    No box, a NaN and an image that cannot be decoded are reliability 0, and are counted in the log. Raises UnknownName
    for the protocol and what `gather_answers` raises.
    """
    rule = protocol(under)
    scenes, answered = gather_answers(
        pipeline, scenes, images, settings, "label", log, index, count, gather, title, store
    )
    # 1. Compare what has an image: a protocol may need the size of it.
    unreadable = {row.scene for row in answered if row.error is not None}
    rows_read = [row for row in answered if row.error is None]
    results = outcomes([scene for scene in scenes if scene.id not in unreadable], rows_read, rule)
    overlaps = results.iou.clip(0.0, 1.0).tolist()
    known = {e.id: r for e, r in zip(results.expressions, overlaps, strict=True)}
    # 2. One reliability a row, 0 without an answer.
    boxes: dict[str, Box | None] = {}
    for answer in (answer for row in rows_read for answer in row.answers):
        boxes.setdefault(answer.id, answer.box)  # of two answers the first counts, as in a run
    every = [(e.id, scene.id in unreadable) for scene in scenes for e in scene.expressions]
    rows = {name: Reliability(known.get(name, 0.0), boxes.get(name)) for name, _ in every}
    no_box = int((~results.answered).sum())
    if no_box and index == 0:
        name = pipeline.card.name
        log.warning("label: %s gives no box for %d of %d rows, which count as 0", name, no_box, len(rows))
    sizes = {row.scene: row.size for row in rows_read if row.size is not None}
    return Measured(rows, no_box, sum(lost for _, lost in every), sizes)
