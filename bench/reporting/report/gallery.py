"""Lay out every expression of the gallery as columns of numbers, a third of the size of objects.

Boxes are flat lists of whole tenths of a pixel (x1, y1, x2, y2 of the original image), IoUs whole thousandths rounded
down, so that nothing below 0.5 reads 0.500; labels are positions in a list of names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bench.errors import RunError
from bench.evaluation.outcomes import Outcomes, outcomes
from bench.evaluation.protocols import protocol
from bench.evaluation.several import SetOutcomes
from bench.evaluation.strata import Cut, cut_of, in_order
from bench.grounding import Box, Expression, Mask, Scene
from bench.reporting.report.selection import ReportRun
from bench.reporting.report.thumbnails import Thumbnail
from bench.runs.integrity import complete_rows
from bench.runs.predictions import SceneAnswers

MOST_PROPOSALS = 100  # of an image, kept for drawing; more hide the image
FAR = 10  # images: a model may answer 1e300, and what lies far outside is drawn there


@dataclass(frozen=True, slots=True)
class AnsweredRun:
    """A run with its answers: `rows` by scene id, and what became of every expression of the split."""

    run: ReportRun
    rows: Mapping[str, SceneAnswers]
    outcomes: Outcomes


def answered(run: ReportRun, scenes: Sequence[Scene]) -> AnsweredRun:
    """Read a run's answers. Raises RunError when they do not give the number that its record states."""
    rows = complete_rows(run.folder, run.record, scenes)
    partial = run.record.imported is not None
    scored = outcomes(scenes, rows.values(), protocol(run.record.protocol), partial)
    stated = run.record.metrics.hits if run.record.metrics else None
    if int(scored.hit.sum()) != stated:
        raise RunError(
            f"{run.folder}: the record has {stated:,} hits, but its predictions give {int(scored.hit.sum()):,}; "
            f"they do not belong together; run it again"
        )
    return AnsweredRun(run, rows, scored)


def columns(scenes: Sequence[Scene], small: Sequence[Thumbnail], runs: Sequence[AnsweredRun]) -> dict[str, Any]:
    """Return the gallery of `scenes`, the first ones of what `runs` answered; `small` are their images."""
    first = runs[0].outcomes
    n = int(np.searchsorted(first.image, len(scenes)))
    expressions = first.expressions[:n]
    image_of = first.image[:n].tolist()
    cuts = {name: cut.first(n) for name, cut in first.strata.items()}
    cuts["category"] = cut_of(first.annotations.categories[:n], lambda category: category or None)
    sizes = [_size(scene, thumbnail, runs) for scene, thumbnail in zip(scenes, small, strict=True)]
    limits = [sizes[place] for place in image_of]
    pools, belongs = _proposals(scenes, sizes, runs)
    masks, truths, predicted = _masks(expressions, scenes, runs)
    return {
        "id": [e.id for e in expressions],
        "text": [e.text for e in expressions],
        "image": image_of,
        "box": _flat([e.box for e in expressions], limits),
        "also": {str(i): _flat(list(e.also), [limits[i]] * len(e.also)) for i, e in enumerate(expressions) if e.also},
        "cuts": _cuts(cuts),
        "files": [scene.file for scene in scenes],
        "sizes": [side for size in sizes for side in size],
        "why": {str(i): why for i, (*_, why) in enumerate(small) if isinstance(why, str)},
        "proposals": pools,
        "masks": masks,
        "mask": truths,
        "runs": [
            {
                "label": run.run.label,
                # A letter an expression: 1 a hit, 0 a miss, - no box at all.
                "outcome": "".join(np.where(run.outcomes.answered, np.where(run.outcomes.hit, "1", "0"), "-")[:n]),
                # 0.29 * 1000 is a little less than 290
                "iou": np.floor(np.maximum(run.outcomes.iou[:n], 0.0) * 1000 + 1e-9).astype(int).tolist(),
                "box": _flat(_boxes(run, scenes, [e.id for e in expressions]), limits),
                "proposals": pool,
                "attention": _attention(run, scenes, [e.id for e in expressions]),
                "mask": mask,
                **({} if run.outcomes.sets is None else {"sets": _sets(run.outcomes.sets, limits)}),
            }
            for run, pool, mask in zip(runs, belongs, predicted, strict=True)
        ],
    }


def _masks(
    expressions: Sequence[Expression], scenes: Sequence[Scene], runs: Sequence[AnsweredRun]
) -> tuple[list[list[Any]], dict[str, int], list[dict[str, int]]]:
    """Return different masks as height, width, counts; which is an expression's, and which each run's; both by number.

    Where no run has masks, those of the ground truth are left out.
    """
    made: dict[tuple[Any, ...], int] = {}

    def numbers(masks: Mapping[str, Mask | None]) -> dict[str, int]:
        rows = ((str(i), masks.get(e.id)) for i, e in enumerate(expressions))
        return {i: made.setdefault((*m["size"], m["counts"]), len(made)) for i, m in rows if m}

    answers = [
        {a.id: a.mask for scene in scenes if scene.id in run.rows for a in reversed(run.rows[scene.id].answers)}
        for run in runs
    ]
    predicted = [numbers(masks) for masks in answers]
    truths = numbers({e.id: e.mask for e in expressions}) if any(predicted) else {}
    return [list(mask) for mask in made], truths, predicted


