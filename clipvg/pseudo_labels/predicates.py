"""Score predicates between two boxes, from 0 to 1: by geometry alone, or by CLIP on the pixels.

Every function takes boxes (..., 4), xyxy pixels, of subjects and of objects, which broadcast against each other, and
scores how well "subject predicate object" describes them.

    beyond an edge   left of, right of, above, below     the share of the subject that is past the object's edge, less
                                                         the further the two lie off the axis
    apart            near, next to                       the gap, measured in sides of the two
    together         on, in, in front of, behind         which part of them is shared; what ends lower is in front

That a man on a horse rides it, geometry does not show. CLIP chooses among "man riding horse", "horse riding man", on
the crop of the box around both: all predicates in both directions compete in one softmax, so a score tells both what
happens and who does it to whom. All crops of a batch are one call of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

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

    `back` goes the other way along the axis: past the last edge.
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
    """Score 1 where they touch, 0 where they are as far apart as they are large; what lies inside is not near."""
    gap = np.maximum(np.maximum(subjects[..., :2] - objects[..., 2:], objects[..., :2] - subjects[..., 2:]), 0)
    side = (np.sqrt(box_area_xyxy(subjects)) + np.sqrt(box_area_xyxy(objects))) / 2
    apart = 1 - _shared(subjects, objects) / np.minimum(box_area_xyxy(subjects), box_area_xyxy(objects)).clip(TINY)
    return np.asarray((1 - np.linalg.norm(gap, axis=-1) / side.clip(TINY)).clip(0, 1) * apart)


def beside(subjects: Boxes, objects: Boxes) -> Float:
    """Score near, and on one level: by the share of the lower one's height that both have."""
    level = _overlap(subjects, objects)[..., 1].clip(0) / np.minimum(_sides(subjects)[1], _sides(objects)[1])
    return np.asarray(near(subjects, objects) * level)


def on(subjects: Boxes, objects: Boxes) -> Float:
    """Score a subject over the object that sticks out above it, and ends in it or just above it."""
    width, height = _sides(subjects)
    over = _overlap(subjects, objects)[..., 0].clip(0) / width
    out = ((objects[..., 1] - subjects[..., 1]) / height).clip(0, 1)
    hovering = (objects[..., 1] - subjects[..., 3]).clip(0) / (TOUCHING * height)
    rests = np.where(subjects[..., 3] <= objects[..., 3], (1 - hovering).clip(0), 0)
    return np.asarray(over * np.minimum(1, 2 * out) * rests)


def inside(subjects: Boxes, objects: Boxes) -> Float:
    """Score the share of the subject that lies in the object, less the nearer the two are in size."""
    area, other = box_area_xyxy(subjects).clip(TINY), box_area_xyxy(objects).clip(TINY)
    return np.asarray(_shared(subjects, objects) / area * (1 - area / other).clip(0))


def in_front(subjects: Boxes, objects: Boxes) -> Float:
    """Score an overlap where the subject ends lower in the image, as what is nearer does on level ground."""
    smaller = np.minimum(box_area_xyxy(subjects), box_area_xyxy(objects)).clip(TINY)
    height = (_sides(subjects)[1] + _sides(objects)[1]) / 2
    lower = ((subjects[..., 3] - objects[..., 3]) / (TOUCHING * height)).clip(0, 1)
    return np.asarray(np.minimum(1, 2 * _shared(subjects, objects) / smaller) * lower)


def behind(subjects: Boxes, objects: Boxes) -> Float:
    return in_front(objects, subjects)


def larger(subjects: Boxes, objects: Boxes) -> Float:
    """Score 0 for equal areas, 1 for three times the area and more."""
    ratio = box_area_xyxy(subjects).clip(TINY) / box_area_xyxy(objects).clip(TINY)
    return np.asarray(((ratio - 1) / 2).clip(0, 1))


def smaller(subjects: Boxes, objects: Boxes) -> Float:
    return larger(objects, subjects)


Predicate = Callable[[Boxes, Boxes], Float]
# Wording -> predicate. Several wordings may mean one predicate.
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
    """Group `wordings` by their predicate. Raises UnknownName for what is no geometry."""
    out: dict[Predicate, tuple[str, ...]] = {}
    for wording in dict.fromkeys(wordings):
        if wording not in GEOMETRY:
            raise UnknownName("predicate of geometry", wording, GEOMETRY, "what needs the pixels goes into `looked`")
        predicate = GEOMETRY[wording]
        out[predicate] = (*out.get(predicate, ()), wording)
    return out


