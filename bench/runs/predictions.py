"""predictions.jsonl: one line a scene, the unit of resuming; metrics are always computed from these lines.

    {"scene": "581857", "size": [w, h], "proposals": [[x1, y1, x2, y2], ...] | null, "error": null | "why",
     "predictions": [{"id": "0", "box": [x1, y1, x2, y2] | null, "score": 0.31, "note": ""}, ...]}

Boxes are xyxy pixels of the original image, unclipped, at 6 decimals. "size" is the decoded image's, where the
annotations (index lists) do not know it: predictions are clipped to it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.grounding import Box, Prediction


@dataclass(frozen=True, slots=True)
class Answer:
    """One stored prediction."""

    id: str
    box: Box | None
    score: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class SceneAnswers:
    """One stored line; `proposals` (N xyxy boxes) is None for a pipeline that makes none."""

    scene: str
    answers: tuple[Answer, ...]
    proposals: tuple[Box, ...] | None = None
    error: str | None = None
    size: tuple[int, int] | None = None


def from_predictions(
    scene: str, predictions: Sequence[Prediction], size: tuple[int, int] | None = None
) -> SceneAnswers:
    """What a pipeline answered about one scene, rounded to 6 decimals; a box with a NaN or infinity becomes no box."""
    answers = tuple(
        Answer(p.id, _rounded(p.box), None if p.score is None else round(float(p.score), 6), p.note)
        for p in predictions
    )
    boxes = next((p.proposals for p in predictions if p.proposals is not None), None)
    proposals = None if boxes is None else tuple(b for b in (_rounded(tuple(row)) for row in boxes.tolist()) if b)
    return SceneAnswers(scene, answers, proposals, size=size)


def _rounded(box: Sequence[float] | None) -> Box | None:
    if box is None or not all(math.isfinite(v) for v in box):
        return None
    x1, y1, x2, y2 = (round(float(v), 6) for v in box)
    return (x1, y1, x2, y2)


def dump_line(row: SceneAnswers) -> str:
    """One line of predictions.jsonl, newline included."""
    predictions = [
        {"id": a.id, "box": a.box, "score": a.score} | ({"note": a.note} if a.note else {}) for a in row.answers
    ]
    size = {} if row.size is None else {"size": row.size}
    line = {"scene": row.scene, **size, "proposals": row.proposals, "error": row.error, "predictions": predictions}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def read_lines(path: Path) -> Iterator[SceneAnswers]:
    """Load the complete lines of a file; a last line that a kill cut short is left out.

    Raises RunError naming file and line for anything else that is not a row.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _parse(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path}, line {number}: not a row of predictions ({error})") from None


def _parse(row: dict[str, Any]) -> SceneAnswers:
    answers = tuple(
        Answer(p["id"], None if p["box"] is None else _box(p["box"]), p.get("score"), p.get("note", ""))
        for p in row["predictions"]
    )
    proposals, size = row.get("proposals"), row.get("size")
    return SceneAnswers(
        row["scene"],
        answers,
        None if proposals is None else tuple(_box(b) for b in proposals),
        row.get("error"),
        None if size is None else (int(size[0]), int(size[1])),
    )


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = values
    return (x1, y1, x2, y2)


def noted(rows: Iterable[SceneAnswers]) -> list[str]:
    """What the answers say of themselves, counted: "38 answers: text cut from 95 to 77 tokens" (the first one's)."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        for answer in row.answers:
            for note in filter(None, answer.note.split("; ")):
                kind = re.sub(r"\d+", "#", note)
                counts[kind] += 1
                first.setdefault(kind, note)
    return [f"{count:,} answer{'s' * (count > 1)}: {first[kind]}" for kind, count in counts.items()]
