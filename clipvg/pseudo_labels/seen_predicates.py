"""Predicates that must be seen: CLIP's choice among "man riding horse", "horse riding man", ... for a pair of boxes.

A pair is shown as the crop of the box around both. Every predicate said in either direction competes in one softmax, so
that a score says both what is going on and who does it to whom; what CLIP cannot tell comes out low both ways. All
crops of a batch are one call of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.grounding import Boxes, Picture
from clipvg.pseudo_labels.predicates import near
from pipelines.clip.encoder import ClipEncoder
from pipelines.clip.views import make_views

REMEMBERED = 100_000  # texts in the encoder's cache before it is emptied: classes squared times predicates are many


class Shown(NamedTuple):
    """A picture, the names of its N things, their boxes (N, 4) xyxy pixels, and the pairs (P, 2) to look at."""

    picture: Picture
    names: Sequence[str]
    boxes: Boxes
    pairs: NDArray[np.intp]


class SeenPredicates:
    """Scores of predicates over pairs of things, for many pictures at once."""

    def __init__(self, predicates: Sequence[str], prompt: str, encoder: ClipEncoder) -> None:
        """`prompt` has the place {}: "a photo of a {}"."""
        self.predicates, self.prompt, self.encoder = tuple(predicates), prompt, encoder
        self._asked: set[str] = set()

    def score(self, batch: Sequence[Shown]) -> list[NDArray[np.float64]]:
        """For each picture (P, 2, K): of each pair and predicate, said of the first thing and of the second."""
        crops = [self._crops(shown) for shown in batch if len(shown.pairs)]
        if not crops:
            return [np.zeros((0, 2, len(self.predicates))) for _ in batch]
        seen = self.encoder.encode_images(torch.cat(crops))  # (P, D), of the whole batch
        said = [text for shown in batch for i, j in shown.pairs.tolist() for text in self._texts(shown.names, i, j)]
        rows = {text: row for row, text in enumerate(dict.fromkeys(said))}
        if len(self._asked | rows.keys()) > REMEMBERED:
            self.encoder.forget_texts()
            self._asked.clear()
        self._asked |= rows.keys()
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
        return make_views(shown.picture, around, ("crop",), self.encoder.image_size, 0.0, self.encoder.device)[0]


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
