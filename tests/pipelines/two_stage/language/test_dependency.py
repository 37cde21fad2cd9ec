"""Meaning off a dependency tree: a Doc with spaCy's attributes, its arcs written by hand as spaCy's model sets them."""

import sys
from dataclasses import dataclass, field

import pytest
from phrase_lines import line

from bench.errors import MissingPackage
from pipelines.two_stage.language.dependency import open_spacy, parse_doc


@dataclass
class Token:
    i: int
    text: str
    head: "Token" = None

    @property
    def ancestors(self):
        token = self
        while token.head is not token:
            token = token.head
            yield token


@dataclass
class Span:
    """Tokens start..end of a Doc; its root is the one whose head lies outside."""

    tokens: list
    start: int
    end: int

    @property
    def text(self):
        return " ".join(t.text for t in self)

    @property
    def root(self):
        return next(t for t in self if t.head is t or not self.start <= t.head.i < self.end)

    def __iter__(self):
        return iter(self.tokens[self.start : self.end])


@dataclass
class Doc:
    tokens: list
    noun_chunks: list = field(default_factory=list)

    @property
    def text(self):
        return " ".join(t.text for t in self.tokens)

    def __getitem__(self, place):
        return Span(self.tokens, place.start or 0, len(self.tokens) if place.stop is None else place.stop)


def doc(words, heads, chunks):
    """`heads` is each word's head by number; `chunks` are (start, end)."""
    tokens = [Token(i, text) for i, text in enumerate(words.split())]
    for token, head in zip(tokens, heads, strict=True):
        token.head = tokens[head]
    return Doc(tokens, [Span(tokens, *chunk) for chunk in chunks])


TREES = [
    ("the star to the left of the circle", [1, 1, 1, 4, 2, 4, 7, 5], [(0, 2), (3, 5), (6, 8)],
     "the star | left(the circle)"),
    ("the second man from the left behind a red car", [2, 2, 2, 2, 5, 3, 2, 9, 9, 6], [(0, 3), (4, 6), (7, 10)],
     "the man | 2 left | above(a red car)"),
    # What the order of words does not tell: the crack is the cup's.
    ("the cup above the table with a crack", [1, 1, 1, 4, 2, 1, 7, 5], [(0, 2), (3, 5), (6, 8)],
     "the cup with a crack | above(the table)"),
    ("man in red next to the dog on the left", [0, 0, 1, 0, 3, 6, 4, 0, 9, 7], [(0, 1), (2, 3), (5, 7), (8, 10)],
     "man in red | near(the dog | left)"),
    ("second from left", [0, 0, 1], [(2, 3)], "_ | 2 left"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "heads", "chunks", "meant"), TREES)
def test_the_tree_is_read(words, heads, chunks, meant):
    assert line(parse_doc(doc(words, heads, chunks))) == meant


def test_without_spacy_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingPackage, match="pip install spacy"):
        open_spacy()
