"""Reason over boxes: from names' probabilities and relations to the box that is meant (ReCLIP, 3.2).

A name's probabilities over the boxes come from a ranker; relations and superlatives multiply them,

    relation      p(i) <- p(i) * sum over j of  rel(i, j) q(j)         q: the same for the other object
    superlative   p(i) <- p(i) * sum over j of  [i is further than j] p(j)

each renormalised; where nothing is left (one box alone, say) p stays. Counting, "the third from the left", is ours:
p(i) times the probability that exactly two of the objects so named are further.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.boxes import box_area_xyxy, iou_pairwise
from bench.grounding import Boxes
from pipelines.two_stage.language.lexicon import TOWARDS
from pipelines.two_stage.language.parse import Phrase, Superlative

Float = NDArray[np.float64]
SAME = 0.5  # IoU above which two boxes count as one object


@dataclass(frozen=True)
class Geometry:
    """The geometry of an image's boxes (R, 4), xyxy pixels of (width, height); each part is computed once."""

    boxes: Boxes
    size: tuple[int, int]

    @cached_property
    def keys(self) -> dict[str, Float]:
        """Compute direction -> (R,): the greater, the further that way. Places in shares of the image's sides."""
        width, height = self.size
        x, y = (self.boxes[:, 0] + self.boxes[:, 2]) / (2 * width), (self.boxes[:, 1] + self.boxes[:, 3]) / (2 * height)
        tall, area = self.boxes[:, 3] - self.boxes[:, 1], box_area_xyxy(self.boxes)
        places = {"left": -x, "right": x, "top": -y, "bottom": y, "middle": -np.hypot(x - 0.5, y - 0.5)}
        return places | {"big": area, "small": -area, "tall": tall, "short": -tall}

    @cached_property
    def pairs(self) -> dict[str, Float]:
        """Compute relation -> (R, R): how much it holds of box i to box j, 0 to 1."""
        out = {name: _further(self.keys[key]) for name, key in TOWARDS.items()}
        out["inside"] = share_inside(self.boxes, self.boxes)
        for matrix in out.values():
            np.fill_diagonal(matrix, 0)
        return out

    @cached_property
    def nearest_first(self) -> NDArray[np.intp]:
        """Sort the boxes, in column j by the distance of their centres to that of box j -> (R, R)."""
        centres = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        return np.argsort(np.linalg.norm(centres[:, None] - centres[None], axis=-1), axis=0, kind="stable")

    @cached_property
    def same(self) -> NDArray[np.bool_]:
        """Tell which pairs of boxes are about the same object -> (R, R)."""
        return iou_pairwise(self.boxes, self.boxes) > SAME


def reason(phrase: Phrase, named: Mapping[str, Float], geometry: Geometry) -> Float:
    """Compute the probabilities (R,) that each box is what `phrase` means.

    `named` maps each of `phrase.texts()` to its own (R,) probabilities; a phrase without a name starts from all boxes
    alike.
    """
    count = len(geometry.boxes)
    p = named[phrase.text] if phrase.text else np.full(count, 1 / count)
    for name, phrase_of_other in phrase.relations:
        other = reason(phrase_of_other, named, geometry)
        if name in ("near", "far"):
            p = multiplied(p, _by_distance(p, other, geometry, name == "near"))
        else:
            p = multiplied(p, geometry.pairs[name] @ other)
    for superlative in phrase.superlatives:
        p = multiplied(p, _superlative(p, superlative, geometry))
    return p


def _superlative(p: Float, superlative: Superlative, geometry: Geometry) -> Float:
    directions, rank = superlative
    key = np.sum([geometry.keys[towards] for towards in directions], axis=0)
    if rank == 0:
        return _further(key) @ p
    # 1. Of the boxes about one object only the likeliest counts.
    likely, place = p / p.max(), np.empty(len(p), int)
    place[np.argsort(-p, kind="stable")] = np.arange(len(p))
    better = (place[None, :] < place[:, None]) & geometry.same
    likely = likely * (1 - (better * likely).max(axis=1))
    # 2. The probability that exactly `rank` of the others are further.
    return exactly(rank, _further(key).T * likely * ~geometry.same)


def exactly(number: int, probabilities: Float) -> Float:
    """Compute the probability that exactly `number` of a row's independent events happen, (R, J) -> (R,).

    Each event is a polynomial (1 - c) + c x, cut above x^number; halves of them are multiplied until one is left.
    """
    terms = np.zeros((*probabilities.shape, number + 1))
    terms[..., 0] = 1 - probabilities
    if number:
        terms[..., 1] = probabilities
    while terms.shape[1] > 1:
        if terms.shape[1] % 2:
            one = np.zeros((len(terms), 1, number + 1))
            one[..., 0] = 1
            terms = np.concatenate([terms, one], axis=1)
        a, b = terms[:, ::2], terms[:, 1::2]
        terms = np.zeros_like(a)
        for power in range(number + 1):
            terms[..., power:] += a[..., power : power + 1] * b[..., : number + 1 - power]
    return terms[:, 0, number]


def _by_distance(p: Float, other: Float, geometry: Geometry, near: bool) -> Float:
    """Sum for each box i, over j, q(j) times the p of the boxes further from (or nearer to) j than i."""
    order = geometry.nearest_first
    upto = p[order].cumsum(axis=0)  # in column j, by distance to j
    beaten = upto[-1] - upto if near else upto - p[order]
    table = np.empty_like(beaten)
    np.put_along_axis(table, order, beaten, axis=0)
    np.fill_diagonal(table, 0)  # nothing is next to itself
    return table @ other


def _further(key: Float) -> Float:
    """Compare keys, (R,) -> (R, R): 1 where i is further than j."""
    return (key[:, None] > key[None, :]).astype(np.float64)


def share_inside(inner: Boxes, outer: Boxes) -> Float:
    """Compute the share of each inner box's area that lies in each outer box, (N, 4) and (M, 4) -> (N, M)."""
    low = np.maximum(inner[:, None, :2], outer[None, :, :2])
    high = np.minimum(inner[:, None, 2:], outer[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=-1)
    return np.asarray(shared / box_area_xyxy(inner).clip(1e-9)[:, None], np.float64)


def multiplied(p: Float, factor: Float) -> Float:
    """Multiply probabilities (R,) by factors and renormalise; unchanged where nothing would be left."""
    product = p * factor
    total = product.sum()
    return product / total if total > 0 else p
