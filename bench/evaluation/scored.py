"""Answers scored as an evaluation with a row for every expression, without a model or images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.boxes import clip_xyxy
from bench.datasets.split import Split
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol as protocol_named
from bench.grounding import Box, Mask, Prediction
from bench.runs.numbers import Metrics
from bench.runs.predictions import SceneAnswers
from bench.settings import EvaluationSettings


@dataclass(frozen=True, slots=True)
class ExpressionRow:
    """One expression: its annotated box, the prediction and the outcome.

    Boxes are xyxy pixels; `box` is the best one, clipped to the image, None without a usable one; `truth` is NaN where
    nothing is referred to. `targets` and `boxes` are all that count under a protocol over sets of boxes, where `iou` is
    F1; else it is in the protocol's frame. `error` is the reason why an image could not be decoded; `mask_iou` is None
    where the split or the run has no masks.
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
    mask: Mask | None = None
    mask_iou: float | None = None
    targets: tuple[Box, ...] = ()
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """The result of a pipeline on a split; `folder` is the run's, `proposals` "gt" for annotated ones."""

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
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the accuracy (or [evaluation] confidence) over images; None for too few images."""
        return self.metrics.ci95

    @property
    def mean_iou(self) -> float:
        return self.metrics.mean_iou

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        m = self.metrics
        bounds = "" if m.ci95 is None else f" [{100 * m.ci95[0]:.2f}, {100 * m.ci95[1]:.2f}]"
        few = f" ({m.ci95_note})" if m.ci95_note else ""
        rule = "" if self.protocol == "iou" else f", protocol {self.protocol}"
        given = f", proposals given: {self.proposals}" if self.proposals else ""
        unreadable = f", {m.errors} images unreadable" if m.errors else ""
        part = ", a part of the split" if self.partial else ""
        accuracy, mean = ("Acc@0.5", "mean IoU") if m.several is None else ("F1 = 1", "mean F1")
        return (
            f"<{self.pipeline} on {self.split}: {accuracy} {100 * m.accuracy:.2f} %{bounds}{few}, "
            f"{mean} {100 * m.mean_iou:.2f} %, {m.n:,} expressions{rule}{given}{unreadable}{part}>"
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
    """Score answers about a split under the protocol called `under`. Raises UnknownName, DataError."""
    rule = protocol_named(under)
    results = outcomes(split.scenes, answers, rule)
    by_scene_id = {row.scene: row for row in answers}
    by_id: dict[str, Prediction] = {}
    for line in answers:
        for answer in line.answers:
            by_id.setdefault(answer.id, answer)
    masks = results.masks
    ious = {} if masks is None else dict(zip(masks.expression.tolist(), masks.iou.tolist(), strict=True))
    rows = []
    for number, (expression, place) in enumerate(zip(results.expressions, results.image.tolist(), strict=True)):
        scene = split.scenes[place]
        row, mine = by_scene_id.get(scene.id), by_id.get(expression.id)
        size = (scene.width, scene.height) if scene.width and scene.height else row.size if row else None
        count = int(results.answered[number]) if results.sets is None else int(results.sets.predicted[number])
        made = [_clipped(each.box, size) for each in mine.boxes[:count]] if mine else []
        boxes = tuple(box for box in made if box is not None)
        rows.append(
            ExpressionRow(
                scene=scene.id,
                file=scene.file,
                id=expression.id,
                text=expression.text,
                kind=expression.kind,
                truth=expression.box,
                box=boxes[0] if boxes else None,
                score=mine.score if mine else None,
                iou=float(results.iou[number]),
                hit=bool(results.hit[number]),
                note=mine.note if mine else "",
                error=row.error if row else None,
                mask=mine.mask if mine else None,
                mask_iou=ious.get(number),
                targets=expression.targets,
                boxes=boxes,
            )
        )
    metrics = summary(results, settings)
    return Evaluation(pipeline, split.name, rule.name, metrics, tuple(rows), split.partial, proposals, folder)


def _clipped(box: Box | None, size: tuple[int | None, int | None] | None) -> Box | None:
    if box is None or size is None or size[0] is None or size[1] is None:
        return box
    x1, y1, x2, y2 = np.asarray(clip_xyxy(box, size[0], size[1]), np.float64).tolist()
    return (x1, y1, x2, y2)
