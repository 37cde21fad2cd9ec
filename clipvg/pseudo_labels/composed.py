"""Captions composed from what was found, for pictures that no captioner has learned to see.

    "two striped red stars next to a blue circle and above a green heart"

A caption is about one thing, or all that go by the same name, and says how up to `others` more lie to it. Chance,
seeded by the picture, chooses among the surest things, large ones more often; geometry finds the words between them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bench.boxes import box_area_xyxy
from bench.grounding import Box, Boxes
from clipvg.pseudo_labels.detections import Detection
from clipvg.pseudo_labels.nouns import plural
from clipvg.pseudo_labels.predicates import Predicate

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CLEAR = 0.3  # a predicate's score under which it is not said


class Named(NamedTuple):
    """All the things of a picture that go by one name, the box around them, and the area of the largest."""

    name: str
    number: int
    box: Box
    area: float

    @property
    def said(self) -> str:
        """ "a red star", "two red stars", "many red stars"."""
        if self.number == 1:
            return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"
        first, _, last = self.name.rpartition(" ")
        many = NUMBERS[self.number] if self.number < len(NUMBERS) else "many"
        return " ".join(f"{many} {first} {plural(last)}".split())


def composed(
    detections: Sequence[Detection],
    predicates: Mapping[Predicate, Sequence[str]],
    dice: random.Random,
    others: int = 2,
    surest: int = 6,
) -> str:
    """The caption of a picture from its detections (most confident first); empty where there are none.

    `predicates` are those that may be said, each with its wordings.
    """
    groups = _named(detections[:surest])
    if not groups:
        return ""
    head = dice.choices(range(len(groups)), weights=[group.area for group in groups])[0]
    rest = [group for number, group in enumerate(groups) if number != head]
    chosen = dice.sample(rest, min(others, len(rest)))
    wordings = {predicate: dice.choice(said) for predicate, said in predicates.items()}
    clauses = [(_between(groups[head], other, wordings), other.said) for other in chosen]
    said, before = groups[head].said, ""
    for number, (words, other) in enumerate(sorted(clauses, key=lambda clause: not clause[0])):
        # "next to a circle and a heart", "next to a circle and above a heart", "a star and a circle"
        joined = ("and" if number or not words else "", "" if words == before else words)
        said, before = " ".join(part for part in (said, *joined, other) if part), words
    return said


def _named(detections: Sequence[Detection]) -> list[Named]:
    boxes: dict[str, list[Box]] = {}
    for detection in detections:
        boxes.setdefault(f"{detection.attribute} {detection.name}".strip(), []).append(detection.box)
    return [
        Named(name, len(held), _around(np.array(held)), float(box_area_xyxy(held).max()))
        for name, held in boxes.items()
    ]


def _around(boxes: Boxes) -> Box:
    x1, y1 = boxes[:, :2].min(axis=0).tolist()
    x2, y2 = boxes[:, 2:].max(axis=0).tolist()
    return x1, y1, x2, y2


def _between(head: Named, other: Named, wordings: Mapping[Predicate, str]) -> str:
    """How the head lies to another thing, in the words of what holds most clearly; empty where nothing does."""
    a, b = np.array(head.box), np.array(other.box)
    scores = {predicate: float(predicate(a, b)) for predicate in wordings}
    best = max(scores, key=lambda predicate: scores[predicate], default=None)
    return wordings[best] if best is not None and scores[best] > CLEAR else ""
