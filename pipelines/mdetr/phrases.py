"""Which query answers: for a text that stands alone, and for a phrase inside its caption (spec/pipelines.md 2.1, 2.2).

MDETR says of every query how its object is spread over the tokens of the text, with one more place for "no object". A
referring expression asks for the one object that the whole text is about: the query that is least likely none. A phrase
of a caption asks for the object of some of its tokens: the query that is likeliest one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.grounding import Caption
from pipelines.mdetr.text import Tokenizer


def query_scores(logits: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """(K, N, S + 1) logits over S token slots and no object, K masks -> (K, N) scores of the queries in 0..1.

    A mask is (T,) True on the tokens of a phrase, or None for a text that stands alone. The score of a phrase is its
    most probable token's, as in the official evaluation; a phrase that has no token scores 0 everywhere.
    """
    chance = logits.float().softmax(dim=-1)
    scores = 1 - chance[..., -1]
    asked = [index for index, mask in enumerate(masks) if mask is not None]
    if asked:
        slots = torch.stack([_padded(masks[i], chance.shape[-1]) for i in asked]).to(chance.device)  # (P, S + 1)
        scores[asked] = (chance[asked] * slots[:, None]).amax(dim=-1)
    return scores


def phrase_mask(caption: Caption | None, tokenizer: Tokenizer) -> Tensor | None:
    """The tokens of a phrase in its caption; None for a text that stands alone."""
    return None if caption is None else tokenizer.spans(caption.text, [(caption.start, caption.end)])


def _padded(mask: Tensor | None, width: int) -> Tensor:
    """(T,) -> (width,). Tokens beyond the slots have none, and the last place, no object, is no token's."""
    assert mask is not None
    slots = torch.zeros(width, dtype=torch.bool)
    kept = mask[: width - 1]
    slots[: len(kept)] = kept
    return slots