def _attention(run: AnsweredRun, scenes: Sequence[Scene], ids: Sequence[str]) -> dict[str, list[Any]]:
    """Return the attention maps that a run has, by the number of the expression: rows, columns, cells."""
    maps = {
        answer.id: list(answer.attention)
        for scene in scenes
        for answer in (run.rows[scene.id].answers if scene.id in run.rows else ())
        if answer.attention
    }
    return {str(i): maps[key] for i, key in enumerate(ids) if key in maps}


def _size(scene: Scene, thumbnail: Thumbnail, runs: Sequence[AnsweredRun]) -> tuple[int, int]:
    """Return the size of the frame that boxes are drawn in: the image's, or one around all annotated boxes."""
    width, height, _ = thumbnail
    if width and height:
        return width, height
    for run in runs:
        if (line := run.rows.get(scene.id)) and line.size:
            return line.size
    corners = [(box[2], box[3]) for e in scene.expressions for box in e.targets] or [(1.0, 1.0)]
    return max(1, math.ceil(max(x for x, _ in corners))), max(1, math.ceil(max(y for _, y in corners)))


def _boxes(run: AnsweredRun, scenes: Sequence[Scene], ids: Sequence[str]) -> list[Box | None]:
    """Return the box of every expression that has a usable one."""
    boxes: dict[str, Box | None] = {}
    for scene in scenes:
        for answer in run.rows[scene.id].answers if scene.id in run.rows else ():
            boxes.setdefault(answer.id, answer.box)
    return [boxes.get(name) if usable else None for name, usable in zip(ids, run.outcomes.answered, strict=False)]


def _sets(made: SetOutcomes, limits: Sequence[tuple[int, int]]) -> dict[str, list[int]]:
    """Return the boxes of each expression that is not rejected, by its number; the first MOST_PROPOSALS of them."""
    owner = made.boxes.owner[made.boxes.kept]
    ends = np.searchsorted(owner, np.arange(len(limits) + 1))
    boxes = [tuple(box) for box in made.boxes.box[made.boxes.kept].tolist()]
    own = ((i, boxes[start : min(end, start + MOST_PROPOSALS)]) for i, (start, end) in enumerate(pairwise(ends)))
    return {str(i): _flat(some, [limits[i]] * len(some)) for i, some in own if some}


def _flat(boxes: Sequence[Box | None], sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Return boxes in tenths of pixels, four zeros for none."""
    out = np.array([box or (0, 0, 0, 0) for box in boxes], np.float64).reshape(-1, 4)
    far = np.array([[w, h, w, h] for w, h in sizes], np.float64).reshape(-1, 4) * FAR
    tenths: list[int] = np.rint(np.clip(np.nan_to_num(out), -far, far) * 10).astype(int).ravel().tolist()
    return tenths


def _proposals(
    scenes: Sequence[Scene], sizes: Sequence[tuple[int, int]], runs: Sequence[AnsweredRun]
) -> tuple[list[dict[str, list[int]]], list[int | None]]:
    """Return the different sets of proposals, and which of them each run chose from; many share a detector."""
    pools: list[dict[str, list[int]]] = []
    belongs: list[int | None] = []
    for run in runs:
        per_scene = [(run.rows[s.id].proposals if s.id in run.rows else None) for s in scenes]
        if all(boxes is None for boxes in per_scene):
            belongs.append(None)
            continue
        kept = [(boxes or ())[:MOST_PROPOSALS] for boxes in per_scene]
        places = [size for boxes, size in zip(kept, sizes, strict=True) for _ in boxes]
        pool = {
            "kept": [len(boxes) for boxes in kept],
            "made": [len(boxes or ()) for boxes in per_scene],
            "box": _flat([box for boxes in kept for box in boxes], places),
        }
        if pool not in pools:
            pools.append(pool)
        belongs.append(pools.index(pool))
    return pools, belongs


def _cuts(cuts: Mapping[str, Cut]) -> list[dict[str, Any]]:
    """Return every cut of the expressions: name, labels in order, and each expression's label by number or -1."""
    labels = {name: cut.labels() for name, cut in cuts.items()}
    counts = {name: counted for name, column in labels.items() if (counted := Counter(filter(None, column)))}
    order = in_order(counts)
    # Filters show all kinds and categories, not the commonest alone.
    order |= {cut: sorted(counts[cut]) for cut in ("kind", "category") if cut in counts}
    places = {cut: {name: number for number, name in enumerate(names)} for cut, names in order.items()}
    return [
        {"name": cut, "labels": names, "of": [places[cut].get(label or "", -1) for label in labels[cut]]}
        for cut, names in order.items()
    ]
