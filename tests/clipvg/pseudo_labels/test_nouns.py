"""Nouns of captions: singulars and plurals, noun chunks and what a caption is about, names matched to classes."""

from dataclasses import dataclass

import pytest

from bench.errors import MissingPackage
from clipvg.pseudo_labels.chunks import Read, lemma, named, open_reader, plural, read, read_doc


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
    [
        ("A young man riding a wave.", ["a young man", "a wave"], 0),
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
        ("a group on a hill", ["a group", "a hill"], 0),
        ("a close up of a pizza", ["a close-up", "a pizza"], 1),
        ("standing", [], None),
        ("", [], None),
        ("!?", [], None),
        ("on the left", [], None),
    ],
)
def test_chunks_by_rule(caption, chunks, head):
    assert read(caption) == Read(tuple(tuple(chunk.split()) for chunk in chunks), head)


def test_entities_are_counted_without_what_only_leads_to_them():
    assert read("a group of people in a kitchen").entities == 2
    assert read("a star next to a circle and a heart").entities == 3
    assert read("").entities == 0


def test_classes_by_their_words():
    classes = ["dog", "teddy bear", "person", "hot_dog", "Stop sign", "bear"]
    assert named(read("two dogs with a ball"), classes) == {"dog": "dogs"}
    assert named(read("brown Teddy Bears on a bed"), classes) == {"teddy bear": "teddy bears"}
    assert named(read("a hot dog"), classes) == {"hot_dog": "hot dog"}
    assert named(read("a group of people"), classes) == {"person": "people"}
    assert named(read("a red stop sign"), classes) == {"Stop sign": "stop sign"}
    assert named(read("a cat"), classes) == {} and named(read(""), classes) == {} and named(read("a dog"), []) == {}


def test_which_words_may_name_the_box():
    caption = read("a dog trainer with a cat")
    classes = ["dog", "trainer", "cat"]
    assert named(caption, classes, "chunk") == {"dog": "dog", "trainer": "trainer"}
    assert named(caption, classes, "head") == {"trainer": "trainer"}
    assert named(caption, classes, "any") == {"dog": "dog", "trainer": "trainer", "cat": "cat"}


def test_synonyms_lead_to_classes_from_words_that_name_none():
    synonyms = {"person": ["man", "fire fighter"], "sofa": ["couch"]}
    assert named(read("two men"), ["person"], synonyms=synonyms) == {"person": "men"}
    assert named(read("a fire fighter"), ["person"], synonyms=synonyms) == {"person": "fire fighter"}
    assert named(read("a man"), ["person", "man"], synonyms=synonyms) == {"man": "man"}
    assert named(read("a couch"), ["person"], synonyms=synonyms) == {}


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
    assert read_doc(doc) == Read((("a", "man"), ("a", "horse")), 0)  # the subject of its verb
    doc = Doc("On grass a dog", [3, 0, 3, 3], [(1, 2), (2, 4)])
    assert read_doc(doc) == Read((("grass",), ("a", "dog")), 1)  # the root itself
    assert read_doc(Doc("Run", [0], [])) == Read((), None)


def test_spacy_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(MissingPackage, match=r"python -m spacy download .*\"rules\""):
        open_reader("spacy")
    assert open_reader("rules") is read
