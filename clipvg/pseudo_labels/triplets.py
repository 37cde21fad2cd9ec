"""Subject, predicate, object: what a scene graph says of a picture, and which of it becomes a phrase (RelTR's choice).

    "man", "on", "horse", scores 0.9, 0.8, 0.9   ->   "man on horse", the man's box

Kept is what is surer than `min_score` in all three; the best ten of a picture by the product (spec clipvg.md 3.3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.boxes import iou_elementwise
from bench.grounding import Box

_PLACE = re.compile(r"\{(?:subject|predicate|object)\}")
SAME = 0.5  # IoU above which two boxes are one subject


@dataclass(frozen=True, slots=True)
class Triplet:
    """Two things and what the first does to the second. Boxes xyxy pixels of the picture; `scores` of subject,
    predicate and object, 0..1. `found_by` says how the predicate was told: "geometry", "clip", "file"."""

    subject: str
    predicate: str
    object: str
    subject_box: Box
    object_box: Box | None
    scores: tuple[float, float, float] = (1.0, 1.0, 1.0)
    found_by: str = "file"

    @property
    def score(self) -> float:
        return math.prod(self.scores)

    @property
    def words(self) -> tuple[str, str, str]:
        return (self.subject, self.predicate, self.object)

    def phrase(self, pattern: str) -> str:
        """In words; the pattern has the places {subject}, {predicate} and {object}."""
        places = {"{subject}": self.subject, "{predicate}": self.predicate, "{object}": self.object}
        return " ".join(_PLACE.sub(lambda place: places[place[0]], pattern).split())

    def provenance(self) -> dict[str, Any]:
        """What a label's row says of it."""
        said: dict[str, Any] = {
            "score": round(self.score, 4),
            "subject": self.subject,
            "predicate": self.predicate,
            "object": self.object,
            "object_box": None if self.object_box is None else [round(v, 2) for v in self.object_box],
            "scores": [round(v, 4) for v in self.scores],
            "predicate_by": self.found_by,
            "entities": 2,
        }
        return said if self.object_box is not None else {k: v for k, v in said.items() if k != "object_box"}


def chosen(triplets: Sequence[Triplet], min_score: float, top: int, unique: bool = False) -> list[Triplet]:
    """The `top` best of one picture whose three scores are all above `min_score`, best first.

    The same words about the same box count once. With `unique`, words that are also said of another box of the picture
    are left out: nobody could tell which is meant. As published they stay.
    """
    sure = [t for t in triplets if min(t.scores) > min_score]
    # "a left of b" and "b right of a" are equally sure, but for the last digit; equals stay in the order they came.
    ranked = sorted(sure, key=lambda t: -round(t.score, 6))
    if unique:
        ranked = [t for t in ranked if not any(_another(t, other) for other in ranked)]
    seen: set[tuple[object, ...]] = set()
    best: list[Triplet] = []
    for triplet in ranked:
        said = (*triplet.words, triplet.subject_box)
        if said not in seen:
            seen.add(said)
            best.append(triplet)
    return best[:top]


def _another(a: Triplet, b: Triplet) -> bool:
    """Whether the same words are said of two different subjects."""
    return a.words == b.words and float(iou_elementwise(a.subject_box, b.subject_box)) <= SAME
