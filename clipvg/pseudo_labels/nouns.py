"""The nouns of a caption matched to the classes a detector knows: "two dogs with a teddy bear" -> dog, teddy bear.

A class is named where all its words stand one after the other, in singular or plural. Of classes that overlap the
longer one is meant: a hot dog is no dog. Synonyms lead to a class only from words that name none themselves, so that
"man" means "man" to a detector that knows men, and "person" to one that does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

from clipvg.pseudo_labels import noun_words as words
from clipvg.pseudo_labels.chunks import Read

# Which words may name the object: any of the head's noun chunk (as published), only the head itself, or all nouns.
Where = Literal["chunk", "head", "any"]


@lru_cache(maxsize=50_000)
def lemma(word: str) -> str:
    """The singular of a noun, by table and by rule; what is none already stays."""
    if word in words.IRREGULAR:
        return words.IRREGULAR[word]
    if word in words.UNCHANGED or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return f"{word[:-3]}man" if word.endswith("men") and len(word) > 4 and word != "specimen" else word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes", "zzes")):
        return word[:-2]
    if word.endswith("oes"):
        return word[:-2]
    return word[:-1]


@lru_cache(maxsize=50_000)
def plural(word: str) -> str:
    """The plural of a noun, the other way round."""
    if word in _PLURALS:
        return _PLURALS[word]
    if word.endswith("man") and word not in ("human", "german"):
        return f"{word[:-2]}en"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search(r"[^aeiou]y$", word) else f"{word}s"


def named(
    caption: Read, classes: Iterable[str], where: Where = "chunk", synonyms: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str]:
    """Class -> the words of the caption that name it, among `classes`; empty where it names none."""
    known = {tuple(_forms(name)): name for name in classes}
    other = {tuple(_forms(word)): name for name, said in (synonyms or {}).items() for word in said}
    found: dict[str, str] = {}
    for chunk in _looked_at(caption, where):
        lemmas = [lemma(word) for word in chunk]
        taken: set[int] = set()
        for table in (known, {form: name for form, name in other.items() if name in known.values()}):
            for start, end, name in _spans(lemmas, table):
                if taken.isdisjoint(range(start, end)) and (where != "head" or end == len(chunk)):
                    taken.update(range(start, end))
                    found.setdefault(name, " ".join(chunk[start:end]))
    return found


def _spans(lemmas: Sequence[str], table: Mapping[tuple[str, ...], str]) -> list[tuple[int, int, str]]:
    """Where the names of a table stand, the longest first."""
    longest = max(map(len, table), default=0)
    return [
        (start, start + length, table[form])
        for length in range(longest, 0, -1)
        for start in range(len(lemmas) - length + 1)
        if (form := tuple(lemmas[start : start + length])) in table
    ]


def _looked_at(caption: Read, where: Where) -> Sequence[tuple[str, ...]]:
    if where == "any":
        return caption.chunks
    return () if caption.head is None else (caption.chunks[caption.head],)


def _forms(name: str) -> list[str]:
    return [lemma(word) for word in re.findall(r"[\w']+(?:-[\w']+)*", name.lower().replace("_", " "))]


_PLURALS = {one: many for many, one in words.IRREGULAR.items()} | {word: word for word in ("sheep", "deer", "fish")}
