"""An evaluation as a caller of the library holds it: the numbers, and a row for every expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.boxes import clip_xyxy
from bench.datasets.split import Split
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Box
from bench.runs.predictions import Answer, SceneAnswers
from bench.runs.record import Metrics
from bench.settings import EvaluationSettings


@dataclass(frozen=True, slots=True)
class ExpressionRow:
    """One expression: what was asked, the annotated box, the answer, and what became of it.

    Boxes are xyxy in pixels of the picture; `box` is clipped to it, and None where there was no usable answer. `iou` is
    in the protocol's frame, `error` says why a picture could not be read.
    """

    scene: str
    file: str
    id: str
    text: str
    kind: str | None
    truth: Box
    box: Box | None
    score: float | None
    iou: float
    hit: bool
    note: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """What a pipeline reached on a split. `metrics` has every number and stratum, `rows` every expression in order.

    `folder` is the run's, where it was stored; `proposals` says what was given to choose from ("gt").
    """

    pipeline: str
    split: str
    protocol: str
    metrics: Metrics
    rows: tuple[ExpressionRow, ...]
    partial: bool = False
    proposals: str = ""
    folder: Path | None = None

    @property
    def accuracy(self) -> float:
        """Acc@0.5, a fraction."""
        return self.metrics.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval (or what [evaluation] confidence says), from a bootstrap over pictures."""
        return self.metrics.ci95

    @property
    def mean_iou(self) -> float:
        return self.metrics.mean_iou

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        found = self.metrics
        low, high = (f"{100 * bound:.2f}" for bound in found.ci95)
        rule = "" if self.protocol == "iou" else f", protocol {self.protocol}"
        given = f", proposals given: {self.proposals}" if self.proposals else ""
        unread = f", {found.errors} pictures unreadable" if found.errors else ""
        part = ", a part of the split" if self.partial else ""
        return (
            f"<{self.pipeline} on {self.split}: Acc@0.5 {100 * found.accuracy:.2f} % [{low}, {high}], "
            f"mean IoU {100 * found.mean_iou:.2f} %, {found.n:,} expressions{rule}{given}{unread}{part}>"
        )


def scored(
    pipeline: str,
    split: Split,
    answers: Sequence[SceneAnswers],
    under: str,
    settings: EvaluationSettings,
    proposals: str = "",
    folder: Path | None = None,
) -> Evaluation:
    """Answers about a split -> the evaluation under the protocol called `under`. Raises UnknownName, DataError."""
    rule = protocol(under)
    found = outcomes(split.scenes, answers, rule)
    said = {row.scene: row for row in answers}
    by_id: dict[str, Answer] = {}
    for line in answers:
        for answer in line.answers:
            by_id.setdefault(answer.id, answer)
    rows = []
    for number, (expression, place) in enumerate(zip(found.expressions, found.picture.tolist(), strict=True)):
        scene = split.scenes[place]
        row, mine = said.get(scene.id), by_id.get(expression.id)
        size = (scene.width, scene.height) if scene.width and scene.height else row.size if row else None
        rows.append(
            ExpressionRow(
                scene=scene.id,
                file=scene.file,
                id=expression.id,
                text=expression.text,
                kind=expression.kind,
                truth=expression.box,
                box=_clipped(mine.box, size) if mine and found.answered[number] else None,
                score=mine.score if mine else None,
                iou=float(found.iou[number]),
                hit=bool(found.hit[number]),
                note=mine.note if mine else "",
                error=row.error if row else None,
            )
        )
    metrics = summary(found, split.scenes, rule, settings)
    return Evaluation(pipeline, split.name, rule.name, metrics, tuple(rows), split.partial, proposals, folder)


def _clipped(box: Box | None, size: tuple[int | None, int | None] | None) -> Box | None:
    if box is None or size is None or size[0] is None or size[1] is None:
        return box
    x1, y1, x2, y2 = np.asarray(clip_xyxy(box, size[0], size[1]), np.float64).tolist()
    return (x1, y1, x2, y2)
