"""predictions.jsonl: one line a scene, the unit of resuming; metrics are always computed from these lines.

    {"scene": "581857", "size": [w, h], "proposals": [[x1, y1, x2, y2], ...] | null, "error": null | "why",
     "predictions": [{"id": "0", "box": [x1, y1, x2, y2] | null, "score": 0.31, "note": ""}, ...]}

Boxes are xyxy pixels of the original image, unclipped, at 6 decimals. "size" is the decoded image's, where the
annotations (index lists) do not have it: predictions are clipped to it. A line with several boxes to an expression,
with rejections, masks or attention is of schema 2: it starts with "schema": 2, and a prediction may have "mask":
{"size": [h, w], "counts": ...} (COCO's run-length encoding), "others": [{"box": [...], "score": 0.2, "mask": {...}},
...], "none": 0.7 (the score that nothing is referred to) and "attention": [rows, columns, cells], a letter for each
cell of a grid over the image (bench/attention.py). Of a chat model a prediction has "answer", its text, and "usage":
[tokens in, tokens out, cost].
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.attention import AttentionMap
from bench.errors import RunError
from bench.grounding import Box, Boxes, Mask, Prediction, ScoredBox
from bench.masks import is_mask, refuse_broken

SCHEMA = 2
isfinite = math.isfinite  # one look-up less a number
Made = TypeVar("Made")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps would make one a line


class LaterSchema(ValueError):
    """A line that a later version wrote: not damaged."""


@dataclass(frozen=True, slots=True)
class SceneAnswers:
    """One stored line; `proposals` (N xyxy boxes) is None for a pipeline that makes none."""

    scene: str
    answers: tuple[Prediction, ...]
    proposals: tuple[Box, ...] | None = None
    error: str | None = None
    size: tuple[int, int] | None = None


def from_predictions(
    scene: str,
    predictions: Sequence[Prediction],
    size: tuple[int, int] | None = None,
    boxes: Iterable[Box | None] | None = None,
    image: tuple[int, ...] | None = None,
) -> SceneAnswers:
    """Make the stored form of a scene's predictions: 6 decimals, and no box for one with a NaN or infinity.

    `boxes` are those of `predictions` from `rounded_boxes`, where a whole batch was rounded at once. Raises ValueError
    for a mask that has not the height and width of `image`, where that is given.
    """
    boxes = rounded_boxes([p.box for p in predictions]) if boxes is None else boxes
    answers = tuple(map(_stored, predictions, boxes))
    for mask in (answer.mask for answer in answers if answer.mask is not None):
        if image is not None and tuple(mask["size"]) != image:
            raise ValueError(f"a mask of {mask['size']} (height, width) on an image of {list(image)}")
    chosen_from = next((p.proposals for p in predictions if p.proposals is not None), None)
    proposals = None if chosen_from is None else tuple(filter(None, rounded_boxes(chosen_from)))
    return SceneAnswers(scene, answers, proposals, size=size)


def _stored(p: Prediction, box: Box | None) -> Prediction:
    score, none = _rounded(p.score), _rounded(p.none)
    if none is not None and not math.isfinite(none):
        raise ValueError(f"none = {p.none!r}, which is no score")
    more: dict[str, Any] = {"none": none, "attention": p.attention, "answer": _text(p.answer), "usage": p.usage}
    if p.mask is None and not p.others:
        return Prediction(p.id, box, score, None, p.note, **more)
    others = tuple(
        ScoredBox(other, _rounded(each.score), _plain_mask(each.mask))
        for each in p.others
        if (other := _rounded_box(each.box))
    )
    return Prediction(p.id, box, score, note=p.note, mask=_plain_mask(p.mask), others=others, **more)


def _text(answer: str) -> str:
    """Replace what a model may write and no file can store: half of a surrogate pair."""
    return answer.encode("utf-8", "replace").decode()


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(float(score), 6)


def rounded_boxes(boxes: Sequence[Sequence[float] | None] | Boxes) -> Iterator[Box | None]:
    """Yield boxes at 6 decimals, as Python rounds them; None for no box or one with a NaN or infinity.

    Raises TypeError or ValueError when it comes to a box that is not four numbers.
    """
    there = boxes if isinstance(boxes, np.ndarray) else [box for box in boxes if box is not None]
    try:
        values = np.asarray(there, np.float64)
    except (TypeError, ValueError, RuntimeError):
        values = np.empty(0)
    if values.shape != (len(there), 4):
        yield from map(_rounded_box, boxes)
        return
    made: list[Box | None] = list(map(tuple, rounded(values).tolist()))
    for at in np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
        made[at] = None
    rest = iter(made)
    yield from made if len(there) == len(boxes) else (None if box is None else next(rest) for box in boxes)


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round an array to 6 decimals, to the values that Python's `round` gives; NaN and infinities stay."""
    with np.errstate(invalid="ignore", over="ignore"):
        millionths = values * 1e6
        nearest = np.rint(millionths)
        # The product is inexact: Python decides where it is near a half, or large.
        sure = (np.abs(millionths - nearest) < 0.499) & (np.abs(millionths) < 1e12) | np.isnan(values)
    result: NDArray[np.float64] = np.asarray(nearest / 1e6)
    for at in np.flatnonzero(~sure).tolist():
        result.flat[at] = round(float(values.flat[at]), 6)
    return result


