"""Which query answers: for a text that stands alone, and for a phrase inside its caption (spec/pipelines.md 2.1, 2.2).

MDETR says of every query how its object is spread over the tokens of the text, with one more place for "no object". A
referring expression asks for the one object that the whole text is about: the query that is least likely none. A phrase
of a caption asks for the object of some of its tokens: the query that is likeliest one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.grounding import Caption
from pipelines.mdetr.text import Tokenizer
from pipelines.two_stage.language.dependency import load_spacy

NOUNS = ("NN", "NNS", "NNP", "NNPS")


def query_scores(logits: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """(K, N, S + 1) logits over S token slots and no object, K masks -> (K, N) scores of the queries in 0..1.

    A mask is (T,) True on the tokens of a phrase, or None for a text that stands alone. The score of a phrase is its
    most probable token's, as in the official evaluation; a phrase that has no token scores 0 everywhere.
    """
    chance = logits.float().softmax(dim=-1)
    scores = 1 - chance[..., -1]
    asked = {index: mask for index, mask in enumerate(masks) if mask is not None}
    if asked:
        # Tokens beyond the slots have none, and the last place, no object, is no token's.
        width, rows = chance.shape[-1], list(asked)
        slots = torch.stack([F.pad(mask[: width - 1], (0, max(1, width - len(mask)))) for mask in asked.values()])
        scores[rows] = (chance[rows] * slots.to(chance.device)[:, None]).amax(dim=-1)
    return scores


def phrase_mask(caption: Caption | None, tokenizer: Tokenizer) -> Tensor | None:
    """The tokens of a phrase in its caption; None for a text that stands alone."""
    return None if caption is None else tokenizer.spans(caption.text, [(caption.start, caption.end)])


def root_finder() -> Callable[[str], Sequence[tuple[int, int]]]:
    """Return a function: text -> character spans of its root noun phrase. Raises MissingPackage without spaCy."""
    model = load_spacy('positive_tokens = "root"', '"expression"')
    return lru_cache(maxsize=100_000)(lambda text: root_spans(model(text)))


def root_spans(doc: Any) -> list[tuple[int, int]]:
    """Find the character spans of a parsed text that name its target: the root noun with what stands left of it.

    The whole text where there is one noun at most, or no root noun; as the official annotations were made.
    """
    whole = [(0, len(doc.text))]
    named = [token for token in doc if token.tag_ in (*NOUNS, "PRP")]
    root = next((token for token in doc if token.dep_ == "ROOT" and token.tag_ != "UH"), None)
    if len(named) <= 1 or root is None:
        return whole
    if any(child.dep_ == "compound" and child.tag_.startswith("VB") for child in root.children):
        return whole
    if root.tag_ in NOUNS:
        tokens = _left_of(root)
    else:  # a verb: its first noun
        nouns = [child for child in root.children if child.tag_ in (*NOUNS, "PRP")]
        if not nouns:
            return whole
        tokens = [*nouns[0].lefts, nouns[0]]
    return [(token.idx, token.idx + len(token.text)) for token in tokens]


def _left_of(noun: Any) -> list[Any]:
    """The noun, what depends on it on its left, and what depends so on nouns among that."""
    return [noun, *(t for left in noun.lefts for t in (_left_of(left) if left.tag_ in NOUNS else [left]))]
