"""Strata: the ways a split is cut, so that a table can say where a pipeline fails and not only how often.

    kind            the generator's or the data set's own class of expression, where it has one
    length          words: 1-5, 6-7, 8-10, 11+ (the buckets of ReSC for RefCOCOg, Yang et al. 2020); 0 for no word
    spatial words   whether the expression says where: left, top, behind, next to ...
    box area        the referent's box as a part of the image: <1%, 1-5%, 5-20%, >=20%. A part, not pixels as in COCO:
                    encoders resize the image, so 32 pixels mean little
    people          whether a person is referred to: by category where it is known, else whether the words name one
    same category   objects of the referent's class in the image, the referent included: 1, 2, 3, 4+, where known
    targets         none, one, several: under protocols over sets (several.py)
    label           what a person says of it, where flags are given (bench/audit/flags.py)
    position prior  whether the referent lies where targets of its noun usually lie on other images (position_prior.py)

An expression has no label where a cut does not apply to it, so the rows of a cut need not add up to the split.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.datasets.annotations import Annotations
from bench.evaluation.position_prior import agreement

Value = TypeVar("Value")

WORD = re.compile(r"\w+")  # any script's letters and digits
SPATIAL_WORDS = """
    left right leftmost rightmost top bottom middle center centre upper lower uppermost lowermost topmost bottommost
    above below under underneath beneath over behind front back foreground background near nearest nearer close closer
    closest far farther farthest further furthest next beside besides between among corner corners edge side sides
    end inside outside opposite adjacent across facing
"""
PEOPLE_WORDS = """
    person persons people human humans man men woman women boy boys girl girls guy guys lady ladies gentleman gentlemen
    child children kid kids baby babies toddler toddlers dude male female mom mother dad father son daughter brother
    sister husband wife bride groom grandma grandpa player players batter catcher pitcher umpire referee skier
    snowboarder surfer skater skateboarder rider cowboy chef cook waiter waitress policeman cop officer soldier student
    teacher he she him her his hers someone somebody
"""
SPATIAL, PEOPLE = frozenset(SPATIAL_WORDS.split()), frozenset(PEOPLE_WORDS.split())
AREAS = ((0.01, "<1%"), (0.05, "1-5%"), (0.20, "5-20%"))
ORDER = {
    "length": ("0", "1-5", "6-7", "8-10", "11+"),
    "spatial words": ("yes", "no"),
    "box area": ("<1%", "1-5%", "5-20%", ">=20%"),
    "people": ("yes", "no"),
    "same category": ("1", "2", "3", "4+"),
    "position prior": ("agrees", "disagrees"),
    "targets": ("none", "one", "several"),
    "label": ("ok", "doubtful", "unknown"),
}
LATER = frozenset({"position prior"})  # cuts that stored runs of before do not have
MOST_KINDS = 40  # a file whose every expression has a kind of its own gets no table of ten thousand rows


class Cut(NamedTuple):
    """The labels of N expressions: `codes` (N,) are positions in `names`, -1 where the cut does not apply."""

    codes: NDArray[np.int64]
    names: Sequence[str]

    def labels(self) -> list[str | None]:
        """Return the label of each expression."""
        names = [*self.names, None]
        return [names[code] for code in self.codes.tolist()]

    def first(self, n: int) -> Cut:
        """Return the labels of the first `n` expressions."""
        return Cut(self.codes[:n], self.names)


def strata(known: Annotations) -> dict[str, Cut]:
    """Label every expression in each cut that applies to any, cut -> labels."""
    cuts = {
        "length": cut_of(known.texts, length_label),
        "spatial words": cut_of(known.texts, _spatial),
        "kind": cut_of(known.kinds, lambda kind: kind or None),
        "box area": _areas(known),
        "people": cut_of(list(map(_named, known.categories, known.texts)), _people),
        "same category": cut_of(known.same_category, lambda n: ("4+" if n >= 4 else str(n)) if n else None),
        "position prior": Cut(agreement(known), ORDER["position prior"]),
    }
    return {name: cut for name, cut in cuts.items() if (cut.codes >= 0).any()}


def cut_of(values: Sequence[Value], label: Callable[[Value], str | None]) -> Cut:
    """Label values, each once however often it comes."""
    codes: dict[str | None, int] = {}
    once = dict.fromkeys(values)
    places = {value: -1 if (own := label(value)) is None else codes.setdefault(own, len(codes)) for value in once}
    return Cut(np.array([places[value] for value in values], np.int64), [*filter(None, codes)])


def _named(category: str | None, text: str) -> str:
    return text if category is None else category


def _spatial(text: str) -> str:
    return "no" if SPATIAL.isdisjoint(WORD.findall(text.casefold())) else "yes"


def _people(named: str) -> str:
    return "no" if PEOPLE.isdisjoint(WORD.findall(named.casefold())) else "yes"


def length_label(text: str) -> str:
    """Return the bucket of a text's number of words, split at white space of any script."""
    words = len(text.split())
    return "0" if words == 0 else ("1-5", "6-7", "8-10", "11+")[bisect_left((5, 7, 10), words)]


def _areas(known: Annotations) -> Cut:
    """Label boxes by their part of the image; none without a box or an annotated image size."""
    with np.errstate(invalid="ignore", over="ignore"):
        sides = np.maximum(0.0, known.boxes[:, 2:] - known.boxes[:, :2])
        part = sides[:, 0] * sides[:, 1] / known.sizes.prod(axis=1)[known.image]
    codes = np.searchsorted([limit for limit, _ in AREAS], part, side="right")
    return Cut(np.where(np.isnan(part), -1, codes), [*(label for _, label in AREAS), ">=20%"])


def in_order(counts: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
    """Order the cuts and labels of counts (cut -> label -> samples) as a table has them.

    Kinds go by name, the MOST_KINDS commonest of them.
    """
    kinds = counts.get("kind", {})
    common = sorted(kinds, key=lambda kind: (-kinds[kind], kind))[:MOST_KINDS]
    ordered = {"kind": sorted(common)} if kinds else {}
    for cut, order in ORDER.items():
        if cut in counts:
            ordered[cut] = [label for label in order if label in counts[cut]]
    return ordered