def _rounded_box(box: Sequence[float] | None) -> Box | None:
    if box is None:
        return None
    x1, y1, x2, y2 = map(float, box)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return None
    return (round(x1, 6), round(y1, 6), round(x2, 6), round(y2, 6))


def _plain_mask(mask: Mask | None) -> Mask | None:
    if mask is None:
        return None
    height, width = mask["size"]
    counts = mask["counts"]
    plain = {"size": [int(height), int(width)], "counts": counts.decode() if isinstance(counts, bytes) else counts}
    refuse_broken([plain], lambda _: "a mask")
    return plain


def dump_line(row: SceneAnswers) -> str:
    """Return one line of predictions.jsonl, newline included."""
    predictions: list[dict[str, Any]] = []
    line: dict[str, Any] = {"scene": row.scene}
    if any(p.others or p.mask or p.attention or p.none is not None for p in row.answers):
        line = {"schema": SCHEMA, **line}
    if row.size is not None:
        line["size"] = row.size
    line |= {"proposals": row.proposals, "error": row.error, "predictions": predictions}
    for p in row.answers:
        plain: dict[str, Any] = {"id": p.id, "box": p.box, "score": p.score}
        if p.note:
            plain["note"] = p.note
        if p.mask:
            plain["mask"] = p.mask
        if p.others:
            plain["others"] = [_dump_box(each) for each in p.others]
        if p.none is not None:
            plain["none"] = p.none
        if p.attention:
            plain["attention"] = p.attention
        if p.answer:
            plain["answer"] = p.answer
        if p.usage:
            plain["usage"] = p.usage
        predictions.append(plain)
    return _encode(line) + "\n"


def _dump_box(each: ScoredBox) -> dict[str, Any]:
    return {"box": each.box, "score": each.score} | ({"mask": each.mask} if each.mask else {})


def read_lines(path: Path) -> Iterator[SceneAnswers]:
    """Load the complete lines of a file; a last line that a kill cut short is left out.

    Raises RunError naming file and line for anything else that is not a row, or is of a later schema.
    """
    with path.open("rb") as file:
        yield from parse_lines(file, path, parse_row)


def parse_row(row: dict[str, Any]) -> SceneAnswers:
    """Return the answers of a line. Raises KeyError, TypeError or ValueError where it is none."""
    if row.get("schema", 1) > SCHEMA:
        raise LaterSchema(f"schema {row['schema']}, and this version reads up to {SCHEMA}")
    if not {type(row["scene"]), *(type(p["id"]) for p in row["predictions"])} <= {str}:
        raise TypeError("an id is no text")
    answers = tuple(
        Prediction(
            p["id"],
            None if p["box"] is None else _box(p["box"]),
            p.get("score"),
            note=p.get("note", ""),
            mask=_mask(p),
            others=tuple(ScoredBox(_box(each["box"]), each.get("score"), _mask(each)) for each in p["others"])
            if "others" in p
            else (),
            none=_finite(p["none"]) if "none" in p else None,
            attention=AttentionMap.stored(p["attention"]) if "attention" in p else None,
            answer=p.get("answer", ""),
            usage=_usage(p["usage"]) if "usage" in p else None,
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


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError("the score that nothing is referred to is not a finite number")
    return float(value)


def _usage(values: Sequence[Any]) -> tuple[int, int, float]:
    tokens_in, tokens_out, cost = values
    if not all(isinstance(value, (int, float)) and isfinite(value) for value in values):
        raise ValueError("usage is not three finite numbers")
    return (int(tokens_in), int(tokens_out), float(cost))


def _mask(answer: dict[str, Any]) -> Mask | None:
    mask: Mask | None = answer.get("mask")
    if mask is not None and not is_mask(mask):
        raise ValueError("a mask is not in COCO's compressed run-length encoding")
    return mask


def _box(values: Sequence[float]) -> Box:
    try:
        x1, y1, x2, y2 = values
        if isfinite(x1) and isfinite(y1) and isfinite(x2) and isfinite(y2):
            return (x1, y1, x2, y2)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError("a box is not four finite numbers")


def parse_lines(
    lines: Iterable[bytes],
    path: Path,
    make: Callable[[Any], Made],
    loads: Callable[[bytes], Any] = json.loads,
    damaged: list[bytes] | None = None,
) -> Iterator[Made]:
    """Make something of each line of a file at `path`, as `read_lines` makes answers.

    `damaged`, where it is given, gets what is no row.
    """
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            row = make(loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if damaged is None or isinstance(error, LaterSchema):
                raise RunError(f"{path}, line {number}: not a row of predictions ({error})") from None
            damaged.append(line)
        else:
            yield row


def count_notes(rows: Iterable[SceneAnswers]) -> list[str]:
    """Count the notes of answers: "38 answers: text cut from 95 to 77 tokens" (the first one's numbers), and tokens."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    used: list[tuple[int, int, float]] = []
    for row in rows:
        for answer in row.answers:
            used += [answer.usage] if answer.usage else []
            for note in filter(None, answer.note.split("; ")):
                kind = re.sub(r"\d+", "#", note)
                counts[kind] += 1
                first.setdefault(kind, note)
    notes = [f"{count:,} answer{'s' * (count > 1)}: {first[kind]}" for kind, count in counts.items()]
    if used:
        tokens_in, tokens_out, cost = map(sum, zip(*used, strict=True))
        price = f", cost {cost:.4f}" if cost else ""
        notes.append(f"{len(used):,} answers: {tokens_in:,} tokens in, {tokens_out:,} tokens out{price}")
    return notes
