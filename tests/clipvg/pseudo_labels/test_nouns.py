"""Nouns of captions: singulars and plurals, noun chunks and what a caption is about, names matched to classes."""

from dataclasses import dataclass

import pytest

from bench.errors import MissingPackage
from clipvg.pseudo_labels.chunks import (
    chunks_of_doc,
    classes_named,
    entities,
    lemma,
    open_parser,
    parse_caption,
    plural,
)


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("dogs", "dog"), ("people", "person"), ("women", "woman"), ("snowmen", "snowman"), ("children", "child"),
        ("knives", "knife"), ("berries", "berry"), ("crosses", "cross"), ("boxes", "box"), ("benches", "bench"),
        ("dishes", "dish"), ("potatoes", "potato"), ("buses", "bus"), ("horses", "horse"), ("shoes", "shoe"),
        ("cookies", "cookie"), ("vases", "vase"), ("toothbrushes", "toothbrush"), ("keys", "key"),
    ],
)  # fmt: skip
def test_singular_and_plural(many, one):
    assert lemma(many) == one and plural(one) == many
    assert lemma(one) == one


@pytest.mark.parametrize("word", ["glass", "bus", "tennis", "scissors", "sheep", "grass", "skis", "as", "specimen"])
def test_what_is_no_plural_stays(word):
    assert lemma(word) == word


@pytest.mark.parametrize(
    ("caption", "chunks", "head"),
    [("A young man riding a wave.", ["a young man", "a wave"], 0),
     ("a group of people standing around a kitchen", ["a group", "people", "a kitchen"], 1),
     ("a black and white photo of a dog", ["a black and white photo", "a dog"], 1),
     ("two dogs are playing with a teddy bear", ["two dogs", "a teddy bear"], 0),
     ("there is a man that is holding a racquet", ["a man", "a racquet"], 0),
     ("In the kitchen, a woman cuts vegetables", ["the kitchen", "a woman", "vegetables"], 1),
     ("a man dressed in a suit and a woman", ["a man", "a suit", "a woman"], 0),
     ("a red parked car", ["a red parked car"], 0),
     ("a smiling man on a dining table", ["a smiling man", "a dining table"], 0),
     ("a star to the left of a circle on top of two hearts", ["a star", "a circle", "two hearts"], 0),
     ("a cross left of a circle", ["a cross", "a circle"], 0),
     ("a pile of clothes in front of a bed", ["a pile", "clothes", "a bed"], 1),
     ("a woman in a red top", ["a woman", "a red top"], 0),
     ("a man holding his dog's leash", ["a man", "his dog's leash"], 0),
     ("a group on a hill", ["a group", "a hill"], 0), ("a close up of a pizza", ["a close-up", "a pizza"], 1),
     ("standing", [], None), ("", [], None), ("!?", [], None), ("on the left", [], None)],
)  # fmt: skip
def test_chunks_by_rule(caption, chunks, head):
    assert parse_caption(caption) == (tuple(tuple(chunk.split()) for chunk in chunks), head)


def test_entities_are_counted_without_what_only_leads_to_them():
    captions = ("a group of people in a kitchen", "a star next to a circle and a heart", "")
    assert [entities(parse_caption(caption)[0]) for caption in captions] == [2, 3, 0]


CLASSES = ["dog", "teddy bear", "person", "hot_dog", "Stop sign", "bear"]
TRAINER = ["dog", "trainer", "cat"]
SYNONYMS = {"person": ["man", "fire fighter"], "sofa": ["couch"]}


@pytest.mark.parametrize(
    ("caption", "classes", "options", "names"),
    [("two dogs with a ball", CLASSES, {}, {"dog": "dogs"}),
     ("brown Teddy Bears on a bed", CLASSES, {}, {"teddy bear": "teddy bears"}),
     ("a hot dog", CLASSES, {}, {"hot_dog": "hot dog"}), ("a group of people", CLASSES, {}, {"person": "people"}),
     ("a red stop sign", CLASSES, {}, {"Stop sign": "stop sign"}), ("a cat", CLASSES, {}, {}), ("", CLASSES, {}, {}),
     ("a dog", [], {}, {}),
     ("a dog trainer with a cat", TRAINER, {"scope": "chunk"}, {"dog": "dog", "trainer": "trainer"}),
     ("a dog trainer with a cat", TRAINER, {"scope": "head"}, {"trainer": "trainer"}),
     ("a dog trainer with a cat", TRAINER, {"scope": "any"}, {"dog": "dog", "trainer": "trainer", "cat": "cat"}),
     ("two men", ["person"], {"synonyms": SYNONYMS}, {"person": "men"}),
     ("a fire fighter", ["person"], {"synonyms": SYNONYMS}, {"person": "fire fighter"}),
     ("a man", ["person", "man"], {"synonyms": SYNONYMS}, {"man": "man"}),
     ("a couch", ["person"], {"synonyms": SYNONYMS}, {})],
)  # fmt: skip
def test_classes_by_their_words(caption, classes, options, names):
    assert classes_named(parse_caption(caption), classes, **options) == names


@dataclass
class Token:
    i: int
    text: str
    head: "Token" = None
    doc: "Doc" = None

    @property
    def children(self):
        return [token for token in self.doc.tokens if token.head is self and token is not self]


class Doc:
    """What spaCy makes of a sentence, written by hand: each word's head by number, chunks as (start, end)."""

    def __init__(self, words, heads, chunks):
        self.tokens = [Token(i, word, doc=self) for i, word in enumerate(words.split())]
        for token, head in zip(self.tokens, heads, strict=True):
            token.head = self.tokens[head]
        self.noun_chunks = [self.tokens[start:end] for start, end in chunks]

    def __iter__(self):
        return iter(self.tokens)


def test_chunks_off_a_dependency_tree():
    doc = Doc("A man is riding a horse", [1, 3, 3, 3, 5, 3], [(0, 2), (4, 6)])
    assert chunks_of_doc(doc) == ((("a", "man"), ("a", "horse")), 0)  # the subject of its verb
    doc = Doc("On grass a dog", [3, 0, 3, 3], [(1, 2), (2, 4)])
    assert chunks_of_doc(doc) == ((("grass",), ("a", "dog")), 1)  # the root itself
    assert chunks_of_doc(Doc("Run", [0], [])) == ((), None)


def test_spacy_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(MissingPackage, match=r"python -m spacy download .*\"rules\""):
        open_parser("spacy")
    assert open_parser("rules") is parse_caption
