"""Parse the noun chunks of a caption: "a young man riding a horse" -> (a young man), (a horse); it is about the first.

By rule, which is enough for how captions are written: a chunk ends before a preposition, a verb, a conjunction, or a
stop; what a caption is about is its first chunk, or what follows "a group of" and "an image of". Where spaCy and its
small English model are installed, the dependency tree gives both, after ReCLIP. The words are in nouns.toml.

A class is named where all its words stand one after the other, in singular or plural. Of classes that overlap the
longer one is meant: a hot dog is no dog. Synonyms lead to a class only from words that name none themselves, so that
"man" means "man" to a detector that knows men, and "person" to one that does not.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pipelines.two_stage.language.dependency import load_spacy

_TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("nouns.toml").read_text(encoding="utf-8"))
IRREGULAR: dict[str, str] = _TABLE.pop("irregular")
WORDS = {name: frozenset(text.split()) for name, text in _TABLE.items()}
ARTICLES, PREPOSITIONS, JOINING, PARTITIVES = (
    WORDS[name] for name in ("articles", "prepositions", "joining", "partitives")
)
PLURALS = {one: many for many, one in IRREGULAR.items()} | {word: word for word in ("sheep", "deer", "fish")}
TOKEN = re.compile(r"[\w]+(?:[-'][\w]+)*|[^\w\s]")
Parser = Literal["rules", "spacy"]
# Which words may name the object: any of the head's noun chunk (as published), only the head itself, or all nouns.
Scope = Literal["chunk", "head", "any"]


# A caption's noun chunks, each the words in lower case, and the number of the one it is about (None: of none).
Chunks = tuple[tuple[tuple[str, ...], ...], int | None]


def entities(chunks: Sequence[Sequence[str]]) -> int:
    """Count the objects that noun chunks name; "a group of people" are one."""
    return sum(chunk[-1] not in PARTITIVES for chunk in chunks)


@lru_cache(maxsize=100_000)
def parse_caption(caption: str) -> Chunks:
    """Parse a caption by rule."""
    tokens = TOKEN.findall(caption.lower().replace("’", "'").replace("close up", "close-up"))
    chunks: list[tuple[tuple[str, ...], str]] = []  # each with what stands before it
    chunk: list[str] = []
    before = ""
    for place, token in enumerate((*tokens, ".")):
        after = tokens[place + 1] if place + 1 < len(tokens) else ""
        ends = _ends(token, after, chunk)
        # 1. A chunk is complete where a token stands between chunks, or an article starts the next one.
        if (ends or token in ARTICLES) and _names(chunk):
            chunks.append((tuple(chunk), before))
            before, chunk = "", []
        if not ends:
            chunk.append(token)
            continue
        # 2. "in front of": what leads a chunk is the first word after the last one.
        before, chunk = before or token, []
    return tuple(words for words, _ in chunks), _head(chunks, tokens)


def open_parser(parser: Parser) -> Callable[[str], Chunks]:
    """Open what parses captions. Raises MissingPackage where spaCy is chosen and not installed."""
    if parser == "rules":
        return parse_caption
    model = load_spacy('reader = "spacy"', '"rules"')
    return lru_cache(maxsize=100_000)(lambda caption: chunks_of_doc(model(caption)))


def chunks_of_doc(doc: Any) -> Chunks:
    """Take the chunks of a spaCy Doc.

    It is about the chunk of the sentence's root or, where that is a verb, of its first child that has one: the subject.
    """
    spans = list(doc.noun_chunks)
    owner = {token.i: number for number, span in enumerate(spans) for token in span}
    root = next((token for token in doc if token.head.i == token.i), None)
    candidates = [] if root is None else [root, *sorted(root.children, key=lambda token: token.i)]
    head = next((owner[token.i] for token in candidates if token.i in owner), None)
    return tuple(tuple(token.text.lower() for token in span) for span in spans), head


def _ends(token: str, after: str, chunk: Sequence[str]) -> bool:
    """Whether a token stands between chunks and in none."""
    # 1. Stops and closed classes of words.
    if not token[0].isalnum() or token in WORDS["pronouns"]:
        return True
    if token == "and" and chunk and chunk[-1] in WORDS["colours"] and after in WORDS["colours"]:
        return False  # "a black and white cat"
    if token in PREPOSITIONS or token in JOINING or token in WORDS["auxiliaries"]:
        return True
    # 2. Verbs before any word of a chunk.
    verb, leads = token in WORDS["verbs"], after in PREPOSITIONS | JOINING | ARTICLES
    if not chunk and (verb or (token.endswith("ing") and (not after.isalpha() or leads))):
        return token not in WORDS["ing_nouns"]  # "is playing with"
    if not any(word not in ARTICLES for word in chunk):
        return False  # whatever follows "a" describes or is the object
    # 3. Verbs behind a noun.
    if verb or (token in ("left", "right") and after == "of"):
        return True
    if token.endswith("ing") and len(token) > 4:
        return token not in WORDS["ing_nouns"]
    # "a man dressed in black", but not "a man and a parked car"
    return token.endswith("ed") and len(token) > 4 and (not after or not after[0].isalpha() or leads)


def _names(chunk: Sequence[str]) -> bool:
    """Whether it names an object: neither "the" nor "the left" does."""
    return any(token not in ARTICLES and token not in WORDS["places"] for token in chunk)


def _head(chunks: Sequence[tuple[tuple[str, ...], str]], tokens: Sequence[str]) -> int | None:
    """The first chunk that no preposition leads; from "a group" on to what it is a group of."""
    head = 0
    if chunks and tokens[0] in PREPOSITIONS:  # "in a kitchen, a man ..."
        head = next((n for n, (_, before) in enumerate(chunks) if n and before not in PREPOSITIONS), 0)
    while head + 1 < len(chunks) and chunks[head][0][-1] in PARTITIVES and chunks[head + 1][1] == "of":
        head += 1
    return head if chunks else None


@lru_cache(maxsize=50_000)
def lemma(word: str) -> str:
    """Return the singular of a noun, by table and by rule; what is none already stays."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in WORDS["unchanged"] or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return f"{word[:-3]}man" if word.endswith("men") and len(word) > 4 and word != "specimen" else word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes", "zzes", "oes")) else word[:-1]


