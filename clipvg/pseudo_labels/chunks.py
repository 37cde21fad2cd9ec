"""The noun chunks of a caption and which of them it is about: "a young man riding a horse" -> (a young man), (a horse).

By rule, which is enough for how captions are written: a chunk ends before a preposition, a verb, a word that joins, or
a stop; what a caption is about is its first chunk, or what follows "a group of" and "a picture of". Where spaCy and its
small English model are installed, the dependency tree tells both (spec clipvg.md 3.4, after ReCLIP).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from bench.errors import MissingPackage
from clipvg.pseudo_labels import noun_words as words

Reader = Literal["rules", "spacy"]
SPACY = "en_core_web_sm"
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
    chunks: list[tuple[str, ...]] = []
    led: list[str] = []  # what stands before each chunk
    chunk: list[str] = []
    before = ""
    for place, token in enumerate(tokens):
        after = tokens[place + 1] if place + 1 < len(tokens) else ""
        if not _ends(token, after, chunk):
            if token in words.ARTICLES and _names(chunk):
                _close(chunks, led, chunk, before)
                before, chunk = "", []
            chunk.append(token)
            continue
        if _names(chunk):
            _close(chunks, led, chunk, before)
            before = ""
        # "in front of": what leads a chunk is the first word after the last one.
        before, chunk = before or token, []
    if _names(chunk):
        _close(chunks, led, chunk, before)
    return Read(tuple(chunks), _head(chunks, led, tokens))


def open_reader(reader: Reader) -> Callable[[str], Read]:
    """Who reads captions. Raises MissingPackage where spaCy is asked for and not installed."""
    if reader == "rules":
        return read
    try:
        import spacy

        model = spacy.load(SPACY)
    except (ImportError, OSError):
        raise MissingPackage(
            f'reader = "spacy" needs spaCy and its model (pip install spacy; python -m spacy download {SPACY}); or use '
            '"rules"'
        ) from None
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


def _close(chunks: list[tuple[str, ...]], led: list[str], chunk: Sequence[str], before: str) -> None:
    chunks.append(tuple(chunk))
    led.append(before)


def _head(chunks: Sequence[tuple[str, ...]], led: Sequence[str], tokens: Sequence[str]) -> int | None:
    """The first chunk that no preposition leads; from "a group" on to what it is a group of."""
    head = 0
    if chunks and tokens[0] in words.PREPOSITIONS:  # "in a kitchen, a man ..."
        head = next((n for n, word in enumerate(led) if n and word not in words.PREPOSITIONS), 0)
    while head + 1 < len(chunks) and chunks[head][-1] in words.PARTITIVES and led[head + 1] == "of":
        head += 1
    return head if chunks else None
