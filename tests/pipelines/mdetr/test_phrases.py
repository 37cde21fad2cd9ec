"""Which query answers a text that stands alone, and a phrase of a caption."""

import torch

from bench.grounding import Caption
from pipelines.mdetr.phrases import phrase_mask, query_scores
from pipelines.mdetr.text import Tokenizer, small_tokenizer

SENTENCE = "a red star above a blue star"


def logits_of(*queries, slots=8):
    """Queries given as {slot: probability}; the rest is spread over no object."""
    chance = torch.full((len(queries), slots + 1), 1e-6)
    for row, query in zip(chance, queries, strict=True):
        row[-1] = 1 - sum(query.values())
        for slot, value in query.items():
            row[slot] = value
    return chance.log()[None]


def test_alone_the_least_likely_nothing_wins():
    logits = logits_of({1: 0.1, 2: 0.1}, {3: 0.3, 4: 0.3, 5: 0.3}, {2: 0.8})
    scores = query_scores(logits, [None])
    torch.testing.assert_close(scores, torch.tensor([[0.2, 0.9, 0.8]]), atol=1e-4, rtol=0)


def test_a_phrase_asks_for_its_own_tokens():
    logits = logits_of({1: 0.3, 2: 0.3, 3: 0.3}, {5: 0.5, 6: 0.2}, {7: 0.9}).expand(3, -1, -1)
    masks = [torch.tensor([False] * 5 + [True] * 2 + [False]), None, torch.tensor([False, True])]
    scores = query_scores(logits, masks)
    torch.testing.assert_close(scores[1], torch.tensor([0.9, 0.7, 0.9]), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores[0], torch.tensor([0.0, 0.5, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores[2], torch.tensor([0.3, 0.0, 0.0]), atol=1e-4, rtol=0)


def test_tokens_beyond_the_slots_and_the_last_place_are_nobodys():
    logits = logits_of({0: 0.1}, {2: 0.2}, slots=3)  # no object is most likely everywhere
    assert query_scores(logits, [torch.tensor([False, False, True, True, True, True])]).argmax().item() == 1
    assert query_scores(logits, [torch.tensor([False] * 3 + [True] * 4)]).tolist() == [[0.0, 0.0]]


def test_the_mask_of_a_phrase():
    tokenizer = Tokenizer.from_json(small_tokenizer([SENTENCE], 64))
    start = SENTENCE.index("a blue")
    assert phrase_mask(None, tokenizer) is None
    mask = phrase_mask(Caption(SENTENCE, start, len(SENTENCE)), tokenizer)
    assert mask.nonzero()[:, 0].tolist() == [5, 6, 7]
