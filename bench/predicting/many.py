"""Ground many expressions outside any split: `bench predict` of a folder or a JSONL.

Images are decoded ahead, and each is grounded once for all its expressions. The answers are JSON Lines, one expression
a line, appended as they come and put in order at the end:

    {"id": "street.jpg", "image": "street.jpg", "width": 640, "height": 480, "text": "the red car",
     "box_xyxy": [12.0, 80.5, 210.0, 190.0], "box_xyxy_unclipped": [...], "score": 0.93, "proposals": [...] | null,
     "note": "", "error": null | "why", "pipeline": "yolo-clip", "settings": "1a2b3c4d5e6f7a8b"}

`settings` stands for the options, the weights' hashes, the seed and the precision: a file holds answers of one only.
The same command continues after a kill, and tries images again that could not be read.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench.boxes import clip_xyxy
from bench.errors import RunError, UsageError
from bench.evaluation.answering import Decoded, answers
from bench.evaluation.opening import OpenPipeline, for_device, open_pipeline
from bench.evaluation.progress import message, progress, saying_how_to_go_on
from bench.grounding import ImageSource, Prediction, Scene
from bench.reporting.drawing import draw_answer, save_image
from bench.runs.files import Appender, explained, make_folder, write_atomically
from bench.runs.lock import locked
from bench.runs.predictions import SceneAnswers
from bench.runs.provenance import settings_hash
from bench.settings import Resolved

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".ndjson")
LINE_START = b'{"id": '
HINT = "name another file with --out, or start anew with --fresh"
NAMED = 5  # unreadable images that are named; all of them stand in the file


def answer_many(
    pipeline: str,
    scenes: Sequence[Scene],
    images: ImageSource,
    out: Path,
    resolved: Resolved,
    dataset: str = "file",
    options: Mapping[str, Any] | None = None,
    draw: Path | None = None,
    fresh: bool = False,
    source: Path | None = None,
) -> dict[str, Any]:
    """Ground every expression, write the answers into `out`, and with `draw` an image of each into that folder.

    Returns the summary that `bench predict --json` prints. `fresh` drops what `out` contains; `source` is the file that
    the expressions are from. Raises UsageError, RunError for an `out` of other answers or in use, and what opening and
    running the pipeline raise.
    """
    _check(source, out)
    make_folder(out.parent)
    if draw is not None:
        make_folder(draw)
    with locked(out.with_name(f".{out.name}.lock"), "this file of answers"):
        opened = open_pipeline(pipeline, dataset, resolved, options)
        by = {"pipeline": pipeline, "settings": _settings(opened)}
        rows = {} if fresh else _read(out, scenes, by)
        rows = {name: row for name, row in rows.items() if row["error"] is None}
        _write(out, rows.values())
        kept, drawn, started = len(rows), 0, time.perf_counter()
        left, total = list(_left(scenes, rows, draw)), len(scenes)
        whole = {scene.id: scene for scene in scenes}
        with (
            Appender(out) as file,
            saying_how_to_go_on(f"stopped; the same command continues ({out})"),
            progress(pipeline, total, total - len(left)) as advance,
        ):
            run = for_device(resolved.settings.run, opened.context.device)
            for batch, answered, note in answers(opened.pipeline, left, images, run):
                pairs = zip(batch, answered, strict=True)
                new = [row for decoded, answered in pairs for row in _rows(decoded, answered, by)]
                rows.update((row["id"], row) for row in new)
                file.write(_dump(new))
                if draw is not None:
                    drawn += sum(_draw(decoded, whole[decoded.scene.id], rows, draw) for decoded in batch)
                if note:
                    message(note)
                advance(len(answered))
        order = [e.id for scene in scenes for e in scene.expressions]
        _write(out, (rows[name] for name in order))
    unread = {row["image"]: row["error"] for row in rows.values() if row["error"] is not None}
    for why in list(unread.values())[:NAMED]:
        message(f"unreadable: {why}", error=True)
    return {
        "pipeline": pipeline,
        "out": str(out),
        "images": total,
        "expressions": len(order),
        "new": len(order) - kept,
        "kept": kept,
        "no_box": sum(row["box_xyxy"] is None and row["error"] is None for row in rows.values()),
        "errors": len(unread),
        "drawn": drawn,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _check(source: Path | None, out: Path) -> None:
    """Raise UsageError for an `out` that must not be written."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: the answers are JSON Lines; name a .jsonl file")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name the file to write")
    if source is not None and out.resolve() == source.resolve():
        raise UsageError(f"--out {out} is the file of expressions; name another one")


