"""Predicates between two boxes, each a score from 0 to 1: by geometry alone, or by CLIP on the pixels.

Every function takes boxes (..., 4), xyxy pixels, of subjects and of objects, which broadcast against each other, and
scores how well "subject predicate object" says what they do.

    beyond an edge   left of, right of, above, below     the share of the subject that is past the object's edge, less
                                                         the further the two lie off the axis
    apart            near, next to                       the gap, measured in sides of the two
    together         on, in, in front of, behind         which part of them is shared; what ends lower stands in front

That a man on a horse rides it no geometry can tell. CLIP chooses among "man riding horse", "horse riding man", ... on
the crop of the box around both: all predicates in both directions compete in one softmax, so a score says both what is
going on and who does it to whom. All crops of a batch are one call of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.boxes import box_area_xyxy
from bench.errors import UnknownName
from bench.grounding import Boxes, ImageArray
from pipelines.two_stage.clip.encoder import ClipEncoder
from pipelines.two_stage.clip.views import make_views

Float = NDArray[np.float64]
TOUCHING = 0.25  # of the subject's height: how far above the object's top edge it may end and still stand on it
TINY = 1e-9


def _beyond(subjects: Boxes, objects: Boxes, axis: int, back: bool = False) -> Float:
    """The share of the subject before the object's first edge along an axis, times the cosine of the angle off it.

    `back` looks the other way along the axis: past the last edge.
    """
    if back:  # everything mirrored: the edges of the axis change places and signs
        subjects, objects = subjects.copy(), objects.copy()
        for boxes in (subjects, objects):
            boxes[..., [axis, axis + 2]] = -boxes[..., [axis + 2, axis]]
    past = ((objects[..., axis] - subjects[..., axis]) / _sides(subjects)[axis]).clip(0, 1)
    way = (objects[..., :2] + objects[..., 2:] - subjects[..., :2] - subjects[..., 2:]) / 2
    straight = (way[..., axis] / np.linalg.norm(way, axis=-1).clip(TINY)).clip(0, 1)
    return np.asarray(past * straight)


left, above = partial(_beyond, axis=0), partial(_beyond, axis=1)
right, below = partial(_beyond, axis=0, back=True), partial(_beyond, axis=1, back=True)


def near(subjects: Boxes, objects: Boxes) -> Float:
    """1 where they touch, 0 where they are as far apart as they are large; what lies in something is not near it."""
    gap = np.maximum(np.maximum(subjects[..., :2] - objects[..., 2:], objects[..., :2] - subjects[..., 2:]), 0)
    side = (np.sqrt(box_area_xyxy(subjects)) + np.sqrt(box_area_xyxy(objects))) / 2
    apart = 1 - _shared(subjects, objects) / np.minimum(box_area_xyxy(subjects), box_area_xyxy(objects)).clip(TINY)
    return np.asarray((1 - np.linalg.norm(gap, axis=-1) / side.clip(TINY)).clip(0, 1) * apart)


def beside(subjects: Boxes, objects: Boxes) -> Float:
    """Near, and on one level: by the share of the lower one's height that both have."""
    level = _overlap(subjects, objects)[..., 1].clip(0) / np.minimum(_sides(subjects)[1], _sides(objects)[1])
    return np.asarray(near(subjects, objects) * level)


def on(subjects: Boxes, objects: Boxes) -> Float:
    """It is over the object, sticks out above it, and ends in it or just above it."""
    width, height = _sides(subjects)
    over = _overlap(subjects, objects)[..., 0].clip(0) / width
    out = ((objects[..., 1] - subjects[..., 1]) / height).clip(0, 1)
    hovering = (objects[..., 1] - subjects[..., 3]).clip(0) / (TOUCHING * height)
    rests = np.where(subjects[..., 3] <= objects[..., 3], (1 - hovering).clip(0), 0)
    return np.asarray(over * np.minimum(1, 2 * out) * rests)


def inside(subjects: Boxes, objects: Boxes) -> Float:
    """The share of it that lies in the object, less the nearer the two are in size."""
    area, other = box_area_xyxy(subjects).clip(TINY), box_area_xyxy(objects).clip(TINY)
    return np.asarray(_shared(subjects, objects) / area * (1 - area / other).clip(0))


def in_front(subjects: Boxes, objects: Boxes) -> Float:
    """They overlap, and it ends lower in the image, as what is nearer does on level ground."""
    smaller = np.minimum(box_area_xyxy(subjects), box_area_xyxy(objects)).clip(TINY)
    height = (_sides(subjects)[1] + _sides(objects)[1]) / 2
    lower = ((subjects[..., 3] - objects[..., 3]) / (TOUCHING * height)).clip(0, 1)
    return np.asarray(np.minimum(1, 2 * _shared(subjects, objects) / smaller) * lower)


def behind(subjects: Boxes, objects: Boxes) -> Float:
    return in_front(objects, subjects)


def larger(subjects: Boxes, objects: Boxes) -> Float:
    """0 for equal areas, 1 for three times the area and more."""
    ratio = box_area_xyxy(subjects).clip(TINY) / box_area_xyxy(objects).clip(TINY)
    return np.asarray(((ratio - 1) / 2).clip(0, 1))


def smaller(subjects: Boxes, objects: Boxes) -> Float:
    return larger(objects, subjects)


