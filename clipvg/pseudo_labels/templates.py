"""Pseudo-Q's templates: every phrase that a noun, its places and its garments give (spec clipvg.md 3.2, point 7).

In a pattern n is the noun with its attribute, r a spatial word, a a garment with its attribute, and p what goes before
the spatial word: "on the" left or right, "in the" front, behind, middle or center. Top and bottom have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

PREPOSITIONS = {
    "left": "on the",
    "right": "on the",
    "front": "in the",
    "behind": "in the",
    "middle": "in the",
    "center": "in the",
}
PLACED = ("n r", "n p r", "r n")
DRESSED = ("n a", "a n")
PLACED_AND_DRESSED = ("n a r", "n r a", "a n r", "a r n", "r n a", "r a n", "n a p r", "n p r a", "a n p r")


class Candidate(NamedTuple):
    """One phrase; `template` is its pattern with the preposition written out, "n on the r"."""

    text: str
    template: str
    spatial: str = ""
    garment: str = ""


def candidates(noun: str, spatial: Sequence[str], garments: Sequence[str] = ()) -> Iterator[Candidate]:
    """Every phrase about one thing, the noun alone first. Garments are people's only."""
    yield Candidate(noun, "n")
    for word in spatial:
        yield from _filled(PLACED, noun, word)
    for garment in garments:
        yield from _filled(DRESSED, noun, "", garment)
    for word in spatial:
        for garment in garments:
            yield from _filled(PLACED_AND_DRESSED, noun, word, garment)


def _filled(patterns: Sequence[str], noun: str, word: str, garment: str = "") -> Iterator[Candidate]:
    preposition = PREPOSITIONS.get(word)
    for pattern in patterns:
        parts = pattern.split()
        if "p" in parts and preposition is None:
            continue
        template = " ".join(str(preposition) if part == "p" else part for part in parts)
        fill = {"n": noun, "r": word, "a": garment, "p": preposition}
        yield Candidate(" ".join(str(fill[part]) for part in parts), template, word, garment)
