"""Align rows of imported predictions with a split's expressions, by ids or by row numbers.

A row number is the expression's position in the split's original order, from 0. Splits prepared from index lists keep
it as the id, and a JSONL without ids the line's number, from 1; for others it counts expressions in the order of their
scenes. Keys are row numbers only where the file (a "row" field) or the user (`--key row`) says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bench.datasets.annotations import annotations_of
from bench.datasets.fingerprint import image_key
from bench.datasets.split import Split
from bench.errors import DataError
from bench.grounding import ScoredBox
from bench.imported.box_files import BoxRows, read_boxes
from bench.imported.frames import refuse_wrong_frame
from bench.runs.answers import Answers, dump_answers
from bench.runs.predictions import rounded
from bench.runs.store import store_lines

Key = Literal["auto", "id", "row"]
KeyedBy = Literal["id", "row"]
MOST_MISSING = 0.01  # share of the expressions; a file that lacks more rows, and more than one, is a part


@dataclass(slots=True)
class Alignment:
    """The answers that the rows became, a line a scene; notes of some by their position; keys of rows without a place.

    `missing` are ids of expressions that no row is about, `extra` and `other_image` keys of rows. `in_scene_order`
    says that row numbers were counted in the order of the scenes, the split having no other. `nothing_detected` counts
    expressions without a detection in a file of detections.
    """

    keyed_by: KeyedBy
    in_scene_order: bool
    answers: Answers
    notes: dict[int, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    other_image: list[str] = field(default_factory=list)
    duplicates: int = 0
    nothing_detected: int = 0

    def store(self, folder: Path) -> None:
        """Write the answers as a run's predictions.jsonl. Raises RunError."""
        store_lines(folder, dump_answers(self.answers, self.notes))


def align_file(path: Path, split: Split, key: Key, xywh: bool, partial: bool = False) -> Alignment:
    """Align the boxes of a file with `split`; `partial` takes one without rows for many expressions.

    Raises DataError for such a file, for one of whose boxes more than 2 % are none as they are read, and what
    `read_boxes` and `align` raise.
    """
    aligned = align(read_boxes(path, xywh, "row" if key == "row" else "id"), split, key, str(path))
    refuse_wrong_frame(path, split, aligned.answers, xywh)
    expressions, lacking = split.counts.expressions, len(aligned.missing)
    if lacking > max(1, MOST_MISSING * expressions) and not partial:
        raise DataError(
            f"{path}: has rows for {expressions - lacking:,} of the {expressions:,} expressions of {split.name} (the "
            f"first without one: {aligned.missing[0]!r}); give null for an expression without a box, or pass "
            "--partial, which counts the others as misses in a run that no table shows"
        )
    return aligned


def align(boxes: tuple[BoxRows, int], split: Split, key: Key = "auto", where: str = "the file") -> Alignment:
    """Align rows, and the number of doubled keys, with `split`; a row of another image becomes a miss with a note.

    Raises DataError, with examples and what to pass, when no key fits or the keys could be read in two ways.
    """
    rows, doubled = boxes
    known = annotations_of(split.scenes)
    position, count = known.position, len(known.position)
    order = list(position)
    numbered = all(str(i) in position for i in range(count))
    lines = all(str(i + 1) in position for i in range(count))
    if lines:
        order.sort(key=int)
    keyed_by = _keyed_by(rows, key, where)
    if keyed_by == "id" or numbered:
        _refuse_shifted(rows, position.keys(), numbered, key, where, split.name)
    # 1. Each row goes to its expression, the first one where several do: (N,) rows, -1 without one.
    ids = rows.keys if keyed_by == "id" else [_id_of_row(each, order, numbered, where) for each in rows.keys]
    number = np.array([position.get(each, -1) for each in ids], np.int64)
    placed = np.flatnonzero(number >= 0)[::-1]
    chosen = np.full(count, -1)
    chosen[number[placed]] = placed
    with_row = int((chosen >= 0).sum())
    missing = [at for at in order if chosen[position[at]] < 0] if with_row < count and not rows.detections else []
    # 2. Of the expressions with a row (A): a row of another image is a miss. Of detections all have one, or nothing.
    here = np.flatnonzero((chosen >= 0) | rows.detections)
    chosen, image = chosen[here], known.image[here]
    answers, other = np.where(chosen[:, None] < 0, np.nan, rows.boxes[chosen]), []
    for at in chosen.argsort().tolist() if any(rows.images) else ():
        named = rows.images[chosen[at]]
        if named is not None and image_key(named) != image_key(known.files[image[at]]):
            other.append(at)
    answers[other] = np.nan
    lost = {*other}
    scores = [None if row < 0 else rows.scores[row] for row in chosen.tolist()]
    names = list(position)
    aligned = Alignment(
        keyed_by,
        in_scene_order=keyed_by == "row" and not (numbered or lines),
        answers=Answers(
            scenes=known.scenes,
            sizes=[None] * len(known.scenes),
            errors=[None] * len(known.scenes),
            line=image,
            ids=[names[at] for at in here.tolist()],
            boxes=rounded(answers),
            scores=np.array([np.nan if score is None else round(score, 6) for score in scores], np.float64),
            counts=np.full(len(known.scenes), -1),
            masks={
                at: rows.masks[row] for at, row in enumerate(chosen.tolist()) if row in rows.masks and at not in lost
            },
            others={
                at: tuple(map(_rounded, rows.others[row]))
                for at, row in enumerate(chosen.tolist())
                if row in rows.others and at not in lost
            },
            none={
                at: 1.0 for at, row in enumerate(chosen.tolist()) if (row < 0 or row in rows.none) and at not in lost
            },
        ),
        notes={at: f"the row is about another image: {rows.images[chosen[at]]}" for at in other},
        missing=missing,
        extra=[rows.keys[at] for at in np.flatnonzero(number < 0).tolist()],
        other_image=[rows.keys[chosen[at]] for at in other],
        duplicates=doubled + len(placed) - with_row,
        nothing_detected=count - with_row if rows.detections else 0,
    )
    _refuse_strangers(rows, with_row, aligned, order, key, where, split.name)
    return aligned


