"""A file of answers: JSON Lines, one expression a line, appended as they come and put in order at the end.

    {"id": "street.jpg", "image": "street.jpg", "width": 640, "height": 480, "text": "the red car",
     "box_xyxy": [12.0, 80.5, 210.0, 190.0], "box_xyxy_unclipped": [...], "score": 0.93, "proposals": [...] | null,
     "note": "", "error": null | "why", "pipeline": "yolo-clip", "settings": "1a2b3c4d5e6f7a8b"}

`settings` stands for the options, the weights' hashes, the seed and the precision: a file holds answers of one only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.boxes import clip_xyxy
from bench.errors import RunError
from bench.grounding import Expression, PipelineCard, PipelineContext, Scene
from bench.runs.files import explained, write_atomically
from bench.runs.predictions import Answer
from bench.runs.provenance import settings_hash

Row = dict[str, Any]
BEGINNING = b'{"id": '
WAY_OUT = "name another file with --out, or begin anew with --fresh"


def settings_of(context: PipelineContext, card: PipelineCard) -> str:
    """What must be the same for all answers of a file, as 16 hex digits."""
    held = {
        "pipeline": context.name,
        "options": dict(context.options),
        "weights": {**card.weights, **card.sha256},
        "numeric": [context.device.partition(":")[0], context.dtype, context.seed],
    }
    return settings_hash(held)[:16]


def answered(
    scene: Scene,
    expression: Expression,
    size: tuple[int, int],
    answer: Answer,
    proposals: object,
    by: Mapping[str, str],
) -> Row:
    """The row of an answer; `size` is the picture's (width, height), `by` the keys "pipeline" and "settings"."""
    box = None if answer.box is None else [float(v) for v in clip_xyxy(answer.box, *size).round(6)]
    return {
        "id": expression.id,
        "image": scene.file,
        "width": size[0],
        "height": size[1],
        "text": expression.text,
        "box_xyxy": box,
        "box_xyxy_unclipped": answer.box,
        "score": answer.score,
        "proposals": proposals,
        "note": answer.note,
        "error": None,
        **by,
    }


def unreadable(scene: Scene, expression: Expression, error: str, by: Mapping[str, str]) -> Row:
    """The row of an expression whose picture cannot be read."""
    nothing = dict.fromkeys(("width", "height"))
    return {
        "id": expression.id,
        "image": scene.file,
        **nothing,
        "text": expression.text,
        **dict.fromkeys(("box_xyxy", "box_xyxy_unclipped", "score", "proposals")),
        "note": "",
        "error": error,
        **by,
    }


def dump(rows: Iterable[Row]) -> str:
    """Lines, newlines included; what JSON has no number for (a score of NaN) is null."""
    return "".join(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_answers(path: Path, scenes: Iterable[Scene], by: Mapping[str, str]) -> dict[str, Row]:
    """id -> row of a file that is to be continued; empty where there is none. A line that a kill cut short is left out.

    Raises RunError for what is no row of answers, answers another question, or was answered by other settings: nothing
    of the user's is overwritten or mixed.
    """
    asked = {e.id: (scene.file, e.text) for scene in scenes for e in scene.expressions}
    found: dict[str, Row] = {}
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            question = (row["image"], row["text"])
            name, said = str(row["id"]), {key: row[key] for key in by}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunError(f"{where}: not a row of answers; {WAY_OUT}") from None
        if asked.get(name) != question:
            raise RunError(f"{where}: it answers {question[1]!r} about {question[0]}, which is not asked; {WAY_OUT}")
        if said != dict(by):
            raise RunError(
                f"{where}: answered by {said['pipeline']} with the settings {said['settings']}, now it is "
                f"{by['pipeline']} with {by['settings']} (options, weights, seed or precision differ); {WAY_OUT}"
            )
        found[name] = row
    return found


def write_answers(path: Path, rows: Iterable[Row]) -> None:
    """The whole file at once. Raises RunError."""
    write_atomically(path, dump(rows).encode())


def _lines(path: Path) -> list[bytes]:
    """Complete lines. What a kill cut short begins as our lines do; anything else is somebody else's, and refused.

    Raises RunError.
    """
    if not path.exists():
        return []
    with explained(path):
        *lines, rest = path.read_bytes().split(b"\n")
    torn = rest.startswith(BEGINNING) or BEGINNING.startswith(rest)
    return lines if torn else [*lines, rest]


def _finite(row: Row) -> Row:
    score = row["score"]
    bad = isinstance(score, float) and (score != score or score in (float("inf"), float("-inf")))
    return {**row, "score": None} if bad else row
