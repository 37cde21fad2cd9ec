"""Check that the boxes of the timed pass are those of the accuracy pass (MLPerf's TEST01)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench.boxes import clip_xyxy, iou_elementwise
from bench.errors import RunError
from bench.evaluation.answering import answers
from bench.evaluation.opening import OpenPipeline, for_device
from bench.grounding import Box, Expression, Prediction
from bench.runs.record import Identity, read_record, runs_of
from bench.runs.store import stored_rows
from bench.speed.record import BoxCheck
from bench.speed.resident import Resident

SAMPLE = 100  # expressions, at least
TOLERANCE, COARSE = 1e-4, 1e-2  # of the image's long side: in float32, and in 16 bits, which hold 2 or 3 digits
TIES = 0.02  # share that may differ in 16 bits, where proposals that are all but equally likely change places
NAMED = 20  # differing ids in a record
HIT = 0.5
Boxed = Mapping[str, Prediction]  # expression id -> what was answered
T = TypeVar("T")


def against_accuracy(opened: OpenPipeline, resident: Resident, timed: Boxed, dtype: str) -> BoxCheck:
    """Compare the timed pass with the accuracy pass: the harness's own batches, real ids.

    On scenes spread over those that were timed, with SAMPLE expressions at least or all there are.
    """
    scenes = [scene for scene in resident.scenes if any(e.id in timed for e in scene.expressions)]
    sample = spread_over(scenes, [len(scene.expressions) for scene in scenes], SAMPLE)
    settings = for_device(opened.resolved.settings.run, opened.context.device)
    rows = [row for _, answered, _ in answers(opened.pipeline, sample, resident, settings) for row in answered]
    expected = {answer.id: answer for row in rows for answer in row.answers}
    return compare(f"the accuracy pass, {settings.batch_size} images a batch", resident, expected, timed, dtype)


def against_run(resident: Resident, timed: Boxed, identity: Identity, results: Path) -> BoxCheck | None:
    """Compare the timed pass with the latest finished run of the same identity; None without one under `results`."""
    fitting, data = [], identity.data
    folders = {runs_of(results, identity.pipeline, data.split, digits) for digits in (data.fingerprint, "")}
    for path in sorted(path for folder in folders for path in folder.glob("*/run.json")):
        try:
            record = read_record(path.parent)
        except RunError:  # of another schema
            continue
        if (record.status, record.provenance, record.identity) == ("complete", "run", identity):
            fitting.append((record.finished or "", path.parent))
    if not fitting:
        return None
    run = max(fitting)[1]
    expected = {answer.id: answer for row in stored_rows(run).values() for answer in row.answers}
    name = f"the run {run.relative_to(results).as_posix()}"
    return compare(name, resident, expected, timed, identity.dtype)


def compare(against: str, resident: Resident, expected: Boxed, timed: Boxed, dtype: str) -> BoxCheck:
    """Count the expressions that both answered with the same box and the same hit decision."""
    exact = dtype == "float32"
    tolerance = TOLERANCE if exact else COARSE
    differing, n = [], 0
    for loaded, scene in zip(resident.loaded, resident.scenes, strict=True):
        height, width = loaded.image.shape[:2]
        for expression in scene.expressions:
            if expression.id not in expected or expression.id not in timed:
                continue
            n += 1
            one, other = expected[expression.id].box, timed[expression.id].box
            hits = [hit(box, expression, (width, height)) for box in (one, other)]
            if hits[0] != hits[1] or not close(one, other, max(width, height), tolerance):
                differing.append(expression.id)
    return BoxCheck(
        against=against,
        n=n,
        equal=n - len(differing),
        allowed=0 if exact else int(TIES * n),
        tolerance=tolerance,
        differing=tuple(differing[:NAMED]),
    )


def close(one: Box | None, other: Box | None, side: float, tolerance: float = TOLERANCE) -> bool:
    """Check that no edge is further apart than `tolerance` times `side`; no usable box is like no usable box."""
    boxes = [None if box is None or not np.isfinite(box).all() else np.asarray(box, np.float64) for box in (one, other)]
    if boxes[0] is None or boxes[1] is None:
        return boxes[0] is boxes[1]
    return bool(np.abs(boxes[0] - boxes[1]).max() <= tolerance * side)


def hit(box: Box | None, expression: Expression, size: tuple[int, int]) -> bool:
    """Check IoU >= 0.5 with a right box, the answer clipped to the image of `size` (width, height)."""
    if box is None or not np.isfinite(box).all():
        return False
    clipped = clip_xyxy(box, *size)
    return any(float(iou_elementwise(clipped, right)) >= HIT for right in expression.targets)


def spread_over(items: Sequence[T], counts: Sequence[int], least: int) -> list[T]:
    """Pick as few items as reach `least` by their counts, evenly spaced; all of them where that is too few."""
    for step in range(len(items), 0, -1):
        if sum(counts[::step]) >= least:
            return list(items[::step])
    return list(items)
