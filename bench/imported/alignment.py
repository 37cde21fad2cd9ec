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

from bench.datasets.fingerprint import image_key
from bench.datasets.split import Split
from bench.errors import DataError
from bench.grounding import Prediction
from bench.imported.box_files import BoxRow, read_boxes
from bench.imported.frames import refuse_wrong_frame
from bench.runs.predictions import SceneAnswers, from_predictions

Key = Literal["auto", "id", "row"]
KeyedBy = Literal["id", "row"]
MOST_MISSING = 0.01  # share of the expressions; a file that lacks more rows, and more than one, is a part


@dataclass(slots=True)
class Alignment:
    """The answers that the rows became, and the keys of rows without a place.

    `missing` are ids of expressions that no row is about, `extra` and `other_image` keys of rows. `in_scene_order`
    says that row numbers were counted in the order of the scenes, the split having no other.
    """

    keyed_by: KeyedBy
    in_scene_order: bool
    answers: list[SceneAnswers] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    other_image: list[str] = field(default_factory=list)
    duplicates: int = 0


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


def align(boxes: tuple[Sequence[BoxRow], int], split: Split, key: Key = "auto", where: str = "the file") -> Alignment:
    """Align rows, and the number of doubled keys, with `split`; a row of another image becomes a miss with a note.

    Raises DataError, with examples and what to pass, when no key fits or the keys could be read in two ways.
    """
    rows, doubled = boxes
    homes = {e.id: scene for scene in split.scenes for e in scene.expressions}
    order = list(homes)
    numbered = homes.keys() == {str(i) for i in range(len(order))}
    lines = homes.keys() == {str(i + 1) for i in range(len(order))}
    if lines:
        order.sort(key=int)
    keyed_by = _keyed_by(rows, key, where)
    if keyed_by == "id" or numbered:
        _refuse_shifted(rows, homes.keys(), numbered, key, where, split.name)
    aligned = Alignment(keyed_by, in_scene_order=keyed_by == "row" and not (numbered or lines), duplicates=doubled)
    # Each row goes to its expression, the first one where several do.
    placed: dict[str, Prediction] = {}
    for row in rows:
        at = row.key if keyed_by == "id" else _id_of_row(row, order, numbered, where)
        if at not in homes:
            aligned.extra.append(row.key)
        elif at in placed:
            aligned.duplicates += 1
        elif row.image is None or image_key(row.image) == image_key(homes[at].file):
            placed[at] = Prediction(at, row.box, row.score)
        else:
            aligned.other_image.append(row.key)
            placed[at] = Prediction(at, None, row.score, note=f"the row is about another image: {row.image}")
    _refuse_strangers(rows, len(placed), aligned, order, key, where, split.name)
    aligned.missing = [at for at in order if at not in placed]
    aligned.answers = [
        from_predictions(scene.id, [placed[e.id] for e in scene.expressions if e.id in placed])
        for scene in split.scenes
    ]
    return aligned


def _keyed_by(rows: Sequence[BoxRow], key: Key, where: str) -> KeyedBy:
    """Decide what the rows' keys are: as the user says, else as the file says; those of a JSON object are ids."""
    kinds = {row.by for row in rows}
    if kinds == {"id", "row"}:
        raise DataError(f"{where}: some entries have an 'id' and others only a 'row'; give all of them the same")
    if key == "auto":
        return "row" if kinds == {"row"} else "id"
    if kinds == {"id" if key == "row" else "row"}:
        raise DataError(f"{where}: its entries have no {key!r}; leave out --key {key}")
    return key


def _id_of_row(row: BoxRow, order: Sequence[str], numbered: bool, where: str) -> str:
    if not (row.key.isascii() and row.key.isdigit()):
        raise DataError(f"{where}: row {row.key!r} is not a row number; expected 0 to {len(order) - 1}")
    number = int(row.key)
    if numbered:
        return str(number)
    return order[number] if number < len(order) else ""  # no expression is called ""


def _refuse_shifted(
    rows: Sequence[BoxRow], ids: Collection[str], numbered: bool, key: Key, where: str, split: str
) -> None:
    """Refuse keys that count from the wrong end which would match nearly all ids, each with its neighbour's box."""
    keys = {row.key for row in rows}
    if not all(k.isascii() and k.isdigit() for k in keys):
        return
    if numbered and "0" not in keys and str(len(ids)) in keys and len(keys) > 1:
        raise DataError(f"{where}: its keys count from 1, but the rows of {split} count from 0; subtract 1 from each")
    if not numbered and key == "auto" and "0" in keys and "0" not in ids:
        some = ", ".join(repr(i) for i in list(ids)[:3])
        raise DataError(
            f"{where}: its keys look like row numbers, but the ids of {split} are not (for example {some}); "
            "pass --key row if they count the expressions in the order of the scenes, --key id if they are ids"
        )


def _refuse_strangers(
    rows: Sequence[BoxRow], placed: int, aligned: Alignment, order: Sequence[str], key: Key, where: str, split: str
) -> None:
    """Refuse boxes that have nothing to do with the split: they are not a score of 0."""
    if placed and len(aligned.other_image) == placed:
        first = next(row for row in rows if row.key == aligned.other_image[0])
        raise DataError(
            f"{where}: every row names another image than its expression's in {split} (first: {first.key!r} names "
            f"{first.image!r}); these boxes belong to another split, or its rows are in another order"
        )
    numeric = aligned.keyed_by == "id" and all(row.key.isascii() and row.key.isdigit() for row in rows)
    numbered = all(at.isascii() and at.isdigit() and int(at) < len(order) for at in order)
    by_accident = numeric and not numbered and key == "auto" and placed * 2 < len(rows)
    if placed and not by_accident:
        return
    theirs, ours = (", ".join(repr(k) for k in keys[:3]) for keys in ([row.key for row in rows], order))
    hint = "pass --key row if they are row numbers, --key id if they are ids" if numeric else "is it another split's?"
    raise DataError(
        f"{where}: {placed} of {len(rows)} keys are {aligned.keyed_by}s of {split} (its keys: {theirs}, ...; "
        f"the {aligned.keyed_by}s of {split}: {ours if aligned.keyed_by == 'id' else f'0 to {len(order) - 1}'}); {hint}"
    )