@lru_cache(maxsize=50_000)
def plural(word: str) -> str:
    """Return the plural of a noun, by table and by rule."""
    if word in PLURALS:
        return PLURALS[word]
    if word.endswith("man") and word not in ("human", "german"):
        return f"{word[:-2]}en"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search(r"[^aeiou]y$", word) else f"{word}s"


def classes_named(
    caption: Chunks, classes: Iterable[str], scope: Scope = "chunk", synonyms: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str]:
    """Match `classes` -> the words of the caption that name each; empty where it names none."""
    # 1. The forms that name a class: its own words, then synonyms.
    own = {tuple(_forms(name)): name for name in classes}
    every = {tuple(_forms(word)): name for name, words in (synonyms or {}).items() for word in words}
    other = {form: name for form, name in every.items() if name in own.values()}
    # 2. The chunks where they may stand.
    chunks, head = caption
    if scope != "any":
        chunks = () if head is None else (chunks[head],)
    # 3. The longest form first; no word names two classes.
    matches: dict[str, str] = {}
    for chunk in chunks:
        lemmas = [lemma(word) for word in chunk]
        used: set[int] = set()
        for table in (own, other):
            for start, end, name in _spans(lemmas, table):
                if used.isdisjoint(range(start, end)) and (scope != "head" or end == len(chunk)):
                    used.update(range(start, end))
                    matches.setdefault(name, " ".join(chunk[start:end]))
    return matches


def _spans(lemmas: Sequence[str], table: Mapping[tuple[str, ...], str]) -> list[tuple[int, int, str]]:
    """Where the names of a table stand, the longest first."""
    longest = max(map(len, table), default=0)
    return [
        (start, start + length, table[form])
        for length in range(longest, 0, -1)
        for start in range(len(lemmas) - length + 1)
        if (form := tuple(lemmas[start : start + length])) in table
    ]


def _forms(name: str) -> list[str]:
    return [lemma(word) for word in re.findall(r"[\w']+(?:-[\w']+)*", name.lower().replace("_", " "))]
