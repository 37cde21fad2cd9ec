"""Which query answers a text that stands alone, and a phrase of a caption."""

import sys

import pytest
import torch

from bench.errors import MissingPackage
from bench.grounding import Caption
from pipelines.mdetr.phrases import phrase_mask, query_scores, root_finder, root_spans
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


class Token:
    """A token of spaCy's: text, its place, tag, dependency, and what hangs on it."""

    def __init__(self, text, idx, tag, dep):
        self.text, self.idx, self.tag_, self.dep_, self.lefts, self.children = text, idx, tag, dep, [], []


class Doc(list):
    """doc("the/DT/det/1 star/NN/ROOT/1 ..."): words with their tags, dependencies and heads."""

    def __init__(self, said):
        parts = [word.split("/") for word in said.split()]
        self.text = " ".join(part[0] for part in parts)
        places = [sum(len(part[0]) + 1 for part in parts[:n]) for n in range(len(parts))]
        super().__init__(Token(p[0], place, *p[1:3]) for p, place in zip(parts, places, strict=True))
        for number, part in enumerate(parts):
            head = int(part[3])
            if head != number:
                self[head].children.append(self[number])
                self[head].lefts += [self[number]] if number < head else []


@pytest.mark.parametrize(
    ("said", "root"),
    [
        ("the/DT/det/2 red/JJ/amod/2 star/NN/ROOT/2 above/IN/prep/2 a/DT/det/5 ring/NN/pobj/3", ["star", "the", "red"]),
        ("tennis/NN/compound/1 player/NN/ROOT/1 by/IN/prep/1 the/DT/det/4 net/NN/pobj/2", ["player", "tennis"]),
        ("a/DT/det/1 man/NN/nsubj/2 holds/VBZ/ROOT/2 a/DT/det/4 bat/NN/dobj/2", ["a", "man"]),
        ("left/JJ/amod/1 star/NN/ROOT/1", ["left star"]),  # one noun: the whole text
        ("is/VBZ/ROOT/0 there/EX/expl/0 by/IN/prep/0 a/DT/det/4 cup/NN/pobj/2 of/IN/prep/4 tea/NN/pobj/5", [None]),
    ],
)
def test_the_root_noun_phrase_is_the_target(said, root):
    doc = Doc(said)
    found = [doc.text[start:end] for start, end in root_spans(doc)]
    assert found == [doc.text if part is None else part for part in root]


def test_without_spacy_the_root_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingPackage, match=r'positive_tokens = "root" needs spaCy.*"expression"'):
        root_finder()