def among(predicate: Predicate, boxes: Boxes) -> Float:
    """Score a predicate from box i to box j, (N, 4) -> (N, N); 0 of a box to itself."""
    scores = predicate(boxes[:, None], boxes[None])
    np.fill_diagonal(scores, 0)
    return scores


def _sides(boxes: Boxes) -> tuple[Float, Float]:
    return (boxes[..., 2] - boxes[..., 0]).clip(TINY), (boxes[..., 3] - boxes[..., 1]).clip(TINY)


def _overlap(subjects: Boxes, objects: Boxes) -> Float:
    """How far they overlap along each axis, (..., 2); negative is a gap."""
    return np.minimum(subjects[..., 2:], objects[..., 2:]) - np.maximum(subjects[..., :2], objects[..., :2])


def _shared(subjects: Boxes, objects: Boxes) -> Float:
    """The area both have, (...)."""
    return np.asarray(_overlap(subjects, objects).clip(0).prod(axis=-1))


# An image, the names of its N objects, their boxes (N, 4) xyxy pixels, and the pairs (P, 2) to score.
PairsOfImage = tuple[ImageArray, Sequence[str], Boxes, NDArray[np.intp]]


def score_pairs(
    batch: Sequence[PairsOfImage], predicates: Sequence[str], prompt: str, encoder: ClipEncoder
) -> list[Float]:
    """Score K predicates for each pair by CLIP -> (P, 2, K) for each image: of the first object, and of the second.

    `prompt` has the place {}: "a photo of a {}".
    """
    # 1. A vector for the crop around each pair, of the whole batch: (P, D).
    crops = [_crops_of_pairs(image, boxes, pairs, encoder) for image, _, boxes, pairs in batch if len(pairs)]
    if not crops:
        return [np.zeros((0, 2, len(predicates))) for _ in batch]
    vectors = encoder.encode_images(torch.cat(crops))
    # 2. Texts of both directions, each encoded once: (T, D).
    texts = []
    for _, names, _, pairs in batch:
        for i, j in pairs.tolist():
            directions = ((names[i], names[j]), (names[j], names[i]))
            texts += [prompt.replace("{}", f"{a} {predicate} {b}") for a, b in directions for predicate in predicates]
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    table = encoder.encode_texts(list(rows))
    # 3. One softmax over all predicates and both directions of a pair.
    index = torch.tensor([rows[text] for text in texts], device=vectors.device).view(len(vectors), -1)  # (P, 2 K)
    cosines = (vectors @ table.T).gather(1, index)
    probabilities = (encoder.scale * cosines).double().softmax(dim=1).cpu().numpy()
    scores = probabilities.reshape(len(vectors), 2, len(predicates))
    return np.split(scores, np.cumsum([len(pairs) for *_, pairs in batch])[:-1])


def _crops_of_pairs(image: ImageArray, boxes: Boxes, pairs: NDArray[np.intp], encoder: ClipEncoder) -> torch.Tensor:
    """The boxes around each pair as views, (P, 3, S, S) in 0..1."""
    a, b = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
    around = np.concatenate([np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], axis=1)
    return make_views([image], [around], ("crop",), encoder.image_size, 0.0, encoder.device)[0]


def close_pairs(boxes: Boxes, confidences: Sequence[float], most: int) -> NDArray[np.intp]:
    """List at most `most` pairs (P, 2), i < j, of boxes (N, 4) that nearly touch, the surest and nearest first."""
    i, j = np.triu_indices(len(boxes), k=1)
    sure = np.asarray(confidences, np.float64)
    # One inside the other is no neighbour to `near`, and yet the first pair to score.
    overlap = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
    closeness = np.where((overlap > 0).all(axis=1), 1.0, near(boxes[i], boxes[j]))
    worth = sure[i] * sure[j] * closeness
    order = np.argsort(-worth, kind="stable")[:most]
    order = order[worth[order] > 0]
    return np.stack([i[order], j[order]], axis=1)