def _settings(opened: OpenPipeline) -> str:
    """Hash what must be the same for all answers of a file, as 16 hex digits."""
    context, card = opened.context, opened.card
    identity = {
        "pipeline": context.name,
        "options": dict(context.options),
        "weights": {**card.weights, **card.sha256},
        "numeric": [context.device.partition(":")[0], context.dtype, context.seed],
    }
    return settings_hash(identity)[:16]


def _left(scenes: Iterable[Scene], rows: Mapping[str, Row], draw: Path | None) -> Iterator[Scene]:
    """List scenes with something to ground or to draw, with the expressions that have no row yet."""
    for scene in scenes:
        left = tuple(e for e in scene.expressions if e.id not in rows)
        if left or not (draw is None or all((draw / drawn_name(e.id)).exists() for e in scene.expressions)):
            yield replace(scene, expressions=left)


def _rows(decoded: Decoded, answered: SceneAnswers, by: Mapping[str, str]) -> Iterator[Row]:
    """Make a scene's rows, boxes clipped to the image; where that cannot be read, each has the error."""
    scene, image = decoded.scene, decoded.image
    size: Any = (None, None) if image is None else image.shape[1::-1]
    given = answered.answers or [Prediction(e.id, None) for e in scene.expressions]
    for expression, answer in zip(scene.expressions, given, strict=True):
        clipped = None if answer.box is None else clip_xyxy(answer.box, *size).round(6).tolist()
        yield {
            "id": expression.id,
            "image": scene.file,
            "width": size[0],
            "height": size[1],
            "text": expression.text,
            "box_xyxy": clipped,
            "box_xyxy_unclipped": answer.box,
            # JSON has no number for a score of NaN.
            "score": answer.score if answer.score is not None and math.isfinite(answer.score) else None,
            "proposals": answered.proposals,
            "mask": answer.mask,
            "note": answer.note,
            "error": decoded.error if image is None else None,
            **by,
        }


def _draw(decoded: Decoded, whole: Scene, rows: Mapping[str, Row], folder: Path) -> int:
    """Draw the answers of an image that are new or not drawn yet; returns how many."""
    if decoded.image is None:
        return 0
    new, drawn = {e.id for e in decoded.scene.expressions}, 0
    for expression in whole.expressions:
        place, row = folder / drawn_name(expression.id), rows[expression.id]
        if expression.id in new or not place.exists():
            boxes = row["box_xyxy"], row["text"], row["proposals"] or ()
            save_image(draw_answer(decoded.image, *boxes, score=row["score"], mask=row.get("mask")), place)
            drawn += 1
    return drawn


def drawn_name(identifier: str) -> str:
    """Name the file of an expression's drawing: no id leads out of the folder, and no two ids share a name."""
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", identifier).strip("-")[:60]
    return f"{readable}-{sha256(identifier.encode()).hexdigest()[:12]}.jpg".lstrip("-")


def _dump(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _write(path: Path, rows: Iterable[Row]) -> None:
    write_atomically(path, _dump(rows).encode())


def _read(path: Path, scenes: Iterable[Scene], by: Mapping[str, str]) -> dict[str, Row]:
    """Read the rows of a file that is to be continued, by id; a line that a kill cut short is left out.

    Raises RunError for what is no row of answers, answers another expression, or was answered by other settings:
    nothing of the user's is overwritten or mixed.
    """
    expressions = {e.id: (scene.file, e.text) for scene in scenes for e in scene.expressions}
    rows: dict[str, Row] = {}
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, parse_constant=int)  # int("NaN") is a ValueError
            file, text = row["image"], row["text"]
            name, was = str(row["id"]), {key: row[key] for key in by}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunError(f"{where}: not a row of answers; {HINT}") from None
        if expressions.get(name) != (file, text):
            raise RunError(f"{where}: it answers {text!r} about {file}, which is not among the expressions; {HINT}")
        if was != dict(by):
            raise RunError(
                f"{where}: answered by {was['pipeline']} with the settings {was['settings']}, now it is "
                f"{by['pipeline']} with {by['settings']} (options, weights, seed or precision differ); {HINT}"
            )
        rows[name] = row
    return rows


def _lines(path: Path) -> list[bytes]:
    """Split a file into lines, without a torn last one of ours; anything else there is refused later.

    Raises RunError.
    """
    if not path.exists():
        return []
    with explained(path):
        *lines, rest = path.read_bytes().split(b"\n")
    torn = rest.startswith(LINE_START) or LINE_START.startswith(rest)
    return lines if torn else [*lines, rest]
