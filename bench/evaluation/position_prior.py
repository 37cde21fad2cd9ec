"""Position prior: where the targets of a noun usually lie, whatever the image.

A network can learn "sheep: in the middle" in place of sheep (Huang et al., Deconfounded Visual Grounding, AAAI 2022).
It is then right where the target lies as usual and wrong elsewhere. The image is cut into nine equal parts, 3 x 3. The
usual part of a noun has most centres of its targets on the *other* images of the split: none decides about itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from bench.grounding import Expression, Scene

SIDE = 3
FEWEST = 5  # targets of the noun on other images; with fewer there is no usual part
WORD = re.compile(r"\w+")
# Words before which a noun phrase ends, and words within it that are no nouns.
ENDS = """
    in on at of with without by to from near behind under below above over beside between next who that which whose
    where is are was has wearing closest nearest farthest furthest facing looking standing sitting holding and or but
    not whom as for along across against around inside outside through into onto than
"""
NO_NOUNS = """
    the a an this these those his her its their left right top bottom middle center centre front back far close upper
    lower leftmost rightmost most very first second third fourth fifth last only other one 1st 2nd 3rd 4th 5th
"""
ENDING, SKIPPED = frozenset(ENDS.split()), frozenset(NO_NOUNS.split())


def noun(text: str) -> str:
    """Return the noun that an English expression is about, by its words alone: "" where there is none.

    It is the last word before the first preposition, relative or verb; "red car left of the bus" gives "car". No tagger
    is used, and some expressions give another word: all that matters is that equal nouns give equal words.
    """
    words = WORD.findall(text.casefold())
    end = next((n for n, word in enumerate(words) if word in ENDING and n), len(words))
    phrase = [word for word in words[:end] if not word.isdigit()]
    return next((word for word in reversed(phrase) if word not in SKIPPED), phrase[-1] if phrase else "")


def agreement(expressions: Sequence[Expression], scenes: Sequence[Scene], places: Sequence[int]) -> list[str | None]:
    """Label each expression "agrees" where its first target lies in its noun's usual part, else "disagrees".

    `places` are the positions of the expressions' scenes. None without a target, an image size or enough other targets.
    """
    # 1. The noun, the image and the part of each expression that has all three.
    numbers: dict[str, int] = {}
    known = [
        (n, place, noun(expressions[n].text))
        for n, place in enumerate(places)
        if expressions[n].targets and scenes[place].width and scenes[place].height
    ]
    names = np.array([numbers.setdefault(name, len(numbers)) for *_, name in known], np.int64)
    images = np.array([place for _, place, _ in known], np.int64)
    parts = np.array([_part(expressions[n], scenes[place]) for n, place, _ in known], np.int64)
    # 2. Targets of each noun by part, without those on the expression's own image.
    whole = np.zeros((len(numbers), SIDE**2), np.int64)
    np.add.at(whole, (names, parts), 1)
    pairs, pair = np.unique(np.stack([names, images]), axis=1, return_inverse=True)
    own = np.zeros((pairs.shape[1], SIDE**2), np.int64)
    np.add.at(own, (pair, parts), 1)
    others = whole[names] - own[pair]  # (K, 9)
    # 3. Its own part among them; of equal parts each is usual.
    usual = np.take_along_axis(others, parts[:, None], axis=1)[:, 0] == others.max(axis=1, initial=0)
    labels: list[str | None] = [None] * len(expressions)
    for (n, *_), agrees, enough in zip(known, usual.tolist(), (others.sum(axis=1) >= FEWEST).tolist(), strict=True):
        if enough:
            labels[n] = "agrees" if agrees else "disagrees"
    return labels


def _part(expression: Expression, scene: Scene) -> int:
    """Return the number of the part, row by row, in which the centre of an expression's box lies."""
    assert scene.width and scene.height
    x1, y1, x2, y2 = expression.box
    shares = (y1 + y2) / 2 / scene.height, (x1 + x2) / 2 / scene.width
    down, across = (int(min(max(SIDE * share, 0), SIDE - 1)) for share in shares)
    return SIDE * down + across
