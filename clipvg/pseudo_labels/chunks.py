"""The noun chunks of a caption and which of them it is about: "a young man riding a horse" -> (a young man), (a horse).

By rule, which is enough for how captions are written: a chunk ends before a preposition, a verb, a word that joins, or
a stop; what a caption is about is its first chunk, or what follows "a group of" and "an image of". Where spaCy and its
small English model are installed, the dependency tree tells both (spec clipvg.md 3.4, after ReCLIP).

A class is named where all its words stand one after the other, in singular or plural. Of classes that overlap the
longer one is meant: a hot dog is no dog. Synonyms lead to a class only from words that name none themselves, so that
"man" means "man" to a detector that knows men, and "person" to one that does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from clipvg.pseudo_labels import noun_words as words
from pipelines.two_stage.language.dependency import load_spacy

Reader = Literal["rules", "spacy"]
# Which words may name the object: any of the head's noun chunk (as published), only the head itself, or all nouns.
Where = Literal["chunk", "head", "any"]
_TOKEN = re.compile(r"[\w]+(?:[-'][\w]+)*|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Read:
    """A caption's noun chunks, each the words in lower case, and the number of the one it is about (None: of none)."""

    chunks: tuple[tuple[str, ...], ...]
    head: int | None

    @property
    def entities(self) -> int:
        """How many things it speaks of; "a group of people" are one."""
        return sum(chunk[-1] not in words.PARTITIVES for chunk in self.chunks)


@lru_cache(maxsize=100_000)
def read(caption: str) -> Read:
    """By rule."""
    tokens = _TOKEN.findall(caption.lower().replace("’", "'").replace("close up", "close-up"))
    chunks: list[tuple[tuple[str, ...], str]] = []  # each with what stands before it
    chunk: list[str] = []
    before = ""
    for place, token in enumerate(tokens):
        after = tokens[place + 1] if place + 1 < len(tokens) else ""
        if not _ends(token, after, chunk):
            if token in words.ARTICLES and _names(chunk):
                chunks.append((tuple(chunk), before))
                before, chunk = "", []
            chunk.append(token)
            continue
        if _names(chunk):
            chunks.append((tuple(chunk), before))
            before = ""
        # "in front of": what leads a chunk is the first word after the last one.
        before, chunk = before or token, []
    if _names(chunk):
        chunks.append((tuple(chunk), before))
    return Read(tuple(words_of for words_of, _ in chunks), _head(chunks, tokens))


def open_reader(reader: Reader) -> Callable[[str], Read]:
    """Who reads captions. Raises MissingPackage where spaCy is asked for and not installed."""
    if reader == "rules":
        return read
    model = load_spacy('reader = "spacy"', '"rules"')
    return lru_cache(maxsize=100_000)(lambda caption: read_doc(model(caption)))


def read_doc(doc: Any) -> Read:
    """A spaCy Doc. What it is about is the chunk of the sentence's root or, where that is a verb, of its first child
    that has one: the subject."""
    spans = list(doc.noun_chunks)
    owner = {token.i: number for number, span in enumerate(spans) for token in span}
    root = next((token for token in doc if token.head.i == token.i), None)
    candidates = [] if root is None else [root, *sorted(root.children, key=lambda token: token.i)]
    head = next((owner[token.i] for token in candidates if token.i in owner), None)
    return Read(tuple(tuple(token.text.lower() for token in span) for span in spans), head)


def _ends(token: str, after: str, chunk: Sequence[str]) -> bool:
    """Whether a token stands between chunks and in none."""
    if not token[0].isalnum() or token in words.PRONOUNS:
        return True
    if token == "and" and chunk and chunk[-1] in words.COLOURS and after in words.COLOURS:
        return False  # "a black and white cat"
    if token in words.PREPOSITIONS or token in words.JOINING or token in words.AUXILIARIES:
        return True
    if not chunk and (token in words.VERBS or (token.endswith("ing") and (not after.isalpha() or _leads(after)))):
        return token not in words.ING_NOUNS  # "is playing with", "is shown in"
    if not any(word not in words.ARTICLES for word in chunk):
        return False  # whatever follows "a" describes or is the thing
    if token in words.VERBS or (token in ("left", "right") and after == "of"):
        return True
    if token.endswith("ing") and len(token) > 4:
        return token not in words.ING_NOUNS
    # "a man dressed in black", but not "a man and a parked car"
    return token.endswith("ed") and len(token) > 4 and (not after or not after[0].isalpha() or _leads(after))


def _leads(token: str) -> bool:
    return token in words.PREPOSITIONS or token in words.JOINING or token in words.ARTICLES


def _names(chunk: Sequence[str]) -> bool:
    """Whether it names a thing: neither "the" nor "the left" does."""
    return any(token not in words.ARTICLES and token not in words.PLACES for token in chunk)


def _head(chunks: Sequence[tuple[tuple[str, ...], str]], tokens: Sequence[str]) -> int | None:
    """The first chunk that no preposition leads; from "a group" on to what it is a group of."""
    head = 0
    if chunks and tokens[0] in words.PREPOSITIONS:  # "in a kitchen, a man ..."
        head = next((n for n, (_, before) in enumerate(chunks) if n and before not in words.PREPOSITIONS), 0)
    while head + 1 < len(chunks) and chunks[head][0][-1] in words.PARTITIVES and chunks[head + 1][1] == "of":
        head += 1
    return head if chunks else None


@lru_cache(maxsize=50_000)
def lemma(word: str) -> str:
    """The singular of a noun, by table and by rule; what is none already stays."""
    if word in words.IRREGULAR:
        return words.IRREGULAR[word]
    if word in words.UNCHANGED or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return f"{word[:-3]}man" if word.endswith("men") and len(word) > 4 and word != "specimen" else word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes", "zzes", "oes")) else word[:-1]


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
