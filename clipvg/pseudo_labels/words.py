"""Which classes are people, which are garments and of what sort: the word lists of Pseudo-Q's first step."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from bench.errors import DataError

Kind = Literal["people", "hat", "shirt", "pants", "shoes", "things"]
GARMENTS: tuple[Kind, ...] = ("hat", "shirt", "pants", "shoes")
LISTS: tuple[Kind, ...] = ("people", *GARMENTS)
OURS = Path(__file__).with_name("words.toml")


class Words:
    """The kind of every class name; what is in no list is a thing."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds

    def kind(self, name: str) -> Kind:
        """`name` in lower case."""
        return self._kinds.get(name, "things")


def read_words(path: Path = OURS) -> Words:
    """The lists `people`, `hat`, `shirt`, `pants` and `shoes` of a TOML file. Raises DataError naming list and word."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: no word lists that can be read ({error})") from None
    kinds: dict[str, Kind] = {}
    if unknown := table.keys() - set(LISTS):
        raise DataError(f"{path}: the list {min(unknown)!r} is not known; expected {', '.join(LISTS)}")
    for kind in LISTS:
        words = table.get(kind, [])
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise DataError(f'{path}: {kind} should be a list of class names, such as ["hat", "cap"]')
        for word in words:
            if kinds.setdefault(word.lower(), kind) != kind:
                raise DataError(f"{path}: {word!r} is in {kinds[word.lower()]} and in {kind}; it can be in one only")
    return Words(kinds)
