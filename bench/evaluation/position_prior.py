"""Position prior: where the targets of a noun usually lie, whatever the image.

A network can learn "sheep: in the middle" in place of sheep (Huang et al., Deconfounded Visual Grounding, AAAI 2022).
It is then right where the target lies as usual and wrong elsewhere. The image is cut into nine equal parts, 3 x 3. The
usual part of a noun has most centres of its targets on the *other* images of the split: none decides about itself.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from bench.datasets.annotations import Annotations

Int = NDArray[np.int64]

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


def agreement(known: Annotations) -> Int:
    """Return for each expression (N,) whether its own box lies in its noun's usual part: 0 it does, 1 it does not.

    -1 without a target, an image size or enough other targets.
    """
    # 1. The noun, the image and the part of each expression (K) that has all three.
    sizes = known.sizes[known.image]
    places = np.flatnonzero(~np.isnan(known.boxes[:, 0]) & ~np.isnan(sizes).any(axis=1))
    numbers: dict[str, int] = {}
    number_of = {text: numbers.setdefault(noun(text), len(numbers)) for text in dict.fromkeys(known.texts)}
    names = np.array([number_of[text] for text in known.texts], np.int64)[places]
    images = known.image[places]
    shares = (known.boxes[places, :2] + known.boxes[places, 2:]) / 2 / sizes[places]
    across, down = np.clip(SIDE * shares, 0, SIDE - 1).astype(np.int64).T
    parts = SIDE * down + across
    # 2. Targets of each noun by part, without those on the expression's own image.
    whole = np.zeros((len(numbers), SIDE**2), np.int64)
    np.add.at(whole, (names, parts), 1)
    pairs, pair = np.unique(names * len(known.scenes) + images, return_inverse=True)
    own = np.zeros((len(pairs), SIDE**2), np.int64)
    np.add.at(own, (pair, parts), 1)
    others = whole[names] - own[pair]  # (K, 9)
    # 3. Its own part among them; of equal parts each is usual.
    usual = np.take_along_axis(others, parts[:, None], axis=1)[:, 0] == others.max(axis=1, initial=0)
    labels = np.full(len(known.image), -1)
    labels[places] = np.where(others.sum(axis=1) < FEWEST, -1, np.where(usual, 0, 1))
    return labels
