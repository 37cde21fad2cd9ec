"""Answers scored without a model or images: a finished run again, or an evaluation with a row for every expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.boxes import clip_xyxy
from bench.datasets.load import load_split
from bench.datasets.split import Split
from bench.errors import RunError
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import outcomes, store_outcomes
from bench.evaluation.protocols import protocol as protocol_named
from bench.grounding import Box, Prediction
from bench.runs.predictions import SceneAnswers
from bench.runs.record import FILE, Metrics, RunRecord, read_record, signature, split_command
from bench.runs.store import lock_of, stored_rows, write_packed
from bench.settings import EvaluationSettings, Resolved


@dataclass(frozen=True, slots=True)
class ExpressionRow:
    """One expression: its annotated box, the prediction and the outcome.

    Boxes are xyxy pixels; `box` is clipped to the image, None without a usable one. `iou` is in the protocol's frame,
    `error` is the reason why an image could not be decoded.
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
        return (
            f"<{self.pipeline} on {self.split}: Acc@0.5 {100 * m.accuracy:.2f} %{bounds}{few}, "
            f"mean IoU {100 * m.mean_iou:.2f} %, {m.n:,} expressions{rule}{given}{unreadable}{part}>"
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
    rows = []
    for number, (expression, place) in enumerate(zip(results.expressions, results.image.tolist(), strict=True)):
        scene = split.scenes[place]
        row, mine = by_scene_id.get(scene.id), by_id.get(expression.id)
        size = (scene.width, scene.height) if scene.width and scene.height else row.size if row else None
        rows.append(
            ExpressionRow(
                scene=scene.id,
                file=scene.file,
                id=expression.id,
                text=expression.text,
                kind=expression.kind,
                truth=expression.box,
                box=_clipped(mine.box, size) if mine and results.answered[number] else None,
                score=mine.score if mine else None,
                iou=float(results.iou[number]),
                hit=bool(results.hit[number]),
                note=mine.note if mine else "",
                error=row.error if row else None,
            )
        )
    metrics = summary(results, settings)
    return Evaluation(pipeline, split.name, rule.name, metrics, tuple(rows), split.partial, proposals, folder)


def _clipped(box: Box | None, size: tuple[int | None, int | None] | None) -> Box | None:
    if box is None or size is None or size[0] is None or size[1] is None:
        return box
    x1, y1, x2, y2 = np.asarray(clip_xyxy(box, size[0], size[1]), np.float64).tolist()
    return (x1, y1, x2, y2)


def rescore(
    folder: Path, resolved: Resolved, protocol: str | None = None, split: str | None = None, keep: bool = False
) -> RunRecord:
    """Compute a finished run's metrics again; its own protocol gives exactly its own metrics.

    `split` names the split where the record's name does not lead to it (people's own data that moved); `keep` writes
    the outcomes, packs the run's files, and puts the intervals into run.json. Raises RunError when the run is
    unfinished, when the split is not the one it answered, or when what is to be kept is not what the record says;
    UnknownName, DataError.
    """
    record = read_record(folder)
    if record.status != "complete":
        raise RunError(f"{folder}: the run is not finished; start its command again to continue it, then score it")
    rule = protocol_named(protocol or record.protocol)
    data = split_of(folder, record, split, resolved)
    settings = record.metrics.bootstrap if record.metrics else resolved.settings.evaluation
    results = outcomes(data.scenes, stored_rows(folder).values(), rule)
    metrics = summary(results, settings)
    again = record.model_copy(
        update={
            "protocol": rule.name,
            "signature": signature(rule.name, record.identity.data, rule.hits_at, record.proposals),
            "metrics": metrics,
        }
    )
    if keep:
        _refuse_other_numbers(folder, record, metrics, rule.name)
        with lock_of(folder):
            store_outcomes(folder, results)
            again = write_packed(folder, again)  # perhaps with another version's intervals made anew
    return again


def _refuse_other_numbers(folder: Path, record: RunRecord, now: Metrics, protocol: str) -> None:
    """Raise RunError when outcomes would not be those that run.json counts."""
    if protocol != record.protocol:
        raise RunError(
            f"{folder}: was run under {record.protocol!r}, and its outcomes are kept under that protocol, not under "
            f"{protocol!r}; leave --protocol out"
        )
    if record.metrics is not None and (now.n, now.hits) != (record.metrics.n, record.metrics.hits):
        raise RunError(
            f"{folder}: its predictions give {now.hits:,} hits of {now.n:,} here, but run.json says "
            f"{record.metrics.hits:,} of {record.metrics.n:,}; the folder was changed, or made by another version: run "
            "it again"
        )


def split_of(folder: Path, record: RunRecord, named: str | None, resolved: Resolved) -> Split:
    """Load the split of a run, with just its scenes. Raises RunError or DataError where it is not at hand."""
    data = record.identity.data
    name = named or split_command(record)
    if name.startswith(FILE) and not Path(name.removeprefix(FILE)).expanduser().is_file():
        raise RunError(f"{folder}: was run on {name}, which is not here; pass --split file:PATH.jsonl")
    split = load_split(name, resolved)
    if data.partial:
        split = split.limited(data.images)
    if split.fingerprint != data.fingerprint:
        raise RunError(
            f"{folder}: was run on {data.split} with fingerprint {data.fingerprint[:8]} ({data.expressions:,} "
            f"expressions), but {name} here has {split.fingerprint[:8]} ({split.counts.expressions:,}); "
            "prepare the data it was run on, or pass it with --split"
        )
    return split
