"""Strata: the ways a split is cut, so that a table can say where a pipeline fails and not only how often.

    kind            the generator's or the data set's own class of expression, where it has one
    length          words: 1-5, 6-7, 8-10, 11+ (the buckets of ReSC for RefCOCOg, Yang et al. 2020); 0 for no word
    spatial words   whether the expression says where: left, top, behind, next to ...
    box area        the referent's box as a part of the image: <1%, 1-5%, 5-20%, >=20%. A part, not pixels as in COCO:
                    encoders resize the image, so 32 pixels mean little
    people          whether a person is referred to: by category where it is known, else whether the words name one
    same category   objects of the referent's class in the image, the referent included: 1, 2, 3, 4+, where known
    position prior  whether the referent lies where targets of its noun usually lie on other images (position_prior.py)

An expression has no label where a cut does not apply to it, so the rows of a cut need not add up to the split.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from bench.evaluation.position_prior import agreement
from bench.grounding import Expression, Scene

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
}
LATER = frozenset({"position prior"})  # cuts that stored runs of before do not have
MOST_KINDS = 40  # a file whose every expression has a kind of its own gets no table of ten thousand rows


def split_strata(
    expressions: Sequence[Expression], scenes: Sequence[Scene], places: Sequence[int]
) -> list[dict[str, str]]:
    """Label each expression of a split in each cut that applies to it; `places` are the positions of their scenes."""
    labels = [strata(e, scenes[place]) for e, place in zip(expressions, places, strict=True)]
    for each, agrees in zip(labels, agreement(expressions, scenes, places), strict=True):
        if agrees is not None:
            each["position prior"] = agrees
    return labels


def strata(expression: Expression, scene: Scene) -> dict[str, str]:
    """Label an expression in each cut that it alone decides, cut -> label."""
    words = set(WORD.findall(expression.text.casefold()))
    labels = {"length": length_label(expression.text), "spatial words": "yes" if words & SPATIAL else "no"}
    if expression.kind:
        labels["kind"] = expression.kind
    area = area_label(expression, scene)
    if area:
        labels["box area"] = area
    named = words if expression.category is None else set(WORD.findall(expression.category.casefold()))
    labels["people"] = "yes" if named & PEOPLE else "no"
    if expression.same_category:
        labels["same category"] = "4+" if expression.same_category >= 4 else str(expression.same_category)
    return labels


def length_label(text: str) -> str:
    """Return the bucket of a text's number of words, split at white space of any script."""
    words = len(text.split())
    return "0" if words == 0 else ("1-5", "6-7", "8-10", "11+")[bisect_left((5, 7, 10), words)]


def area_label(expression: Expression, scene: Scene) -> str | None:
    """Return the bucket of the box's part of the image; None without a box or an annotated image size."""
    if not scene.width or not scene.height or not expression.targets:
        return None
    x1, y1, x2, y2 = expression.box
    part = max(0.0, x2 - x1) * max(0.0, y2 - y1) / (scene.width * scene.height)
    return next((label for limit, label in AREAS if part < limit), ">=20%")


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
