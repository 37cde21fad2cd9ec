"""The losses of a CLIP that learns to choose, over logits and masks alone.

choose    for each text, of the candidates of its image (V views summed, as the ranker sums them):
          -log( sum of e^logit over the positives / sum over the positives and negatives )
contrast  texts and objects of a batch against each other, both ways, several positives, some pairs left out
siglip    each pair of text and candidate by itself: is it one? (SigLIP; Zhai et al., ICCV 2023)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

POSITIVE, IGNORED = 0.5, 0.3  # IoU with the ground truth from which a candidate is right, and is no longer wrong


def sides(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Return which candidates are positive and which count at all, by their IoU (Q, K) with each text's truth."""
    positive = overlap >= POSITIVE
    return positive, positive | (overlap < IGNORED)


def choose(logits: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the loss of each text (Q,) by all views of logits (V, Q, K), and the mean of the losses by one view.

    Texts without a positive have none: 0.
    """
    positive, counts = sides(overlap)
    every = torch.cat([logits.sum(0, keepdim=True), logits])  # (1 + V, Q, K)
    losses = _among(every, counts) - _among(every, positive)
    losses = torch.where(positive.any(dim=1), losses, 0.0)
    return losses[0], losses[1:].mean(0)


def _among(logits: Tensor, mask: Tensor) -> Tensor:
    """Compute logsumexp over the last axis where `mask`; rows without any give 0 and no gradient."""
    mask = mask.expand_as(logits)
    some = mask.any(dim=-1)
    kept = torch.where(mask | ~some[..., None], logits, -torch.inf)
    return torch.where(some, kept.logsumexp(dim=-1), 0.0)


def contrast(logits: Tensor, positive: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Compute the symmetric InfoNCE of texts and objects (N, R): the mean of both ways, positives summed."""
    counts = torch.ones_like(positive) if left_out is None else positive | ~left_out
    ways = [_among(x, c) - _among(x, p) for x, c, p in ((logits, counts, positive), (logits.T, counts.T, positive.T))]
    return (ways[0].mean() + ways[1].mean()) / 2


def false_negatives(texts: Sequence[str], categories: Sequence[str], scenes: Sequence[int]) -> Tensor:
    """Mark the pairs of texts (N, N) of which nobody knows that one's object is wrong for the other.

    They are of one image, equal, or of one category with all the words of one in the other.
    """
    words = [frozenset(text.lower().split()) for text in texts]
    index = {word: number for number, word in enumerate(sorted(set().union(*words)))}
    bags = torch.zeros(len(texts), max(1, len(index)))
    for row, own in zip(bags, words, strict=True):
        row[[index[word] for word in own]] = 1.0
    shared, size = bags @ bags.T, bags.sum(1)
    within = (shared == size[:, None]) | (shared == size[None])
    equal = shared == torch.maximum(size[:, None], size[None])
    names = {name: number for number, name in enumerate(dict.fromkeys(categories))}
    kind = torch.tensor([names[name] for name in categories])
    place = torch.tensor(scenes)
    return (place[:, None] == place[None]) | equal | (within & (kind[:, None] == kind[None]))


def siglip(logits: Tensor, overlap: Tensor) -> Tensor:
    """Compute the pairwise sigmoid loss of texts and candidates (Q, K) -> (Q,), both sides of equal weight."""
    positive, counts = sides(overlap)
    negative = counts & ~positive
    weight = negative.sum() / positive.sum().clamp(min=1)
    signs = torch.where(positive, 1.0, -1.0)
    each = -F.logsigmoid(signs * logits) * torch.where(positive, weight, negative.float())
    return each.sum(1) / counts.sum(1).clamp(min=1)