def _rounded(each: ScoredBox) -> ScoredBox:
    """Round a box and its score to the 6 decimals that runs store."""
    x1, y1, x2, y2 = rounded(np.array(each.box)).tolist()
    return ScoredBox((x1, y1, x2, y2), None if each.score is None else round(each.score, 6))


def _keyed_by(rows: BoxRows, key: Key, where: str) -> KeyedBy:
    """Decide what the rows' keys are: as the user says, else as the file says; those of a JSON object are ids."""
    kinds = {*rows.by}
    if kinds == {"id", "row"}:
        raise DataError(f"{where}: some entries have an 'id' and others only a 'row'; give all of them the same")
    if key == "auto":
        return "row" if kinds == {"row"} else "id"
    if kinds == {"id" if key == "row" else "row"}:
        raise DataError(f"{where}: its entries have no {key!r}; leave out --key {key}")
    return key


def _id_of_row(row: str, order: Sequence[str], numbered: bool, where: str) -> str:
    if not (row.isascii() and row.isdigit()):
        raise DataError(f"{where}: row {row!r} is not a row number; expected 0 to {len(order) - 1}")
    number = int(row)
    if numbered:
        return str(number)
    return order[number] if number < len(order) else ""  # no expression is called ""


def _refuse_shifted(rows: BoxRows, ids: Collection[str], numbered: bool, key: Key, where: str, split: str) -> None:
    """Refuse keys that count from the wrong end which would match nearly all ids, each with its neighbour's box."""
    keys = {*rows.keys}
    if not _all_digits(rows.keys):
        return
    if numbered and "0" not in keys and str(len(ids)) in keys and len(keys) > 1:
        raise DataError(f"{where}: its keys count from 1, but the rows of {split} count from 0; subtract 1 from each")
    if not numbered and key == "auto" and "0" in keys and "0" not in ids:
        some = ", ".join(repr(i) for i in list(ids)[:3])
        raise DataError(
            f"{where}: its keys look like row numbers, but the ids of {split} are not (for example {some}); "
            "pass --key row if they count the expressions in the order of the scenes, --key id if they are ids"
        )


def _all_digits(keys: Sequence[str]) -> bool:
    text = "".join(keys)
    return text.isascii() and text.isdigit() and all(keys)


def _refuse_strangers(
    rows: BoxRows, placed: int, aligned: Alignment, order: Sequence[str], key: Key, where: str, split: str
) -> None:
    """Refuse boxes that have nothing to do with the split: they are not a score of 0."""
    if placed and len(aligned.other_image) == placed:
        first = rows[list(rows.keys).index(aligned.other_image[0])]
        raise DataError(
            f"{where}: every row names another image than its expression's in {split} (first: {first.key!r} names "
            f"{first.image!r}); these boxes belong to another split, or its rows are in another order"
        )
    numeric = aligned.keyed_by == "id" and _all_digits(rows.keys)
    by_accident = (
        numeric
        and key == "auto"
        and placed * 2 < len(rows)
        and not (_all_digits(order) and max(map(int, order)) < len(order))
    )
    if placed and not by_accident:
        return
    theirs, ours = (", ".join(repr(k) for k in keys[:3]) for keys in (rows.keys, order))
    hint = "pass --key row if they are row numbers, --key id if they are ids" if numeric else "is it another split's?"
    raise DataError(
        f"{where}: {placed} of {len(rows)} keys are {aligned.keyed_by}s of {split} (its keys: {theirs}, ...; "
        f"the {aligned.keyed_by}s of {split}: {ours if aligned.keyed_by == 'id' else f'0 to {len(order) - 1}'}); {hint}"
    )
