"""The same meaning read off a dependency tree, where spaCy and its small English model are installed (ReCLIP, 3.2).

Noun chunks are the things. A chunk belongs to the nearest one above it in the tree; when the words between it and the
chunk before it hold a relation ("standing behind") it is the other thing of that relation, else its words go to the
thing it belongs to ("a man" + "with" + "a red hat"). What the tree knows and the order of words does not: what a phrase
belongs to, in "the cup on the table with a crack".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from bench.errors import MissingPackage
from pipelines.two_stage.language.parse import Phrase, Relation, normalised, parse, relation_in, thing

MODEL = "en_core_web_sm"


def open_spacy() -> Callable[[str], Phrase]:
    """A parser by spaCy, its answers cached. Raises MissingPackage where spaCy or its model is not installed."""
    model = load_spacy('ranker.relations = "spacy"', '"rules"')
    return lru_cache(maxsize=100_000)(lambda expression: read(model(normalised(expression))))


def load_spacy(setting: str, instead: str) -> Any:
    """Load spaCy's small English model for a setting; `instead` is the value that needs none. Raises MissingPackage."""
    try:
        import spacy

        return spacy.load(MODEL)
    except (ImportError, OSError):
        raise MissingPackage(
            f"{setting} needs spaCy and its model (pip install spacy; python -m spacy download {MODEL}); "
            f"or use {instead}"
        ) from None


def read(doc: Any) -> Phrase:
    """A parsed spaCy Doc, of normalised text -> its meaning. Without anything named, as `parse` reads the words."""
    chunks = [chunk for chunk in doc.noun_chunks if thing(chunk.text).text]  # "the left" names nothing
    if not chunks:
        return parse(doc.text)
    owner = {token.i: number for number, chunk in enumerate(chunks) for token in chunk}
    said = [chunk.text for chunk in chunks]
    said[0] = doc[: chunks[0].end].text
    links: list[tuple[str, str]] = [("", "")]  # relation and words that lead to each chunk
    for number, (before, chunk) in enumerate(pairwise(chunks)):
        gap = doc[before.end : chunk.start].text
        found = relation_in(gap)
        said[number] += f" {gap[: found.start()] if found else ''}"
        links.append((str(found.lastgroup), "") if found else ("", gap))
    said[-1] += f" {doc[chunks[-1].end :].text}"

    relations: list[list[Relation]] = [[] for _ in chunks]
    tails: list[list[str]] = [[] for _ in chunks]
    head = next((n for n, chunk in enumerate(chunks) if _above(chunk, owner, n) is None), 0)
    for number in range(len(chunks) - 1, -1, -1):  # what hangs deepest comes last in English
        if number == head:
            continue
        above = _above(chunks[number], owner, number)
        above = head if above is None or above > number else above
        name, words = links[number]
        whole = [said[number], *tails[number]]
        if name:
            relations[above].insert(0, Relation(name, _phrase(whole, relations[number])))
        else:
            tails[above] = [words, *whole, *tails[above]]
            relations[above] = relations[number] + relations[above]
    return _phrase([said[head], *tails[head]], relations[head])


def _phrase(parts: list[str], relations: list[Relation]) -> Phrase:
    return replace(thing(" ".join(" ".join(parts).split())), relations=tuple(relations))


def _above(chunk: Any, owner: dict[int, int], own: int) -> int | None:
    """The chunk that the nearest ancestor in another one belongs to."""
    return next((owner[token.i] for token in chunk.root.ancestors if owner.get(token.i, own) != own), None)
