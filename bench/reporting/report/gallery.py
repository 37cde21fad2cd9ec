"""Every expression of the gallery as columns of numbers, a third of the size of objects.

Boxes are flat lists of whole tenths of a pixel (x1, y1, x2, y2 of the original image), IoUs whole thousandths rounded
down, so that nothing below 0.5 is shown as 0.500; labels are positions in a list of names.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.errors import RunError
from bench.evaluation.outcomes import Outcomes, outcomes
from bench.evaluation.protocols import protocol
from bench.evaluation.strata import in_order, strata
from bench.grounding import Box, Scene
from bench.reporting.report.selection import Shown
from bench.reporting.report.thumbnails import Thumbnail
from bench.runs.predictions import SceneAnswers
from bench.runs.store import stored_rows

MOST_PROPOSALS = 100  # of an image, kept for drawing; more hide the image
FAR = 10  # images: a model may answer 1e300, and what lies far outside is drawn there


@dataclass(frozen=True, slots=True)
class Answered:
    """A run with its answers: `rows` by scene id, and what became of every expression of the split."""

    run: Shown
    rows: Mapping[str, SceneAnswers]
    outcomes: Outcomes


def answered(run: Shown, scenes: Sequence[Scene]) -> Answered:
    """Reads a run's answers. Raises RunError when they do not give the number that its record states."""
    rows = stored_rows(run.folder)
    found = outcomes(scenes, rows.values(), protocol(run.record.protocol))
    stated = run.record.metrics.hits if run.record.metrics else None
    if int(found.hit.sum()) != stated:
        raise RunError(
            f"{run.folder}: the record states {stated:,} hits, its predictions give {int(found.hit.sum()):,}; "
            f"they do not belong together: make the run again"
        )
    return Answered(run, rows, found)


def columns(scenes: Sequence[Scene], small: Sequence[Thumbnail], runs: Sequence[Answered]) -> dict[str, Any]:
    """The gallery of `scenes`, the first ones of what `runs` answered; `small` are their images."""
    found = runs[0].outcomes
    n = int(np.searchsorted(found.image, len(scenes)))
    expressions = found.expressions[:n]
    shown = found.image[:n].tolist()
    labels = [
        strata(e, scenes[p]) | ({"category": e.category} if e.category else {})
        for e, p in zip(expressions, shown, strict=True)
    ]
    sizes = [_size(scene, thumbnail, runs) for scene, thumbnail in zip(scenes, small, strict=True)]
    limits = [sizes[place] for place in shown]
    pools, belongs = _proposals(scenes, sizes, runs)
    return {
        "id": [e.id for e in expressions],
        "text": [e.text for e in expressions],
        "image": shown,
        "box": _flat([e.box for e in expressions], limits),
        "also": {str(i): _flat(list(e.also), [limits[i]] * len(e.also)) for i, e in enumerate(expressions) if e.also},
        "cuts": _cuts(labels),
        "files": [scene.file for scene in scenes],
        "sizes": [side for size in sizes for side in size],
        "why": {str(i): thumbnail.why for i, thumbnail in enumerate(small) if thumbnail.why},
        "proposals": pools,
        "runs": [
            {
                "label": run.run.label,
                # A letter an expression: 1 a hit, 0 a miss, - no box at all.
                "outcome": "".join(np.where(run.outcomes.answered, np.where(run.outcomes.hit, "1", "0"), "-")[:n]),
                # 0.29 * 1000 is a little less than 290
                "iou": np.floor(np.maximum(run.outcomes.iou[:n], 0.0) * 1000 + 1e-9).astype(int).tolist(),
                "box": _flat(_boxes(run, scenes, [e.id for e in expressions]), limits),
                "proposals": pool,
            }
            for run, pool in zip(runs, belongs, strict=True)
        ],
    }


def _size(scene: Scene, thumbnail: Thumbnail, runs: Sequence[Answered]) -> tuple[int, int]:
    """Width and height of the frame that boxes are drawn in: the image's, or what holds all the annotated boxes."""
    if thumbnail.width and thumbnail.height:
        return thumbnail.width, thumbnail.height
    for run in runs:
        if (line := run.rows.get(scene.id)) and line.size:
            return line.size
    corners = [(e.box[2], e.box[3]) for e in scene.expressions] or [(1.0, 1.0)]
    return max(1, math.ceil(max(x for x, _ in corners))), max(1, math.ceil(max(y for _, y in corners)))


def _boxes(run: Answered, scenes: Sequence[Scene], ids: Sequence[str]) -> list[Box | None]:
    """The box of every expression that has a usable one."""
    boxes: dict[str, Box | None] = {}
    for scene in scenes:
        for answer in run.rows[scene.id].answers if scene.id in run.rows else ():
            boxes.setdefault(answer.id, answer.box)
    return [boxes.get(name) if usable else None for name, usable in zip(ids, run.outcomes.answered, strict=False)]


def _flat(boxes: Sequence[Box | None], sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Boxes in tenths of pixels, four zeros for none."""
    out = np.array([box or (0, 0, 0, 0) for box in boxes], np.float64).reshape(-1, 4)
    far = np.array([[w, h, w, h] for w, h in sizes], np.float64).reshape(-1, 4) * FAR
    tenths: list[int] = np.rint(np.clip(np.nan_to_num(out), -far, far) * 10).astype(int).ravel().tolist()
    return tenths


def _proposals(
    scenes: Sequence[Scene], sizes: Sequence[tuple[int, int]], runs: Sequence[Answered]
) -> tuple[list[dict[str, list[int]]], list[int | None]]:
    """The different sets of proposals, and which of them each run chose from; pipelines often share one detector's."""
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


def _cuts(labels: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Every way to cut the expressions: its name, its labels in order, and each expression's place among them or -1."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in labels:
        for cut, label in entry.items():
            counts[cut][label] += 1
    order = in_order(counts)
    # Filters show all kinds and categories, not the commonest alone.
    order |= {cut: sorted(counts[cut]) for cut in ("kind", "category") if cut in counts}
    places = {cut: {name: number for number, name in enumerate(names)} for cut, names in order.items()}
    return [
        {"name": cut, "labels": names, "of": [places[cut].get(entry.get(cut, ""), -1) for entry in labels]}
        for cut, names in order.items()
    ]
