"""Parse the same meaning from a dependency tree, by spaCy's small English model (ReCLIP, 3.2).

Noun chunks are the objects. A chunk belongs to the nearest one above it in the tree. When the words between it and the
chunk before it are a relation ("standing behind"), it is the other object of that relation; else its words go to the
object it belongs to ("a man" + "with" + "a red hat"). Unlike the order of words, the tree has the owner of a phrase, in
"the cup on the table with a crack".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from bench.errors import MissingPackage
from pipelines.two_stage.language.parse import Phrase, Relation, normalised, noun_phrase, parse, relation_in

MODEL = "en_core_web_sm"


def open_spacy() -> Callable[[str], Phrase]:
    """Open a cached parser by spaCy. Raises MissingPackage where spaCy or its model is not installed."""
    model = load_spacy('ranker.relations = "spacy"', '"rules"')
    return lru_cache(maxsize=100_000)(lambda expression: parse_doc(model(normalised(expression))))


def load_spacy(setting: str, instead: str, name: str = MODEL) -> Any:
    """Load spaCy's English model of a name for a setting; `instead` is the value that needs none.

    Raises MissingPackage.
    """
    try:
        import spacy

        return spacy.load(name)
    except (ImportError, OSError):
        raise MissingPackage(
            f"{setting} needs spaCy and its model (pip install spacy; python -m spacy download {name}); "
            f"or use {instead}"
        ) from None


def parse_doc(doc: Any) -> Phrase:
    """Parse a spaCy Doc of normalised text; where it names nothing, by the words alone."""
    # 1. Noun chunks; the words between two are a relation, or belong to one of them.
    chunks = [chunk for chunk in doc.noun_chunks if noun_phrase(chunk.text).text]  # "the left" names nothing
    if not chunks:
        return parse(doc.text)
    owner = {token.i: number for number, chunk in enumerate(chunks) for token in chunk}
    texts = [chunk.text for chunk in chunks]
    texts[0] = doc[: chunks[0].end].text
    links: list[tuple[str, str]] = [("", "")]  # relation and words that lead to each chunk
    for number, (before, chunk) in enumerate(pairwise(chunks)):
        gap = doc[before.end : chunk.start].text
        match = relation_in(gap)
        texts[number] += f" {gap[: match.start()] if match else ''}"
        links.append((str(match.lastgroup), "") if match else ("", gap))
    texts[-1] += f" {doc[chunks[-1].end :].text}"
    # 2. From the last chunk on, each goes to the chunk above it, with its relations.
    relations: list[list[Relation]] = [[] for _ in chunks]
    tails: list[list[str]] = [[] for _ in chunks]
    head = next((n for n, chunk in enumerate(chunks) if _above(chunk, owner, n) is None), 0)
    for number in range(len(chunks) - 1, -1, -1):  # what hangs deepest comes last in English
        if number == head:
            continue
        above = _above(chunks[number], owner, number)
        above = head if above is None or above > number else above
        name, words = links[number]
        whole = [texts[number], *tails[number]]
        if name:
            relations[above].insert(0, (name, _phrase(whole, relations[number])))
        else:
            tails[above] = [words, *whole, *tails[above]]
            relations[above] = relations[number] + relations[above]
    return _phrase([texts[head], *tails[head]], relations[head])


def _phrase(parts: list[str], relations: list[Relation]) -> Phrase:
    return replace(noun_phrase(" ".join(" ".join(parts).split())), relations=tuple(relations))


def _above(chunk: Any, owner: dict[int, int], own: int) -> int | None:
    """Return the chunk of the nearest ancestor outside the own one."""
    return next((owner[token.i] for token in chunk.root.ancestors if owner.get(token.i, own) != own), None)
