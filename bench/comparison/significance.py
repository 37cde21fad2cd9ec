"""Exact McNemar on the flips, and Holm's correction for looking at several pairs."""

from __future__ import annotations

from collections.abc import Sequence


def mcnemar(a_only: int, b_only: int) -> float:
    """Two-sided exact p that flips go either way equally often (McNemar 1947, the binomial form); 1 without flips.

    It takes flips for independent, which those of one picture are not: see docs/comparing.md.
    """
    flips, fewer = a_only + b_only, min(a_only, b_only)
    if 2 * fewer == flips:
        return 1.0
    term = total = 1
    for wins in range(fewer):  # whole numbers: exact however many flips
        term = term * (flips - wins) // (wins + 1)
        total += term
    p: float = 2 * total / (1 << flips)
    return p


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm 1979), in their order: at most alpha together means that the chance
    of any false alarm among them is at most alpha."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for place, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[number]))
        adjusted[number] = highest
    return adjusted
