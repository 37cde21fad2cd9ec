"""Expressions about a layout: each fits exactly one object, of five kinds, in several phrasings each.

A noun phrase is a choice of texture, colour and shape; the objects it fits are its group. An *attribute* expression is
a phrase whose group is one object. The other kinds take a group of several and single one out: by size (*comparison*),
by its place in the image (*location*), by another object (*relation*), by counting (*ordinal*). Every expression is
clear by a margin: nearly equal sizes are not compared, nearly level objects are not ordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from bench.datasets.shapes.layout import UNIT, Layout, PlacedShape
from bench.datasets.shapes.rng import Rng

# kind -> weight among the expressions of a scene
KINDS = (("attribute", 36), ("location", 20), ("relation", 19), ("comparison", 14), ("ordinal", 11))
ORDINALS = ("first", "second", "third", "fourth")
PLURALS = {"cross": "crosses"}
ATTRIBUTE = (
    "{np}", "{np}", "the {np}", "the {np}", "{a} {np}", "find the {np}", "the {np} in the picture", "look for the {np}",
)  # fmt: skip
# direction -> (axis, sign): the object whose centre is furthest that way
PLACES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "left": (
        0,
        -1,
        ("the {np} on the left", "left {np}", "leftmost {np}", "{np} on the far left", "the {np} to the left"),
    ),
    "right": (0, 1, ("the {np} on the right", "right {np}", "rightmost {np}", "{np} on the far right")),
    "top": (1, -1, ("the {np} at the top", "top {np}", "the upper {np}", "{np} at the very top", "topmost {np}")),
    "bottom": (1, 1, ("the {np} at the bottom", "bottom {np}", "the lower {np}", "lowest {np}")),
}
RELATIONS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "left": (0, -1, ("the {np} left of the {other}", "{np} to the left of the {other}")),
    "right": (0, 1, ("the {np} right of the {other}", "{np} to the right of the {other}")),
    "above": (1, -1, ("the {np} above the {other}", "{np} over the {other}", "the {np} higher than the {other}")),
    "below": (1, 1, ("the {np} below the {other}", "{np} under the {other}", "the {np} beneath the {other}")),
}
NEAR = ("the {np} next to the {other}", "the {np} closest to the {other}", "{np} nearest the {other}")
BIGGEST = ("the biggest {np}", "largest {np}", "the largest {np}", "biggest {np}")
SMALLEST = ("the smallest {np}", "smallest {np}", "the tiniest {np}", "the littlest {np}")
OF_TWO = {1: ("the bigger {np}", "larger of the two {nps}"), -1: ("the smaller {np}", "smaller of the two {nps}")}


@dataclass(frozen=True)
class Phrase:
    """A noun phrase and the indices of the objects it fits. None leaves the attribute out."""

    texture: str | None
    colour: str | None
    shape: str | None
    group: tuple[int, ...]

    @cached_property
    def singular(self) -> str:
        return " ".join(word for word in (self.texture, self.colour, self.shape or "shape") if word)

    @property
    def article(self) -> str:
        return "an" if self.singular[0] in "aeiou" else "a"

    @property
    def plural(self) -> str:
        return self.singular[: -len(self.shape)] + PLURALS[self.shape] if self.shape in PLURALS else self.singular + "s"


def write_expressions(layout: Layout, seed: int, part: str, index: int) -> list[tuple[str, str, int]]:
    """Write 3 to 8 different expressions about a scene (fewer where it allows no more), kinds and objects mixed.

    Each is its kind, its text, and the index of the object it means.
    """
    rng = Rng("language", seed, part, index)
    phrases = list(phrases_of(layout.objects))
    pools = {
        "attribute": list(by_attribute(phrases)),
        "comparison": list(_comparison(layout, phrases)),
        "location": list(by_location(layout, phrases)),
        "relation": list(by_relation(layout, phrases)),
        "ordinal": list(_ordinal(layout, phrases)),
    }
    wanted = rng.between(3, 8)
    expressions: dict[str, tuple[str, str, int]] = {}
    mentions = [0] * len(layout.objects)
    while len(expressions) < wanted and any(pools.values()):
        kind = rng.weighted([(kind, weight) for kind, weight in KINDS if pools[kind]])
        # Prefer an object that few expressions are about yet: of three candidates, the least mentioned.
        target, forms, words = min(rng.sample(pools[kind], 3), key=lambda c: mentions[c[0]])
        pools[kind] = [c for c in pools[kind] if (c[0], c[2]) != (target, words)]
        text = rng.pick(forms).format(**words)
        if text not in expressions:
            expressions[text] = (kind, text, target)
            mentions[target] += 1
    return list(expressions.values())


Candidate = tuple[int, tuple[str, ...], dict[str, str]]  # the object meant, the phrasings, their words


def phrases_of(objects: tuple[PlacedShape, ...]) -> Iterator[Phrase]:
    """Yield every noun phrase that fits an object; attributes that are the same for all objects count too."""
    keys = set()
    for obj in objects:
        for texture in {None: 0, obj.texture: 0}:
            for colour in {None: 0, obj.colour: 0}:
                for shape in {None: 0, obj.shape: 0}:
                    key = (texture, colour, shape)
                    if key in keys:
                        continue
                    keys.add(key)
                    group = tuple(
                        i
                        for i, t in enumerate(objects)
                        if texture in (None, t.texture) and colour in (None, t.colour) and shape in (None, t.shape)
                    )
                    yield Phrase(texture, colour, shape, group)


def by_attribute(phrases: list[Phrase]) -> Iterator[Candidate]:
    for phrase in phrases:
        if len(phrase.group) == 1 and (phrase.texture or phrase.colour or phrase.shape):
            yield phrase.group[0], ATTRIBUTE, {"np": phrase.singular, "a": phrase.article}


def _comparison(layout: Layout, phrases: list[Phrase]) -> Iterator[Candidate]:
    for phrase in _groups(phrases):
        by_area = sorted(phrase.group, key=lambda i: layout.objects[i].area)
        areas = [layout.objects[i].area for i in by_area]
        words = {"np": phrase.singular, "nps": phrase.plural}
        for sign, ends, forms in ((1, (-1, -2), BIGGEST), (-1, (0, 1), SMALLEST)):
            larger, smaller = sorted((areas[ends[0]], areas[ends[1]]), reverse=True)
            if 10 * larger >= 15 * smaller:
                yield by_area[ends[0]], OF_TWO[sign] if len(by_area) == 2 else forms, words


def by_location(layout: Layout, phrases: list[Phrase]) -> Iterator[Candidate]:
    for phrase in _groups(phrases):
        for axis, sign, forms in PLACES.values():
            ranked = sorted(phrase.group, key=lambda i: -sign * layout.objects[i].centre[axis])
            gap = abs(layout.objects[ranked[0]].centre[axis] - layout.objects[ranked[1]].centre[axis])
            if 8 * gap >= _span(layout, axis):
                yield ranked[0], forms, {"np": phrase.singular}


def by_relation(layout: Layout, phrases: list[Phrase]) -> Iterator[Candidate]:
    anchors = [p for p in phrases if len(p.group) == 1 and p.shape]
    every = range(len(layout.objects))
    # Of an anchor's object: which objects lie beyond it each way, and how far off they are.
    beyond_of = {
        other: [
            ([_beyond(layout, i, other, axis, sign) for i in every], forms) for axis, sign, forms in RELATIONS.values()
        ]
        for other in {anchor.group[0] for anchor in anchors}
    }
    far_of = {other: [_distance(layout, i, other) for i in every] for other in beyond_of}
    for phrase in _groups(phrases):
        for anchor in anchors:
            if anchor.group[0] in phrase.group:
                continue
            words = {"np": phrase.singular, "other": anchor.singular}
            for all_beyond, forms in beyond_of[anchor.group[0]]:
                beyond = [all_beyond[i] for i in phrase.group]
                # Clear only when one object is well beyond the other's edge and the rest are not beyond at all.
                if beyond.count("clearly") == 1 and beyond.count("no") == len(beyond) - 1:
                    yield phrase.group[beyond.index("clearly")], forms, words
            far = far_of[anchor.group[0]]
            near = sorted((far[i], i) for i in phrase.group)
            if 5 * near[0][0] <= 2 * near[1][0]:  # squared distances: the next one is 1.6 times as far
                yield near[0][1], NEAR, words


def _ordinal(layout: Layout, phrases: list[Phrase]) -> Iterator[Candidate]:
    for phrase in phrases:
        if not 3 <= len(phrase.group) <= 6:
            continue
        for axis, sides in ((0, ("left", "right")), (1, ("top", "bottom"))):
            ranked = sorted(phrase.group, key=lambda i: layout.objects[i].centre[axis])
            centres = [layout.objects[i].centre[axis] for i in ranked]
            if any(20 * (b - a) < _span(layout, axis) for a, b in pairwise(centres)):
                continue
            for side, order in zip(sides, (ranked, ranked[::-1]), strict=True):
                for number, target in zip(ORDINALS, order[:-1], strict=False):
                    forms = (f"the {number} {{np}} from the {side}", f"{number} {{np}} from {side}")
                    yield target, forms, {"np": phrase.singular}


def _groups(phrases: list[Phrase]) -> Iterator[Phrase]:
    return (p for p in phrases if len(p.group) >= 2)


def _span(layout: Layout, axis: int) -> int:
    """The image's side, in the doubled units of `PlacedShape.centre`."""
    return 2 * UNIT * (layout.width, layout.height)[axis]


def _beyond(layout: Layout, obj: int, other: int, axis: int, sign: int) -> str:
    """Whether an object lies beyond another in a direction: "clearly", "no", or "" for in between."""
    a, b = layout.objects[obj], layout.objects[other]
    edge = b.extent[axis] if sign < 0 else b.extent[axis + 2]
    if sign * (a.centre[axis] - 2 * edge) > 0:
        return "clearly"
    return "no" if sign * (a.centre[axis] - b.centre[axis]) <= 0 else ""


def _distance(layout: Layout, a: int, b: int) -> int:
    (ax, ay), (bx, by) = layout.objects[a].centre, layout.objects[b].centre
    return (ax - bx) ** 2 + (ay - by) ** 2
