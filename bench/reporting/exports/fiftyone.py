"""Format annotations and predictions for FiftyOne, as files of its FiftyOneImageDetectionDataset.

    {"classes": null, "labels": {IMAGE: [{"label": TEXT, "bounding_box": [x, y, w, h], "confidence": 0.3,
                                            "attributes": {"expression": ID, ...}}, ...]}}

One file for the annotations (ground_truth.json) and one for each run. IMAGE is a path under the folder of images
without its suffix; boxes are left, top, width and height in shares of the image. The label is the expression.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from bench.boxes import clip_xyxy
from bench.datasets.split import Split
from bench.errors import RunError, UsageError
from bench.evaluation.outcomes import Outcomes, outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Box, Prediction, Scene, ScoredBox
from bench.reporting.boards import Board
from bench.reporting.exports.hub import free_name
from bench.runs.integrity import checked_record, complete_rows
from bench.runs.predictions import SceneAnswers
from bench.runs.record import slug

TRUTH = "ground_truth"


def fiftyone_files(results: Path, board: Board, split: Split) -> dict[str, str]:
    """Return name of a file -> its text, for the runs of one table; `split` is the data they are about.

    Raises RunError where `split` is not the table's data or a run's answers are not about it, and UsageError for
    images of unknown size.
    """
    if split.fingerprint != board.fingerprint:
        raise RunError(
            f"{board.split} here has fingerprint {split.fingerprint[:8]}, but the runs are about "
            f"{board.fingerprint[:8]}; prepare the data they were run on"
        )
    sizes: dict[str, tuple[int, int]] = {s.id: (s.width, s.height) for s in split.scenes if s.width and s.height}
    runs: list[tuple[str, str, dict[str, SceneAnswers]]] = []
    for entry in board.rows:
        folder = results / entry["run_dir"]
        record = checked_record(folder)
        answers = complete_rows(folder, record, split.scenes)
        sizes = {**{row.scene: row.size for row in answers.values() if row.size}, **sizes}
        used = {TRUTH, *(name for name, *_ in runs)}
        runs.append((free_name(slug(entry["pipeline"]) or "run", entry, used), record.protocol, answers))
    if missing := next((scene for scene in split.scenes if scene.id not in sizes), None):
        raise UsageError(
            f"the size of {missing.file} is not annotated and no run has opened it, so its boxes cannot be written in "
            "shares of the image; prepare the data set from refer files, or run a pipeline on its images"
        )
    files = {f"{TRUTH}.json": _dump({_key(s): _annotated(s, sizes[s.id]) for s in split.scenes})}
    for name, rule, answers in runs:
        # `complete_rows` lets through what imported boxes may lack, and nothing else.
        scored = outcomes(split.scenes, answers.values(), protocol(rule), partial=True)
        files[f"{name}.json"] = _dump(_answered(split.scenes, answers, scored, sizes))
    return files


def _key(scene: Scene) -> str:
    return PurePosixPath(scene.file).with_suffix("").as_posix()


def _annotated(scene: Scene, size: tuple[int, int]) -> list[dict[str, Any]]:
    return [
        {
            "label": expression.text,
            "bounding_box": _shares(box, size),
            "attributes": {"expression": expression.id}
            | {k: v for k in ("kind", "category") if (v := getattr(expression, k)) is not None},
        }
        for expression in scene.expressions
        for box in expression.targets
    ]


def _answered(
    scenes: Sequence[Scene], answers: Mapping[str, SceneAnswers], scored: Outcomes, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the boxes of one run, clipped to their images as they were scored."""
    place = {e.id: n for n, e in enumerate(scored.expressions)}
    labels: dict[str, list[dict[str, Any]]] = {}
    for scene in scenes:
        boxes = labels[_key(scene)] = []
        for answer in answers[scene.id].answers if scene.id in answers else ():
            number = place[answer.id]
            predicted = _predicted(answer, number, scored)
            score = {
                "expression": answer.id,
                "iou": round(float(scored.iou[number]), 6),
                "hit": bool(scored.hit[number]),
            }
            width, height = sizes[scene.id]
            for each in predicted:
                x1, y1, x2, y2 = clip_xyxy([each.box], [width], [height])[0].tolist()
                shares = _shares((x1, y1, x2, y2), (width, height))
                entry: dict[str, Any] = {"label": scored.expressions[number].text, "bounding_box": shares}
                entry |= {} if each.score is None else {"confidence": each.score}
                boxes.append(entry | {"attributes": score})
    return labels


def _predicted(answer: Prediction, number: int, scored: Outcomes) -> Sequence[ScoredBox]:
    """Return the boxes of an answer that were scored: the best one, or those of a set that count."""
    if not scored.answered[number]:
        return ()
    if scored.sets is None:
        return answer.boxes[:1]
    return answer.boxes[: int(scored.sets.predicted[number])]  # a threshold takes from the end


def _shares(box: Box, size: tuple[int, int]) -> list[float]:
    """Convert xyxy pixels to left, top, width, height in shares of the image."""
    x1, y1, x2, y2 = box
    width, height = size
    return [round(v, 8) for v in (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)]


def _dump(labels: Mapping[str, Any]) -> str:
    return json.dumps({"classes": None, "labels": labels}, ensure_ascii=False, allow_nan=False) + "\n"