Predicate = Callable[[Boxes, Boxes], Float]
# What is said -> what it means. Several wordings may mean one thing.
GEOMETRY: dict[str, Predicate] = {
    **dict.fromkeys(("left of", "to the left of"), left),
    **dict.fromkeys(("right of", "to the right of"), right),
    **dict.fromkeys(("above", "over", "higher than"), above),
    **dict.fromkeys(("below", "under", "beneath", "lower than"), below),
    **dict.fromkeys(("near", "close to", "by"), near),
    **dict.fromkeys(("next to", "beside"), beside),
    **dict.fromkeys(("on", "on top of", "standing on"), on),
    **dict.fromkeys(("in", "inside"), inside),
    "in front of": in_front,
    "behind": behind,
    **dict.fromkeys(("larger than", "bigger than"), larger),
    "smaller than": smaller,
}


def meanings(wordings: Iterable[str]) -> dict[Predicate, tuple[str, ...]]:
    """Each predicate with those of `wordings` that say it. Raises UnknownName for what no geometry can tell."""
    out: dict[Predicate, tuple[str, ...]] = {}
    for wording in dict.fromkeys(wordings):
        if wording not in GEOMETRY:
            raise UnknownName("predicate of geometry", wording, GEOMETRY, "what must be looked at goes into `looked`")
        predicate = GEOMETRY[wording]
        out[predicate] = (*out.get(predicate, ()), wording)
    return out


def among(predicate: Predicate, boxes: Boxes) -> Float:
    """(N, 4) -> (N, N): how well it holds of box i to box j; 0 of a box to itself."""
    scores = predicate(boxes[:, None], boxes[None])
    np.fill_diagonal(scores, 0)
    return scores


def _sides(boxes: Boxes) -> tuple[Float, Float]:
    return (boxes[..., 2] - boxes[..., 0]).clip(TINY), (boxes[..., 3] - boxes[..., 1]).clip(TINY)


def _overlap(subjects: Boxes, objects: Boxes) -> Float:
    """(..., 2): how far they overlap along each axis; negative is a gap."""
    return np.minimum(subjects[..., 2:], objects[..., 2:]) - np.maximum(subjects[..., :2], objects[..., :2])


def _shared(subjects: Boxes, objects: Boxes) -> Float:
    """(...) the area both have."""
    return np.asarray(_overlap(subjects, objects).clip(0).prod(axis=-1))


class Shown(NamedTuple):
    """An image, the names of its N things, their boxes (N, 4) xyxy pixels, and the pairs (P, 2) to look at."""

    image: ImageArray
    names: Sequence[str]
    boxes: Boxes
    pairs: NDArray[np.intp]


class SeenPredicates:
    """Scores of predicates over pairs of things, for many images at once."""

    def __init__(self, predicates: Sequence[str], prompt: str, encoder: ClipEncoder) -> None:
        """`prompt` has the place {}: "a photo of a {}"."""
        self.predicates, self.prompt, self.encoder = tuple(predicates), prompt, encoder

    def score(self, batch: Sequence[Shown]) -> list[NDArray[np.float64]]:
        """For each image (P, 2, K): of each pair and predicate, said of the first thing and of the second."""
        crops = [self._crops(shown) for shown in batch if len(shown.pairs)]
        if not crops:
            return [np.zeros((0, 2, len(self.predicates))) for _ in batch]
        seen = self.encoder.encode_images(torch.cat(crops))  # (P, D), of the whole batch
        said = [text for shown in batch for i, j in shown.pairs.tolist() for text in self._texts(shown.names, i, j)]
        rows = {text: row for row, text in enumerate(dict.fromkeys(said))}
        table = self.encoder.encode_texts(list(rows))  # (T, D)
        index = torch.tensor([rows[text] for text in said], device=seen.device).view(len(seen), -1)  # (P, 2 K)
        cosines = (seen @ table.T).gather(1, index)
        chances = (self.encoder.scale * cosines).double().softmax(dim=1).cpu().numpy()
        scores = chances.reshape(len(seen), 2, len(self.predicates))
        return np.split(scores, np.cumsum([len(shown.pairs) for shown in batch])[:-1])

    def _texts(self, names: Sequence[str], i: int, j: int) -> list[str]:
        a, b = names[i], names[j]
        phrases = [f"{a} {p} {b}" for p in self.predicates] + [f"{b} {p} {a}" for p in self.predicates]
        return [self.prompt.replace("{}", phrase) for phrase in phrases]

    def _crops(self, shown: Shown) -> torch.Tensor:
        """(P, 3, S, S) in 0..1: the boxes around each pair."""
        a, b = shown.boxes[shown.pairs[:, 0]], shown.boxes[shown.pairs[:, 1]]
        around = np.concatenate([np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], axis=1)
        return make_views(shown.image, around, ("crop",), self.encoder.image_size, 0.0, self.encoder.device)[0]


def close_pairs(boxes: Boxes, confidences: Sequence[float], most: int) -> NDArray[np.intp]:
    """(N, 4) -> at most `most` pairs (P, 2), i < j, of things that touch or nearly so, the surest and nearest first."""
    i, j = np.triu_indices(len(boxes), k=1)
    sure = np.asarray(confidences, np.float64)
    # One inside the other is no neighbour to `near`, and yet the first thing to look at.
    overlap = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
    closeness = np.where((overlap > 0).all(axis=1), 1.0, near(boxes[i], boxes[j]))
    worth = sure[i] * sure[j] * closeness
    order = np.argsort(-worth, kind="stable")[:most]
    order = order[worth[order] > 0]
    return np.stack([i[order], j[order]], axis=1)
