"""predictions.jsonl: one line a scene, the unit of resuming; metrics are always computed from these lines.

    {"scene": "581857", "size": [w, h], "proposals": [[x1, y1, x2, y2], ...] | null, "error": null | "why",
     "predictions": [{"id": "0", "box": [x1, y1, x2, y2] | null, "score": 0.31, "note": ""}, ...]}

Boxes are xyxy pixels of the original image, unclipped, at 6 decimals. "size" is the decoded image's, where the
annotations (index lists) do not have it: predictions are clipped to it. A line with several boxes to an expression or
with masks is of schema 2: it starts with "schema": 2, and a prediction may have "mask": {"size": [h, w], "counts": ...}
(COCO's run-length encoding) and "others": [{"box": [...], "score": 0.2, "mask": {...}}, ...].
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
from bench.grounding import Box, Mask, Prediction, ScoredBox

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class SceneAnswers:
    """One stored line; `proposals` (N xyxy boxes) is None for a pipeline that makes none."""

    scene: str
    answers: tuple[Prediction, ...]
    proposals: tuple[Box, ...] | None = None
    error: str | None = None
    size: tuple[int, int] | None = None


def from_predictions(
    scene: str, predictions: Sequence[Prediction], size: tuple[int, int] | None = None
) -> SceneAnswers:
    """Make the stored form of a scene's predictions: 6 decimals, and no box for one with a NaN or infinity."""
    answers = tuple(map(_stored, predictions))
    boxes = next((p.proposals for p in predictions if p.proposals is not None), None)
    proposals = None if boxes is None else tuple(b for b in map(_rounded_box, boxes.tolist()) if b)
    return SceneAnswers(scene, answers, proposals, size=size)


def _stored(p: Prediction) -> Prediction:
    others = tuple(
        ScoredBox(box, _rounded(each.score), _plain_mask(each.mask))
        for each in p.others
        if (box := _rounded_box(each.box))
    )
    return Prediction(
        p.id, _rounded_box(p.box), _rounded(p.score), note=p.note, mask=_plain_mask(p.mask), others=others
    )


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(float(score), 6)


def _rounded_box(box: Sequence[float] | None) -> Box | None:
    if box is None:
        return None
    x1, y1, x2, y2 = map(float, box)
    # A sum that is finite needs no look at each number, and this is done for every answer.
    if not math.isfinite(x1 + y1 + x2 + y2) and not all(map(math.isfinite, (x1, y1, x2, y2))):
        return None
    return (round(x1, 6), round(y1, 6), round(x2, 6), round(y2, 6))


def _plain_mask(mask: Mask | None) -> Mask | None:
    if mask is None:
        return None
    height, width = mask["size"]
    counts = mask["counts"]
    return {"size": [int(height), int(width)], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def dump_line(row: SceneAnswers) -> str:
    """Return one line of predictions.jsonl, newline included."""
    several = any(p.others or p.mask for p in row.answers)
    line = {
        **({"schema": SCHEMA} if several else {}),
        "scene": row.scene,
        **({} if row.size is None else {"size": row.size}),
        "proposals": row.proposals,
        "error": row.error,
        "predictions": [
            {"id": p.id, "box": p.box, "score": p.score}
            | ({"note": p.note} if p.note else {})
            | ({"mask": p.mask} if p.mask else {})
            | ({"others": [_dump_box(each) for each in p.others]} if p.others else {})
            for p in row.answers
        ],
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def _dump_box(each: ScoredBox) -> dict[str, Any]:
    return {"box": each.box, "score": each.score} | ({"mask": each.mask} if each.mask else {})


def read_lines(path: Path) -> Iterator[SceneAnswers]:
    """Load the complete lines of a file; a last line that a kill cut short is left out.

    Raises RunError naming file and line for anything else that is not a row, or is of a later schema.
    """
    with path.open("rb") as file:
        yield from parse_lines(file, path)


def parse_lines(lines: Iterable[bytes], path: Path) -> Iterator[SceneAnswers]:
    """Parse the lines of a file at `path`, as `read_lines` does."""
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            yield _parse(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}, line {number}: not a row of predictions ({error})") from None


def _parse(row: dict[str, Any]) -> SceneAnswers:
    if row.get("schema", 1) > SCHEMA:
        raise ValueError(f"schema {row['schema']}, and this version reads up to {SCHEMA}")
    answers = tuple(
        Prediction(
            p["id"],
            None if p["box"] is None else _box(p["box"]),
            p.get("score"),
            note=p.get("note", ""),
            mask=p.get("mask"),
            others=tuple(ScoredBox(_box(each["box"]), each.get("score"), each.get("mask")) for each in p["others"])
            if "others" in p
            else (),
        )
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


def count_notes(rows: Iterable[SceneAnswers]) -> list[str]:
    """Count the notes of answers: "38 answers: text cut from 95 to 77 tokens" (the first one's numbers)."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        for answer in row.answers:
            for note in filter(None, answer.note.split("; ")):
                kind = re.sub(r"\d+", "#", note)
                counts[kind] += 1
                first.setdefault(kind, note)
    return [f"{count:,} answer{'s' * (count > 1)}: {first[kind]}" for kind, count in counts.items()]
