"""Annotations of a split as columns: all that scoring needs of its scenes, without an object an expression.

They are built from rows, which are also the lines of a prepared index (bench/datasets/prepared.py):

    [id, file, width, height, [[id, text, box, ref_id, kind, category, same_category, also, caption, mask], ...], masks]

A stored box is null where nothing is referred to. An expression's empty fields at the end may be left out, and so may
`masks`: [[height, width, counts], ...], each once, and an expression's `mask` is its number there.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.grounding import Expression, Mask, Scene

Float = NDArray[np.float64]
Int = NDArray[np.int64]
FIELDS = 10  # of an expression's row


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """Columns of S images, N expressions in their order and T targets; of expressions with one id the first counts.

    `sizes` (S, 2) is width and height, NaN where not annotated; `image` (N,) and `owner` (T,) are positions of the
    expression's image and the target's expression; `boxes` (N, 4) are xyxy pixels, NaN where nothing is referred to;
    `targets` (T, 4) has those of `also` too. `position` finds an expression by its id; `masks` has the ground-truth
    masks by the position of the expression.
    """

    scenes: Sequence[str]
    files: Sequence[str]
    sizes: Float
    image: Int
    position: dict[str, int]
    texts: Sequence[str]
    boxes: Float
    kinds: Sequence[str | None]
    categories: Sequence[str | None]
    same_category: Sequence[int | None]
    owner: Int
    targets: Float
    masks: Mapping[int, Mask] = field(default_factory=dict)


def annotations_of(scenes: Sequence[Scene]) -> Annotations:
    """Return the columns of scenes; those of a prepared index are read without making the scenes."""
    ready = getattr(scenes, "annotations", None)
    return ready if isinstance(ready, Annotations) else columns(map(scene_row, scenes))


def columns(rows: Iterable[Sequence[Any]]) -> Annotations:
    """Collect rows, as above, into columns."""
    scenes: list[str] = []
    files: list[str] = []
    sizes, counts, boxes = array("d"), array("q"), array("d")
    position: dict[str, int] = {}
    texts: list[str] = []
    kinds: list[str | None] = []
    categories: list[str | None] = []
    same_category: list[int | None] = []
    also: list[tuple[int, Sequence[float]]] = []
    masks: dict[int, Mask] = {}
    known: dict[str | None, str | None] = {}  # each kind and category once, however often it comes
    for scene, file, width, height, fields, *drawn in rows:
        scenes.append(scene)
        files.append(file)
        sizes.extend((width or math.nan, height or math.nan))
        start = len(position)
        numbers = dict(zip([row[0] for row in fields], count(start)))
        if len(numbers) < len(fields) or not numbers.keys().isdisjoint(position.keys()):
            first = {row[0]: row for row in reversed(fields) if row[0] not in position}
            fields = [row for row in fields if first.get(row[0]) is row]
            numbers = {row[0]: start + at for at, row in enumerate(fields)}
        position |= numbers
        n = len(fields)
        counts.append(n)
        own = [*zip_longest(*fields)]
        own += [(None,) * n] * (FIELDS - len(own))
        texts += own[1]
        boxes.extend(chain.from_iterable(own[2]))
        kinds += map(known.setdefault, own[4], own[4])
        categories += map(known.setdefault, own[5], own[5])
        same_category += own[6]
        if any(own[7]):
            also += [(start + at, box) for at, others in enumerate(own[7]) for box in others or ()]
        if drawn:
            made = masks_of_row(drawn[0])
            masks |= {start + at: made[number] for at, number in enumerate(own[9]) if number is not None}
    own_boxes = np.array(boxes).reshape(-1, 4)
    owner = np.flatnonzero(~np.isnan(own_boxes[:, 0]))
    targets = own_boxes[owner]
    if also := [(at, box) for at, box in also if not math.isnan(own_boxes[at, 0])]:
        owner = np.concatenate([owner, [at for at, _ in also]])
        order = owner.argsort(kind="stable")  # an expression's own box, then the others
        owner, targets = owner[order], np.concatenate([targets, np.array([box for _, box in also])])[order]
    return Annotations(
        scenes=scenes,
        files=files,
        sizes=np.array(sizes).reshape(-1, 2),
        image=np.repeat(np.arange(len(scenes)), np.array(counts, np.int64)),
        position=position,
        texts=texts,
        boxes=own_boxes,
        kinds=kinds,
        categories=categories,
        same_category=same_category,
        owner=owner,
        targets=targets,
        masks=masks,
    )


def masks_of_row(rows: Iterable[Sequence[Any]]) -> list[Mask]:
    """Return the masks of a scene's row."""
    return [mask if isinstance(mask, Mapping) else {"size": [*mask[:2]], "counts": mask[2]} for mask in rows]


def scene_row(scene: Scene, stored: bool = False) -> list[Any]:
    """Return the row of a scene, without the empty fields at the end: index lists have none of them.

    Masks stay as they are, unless the row is to be `stored`: those of `shapes` are made when they are looked at.
    """
    masks: dict[Any, tuple[int, Any]] = {}
    fields = []
    for e in scene.expressions:
        number = None
        if e.mask is not None:
            plain = (*e.mask["size"], e.mask["counts"]) if stored else e.mask
            number = masks.setdefault(plain if stored else id(plain), (len(masks), plain))[0]
        fields.append(_fields(e, number))
        if stored and not e.targets:
            fields[-1][2] = None
    row = [scene.id, scene.file, scene.width, scene.height, fields]
    return [*row, [mask for _, mask in masks.values()]] if masks else row


def _fields(e: Expression, mask: int | None) -> list[Any]:
    fields = [e.id, e.text, e.box, e.ref_id, e.kind, e.category, e.same_category, e.also, e.caption, mask]
    while fields[-1] in (None, ()):
        fields.pop()
    return fields
