"""What an expression says besides naming a thing: relations to other things, superlatives, places in an order.

    "the second man from the left behind a red car"
        Phrase("the man", (Superlative(("left",), 1),), (Relation("above", Phrase("a red car")),))

A small parser by words and their order, for English at large and the telegraphic English of RefCOCO: no grammar is
needed to find "left" in "elephant left", but some care not to find it in "facing left" or "his left hand". Where spaCy
is installed, dependency.py reads the same meaning off a dependency tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from pipelines.two_stage.language import lexicon as words


@dataclass(frozen=True, slots=True)
class Superlative:
    """The one furthest `towards` (several at once for corners), or with `rank` > 0 the next ones: 1 is the second."""

    towards: tuple[str, ...]
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Relation:
    """The named relation of a thing to another; names are the keys of `lexicon.RELATIONS`."""

    name: str
    other: Phrase


@dataclass(frozen=True, slots=True)
class Phrase:
    """A thing by name (`text`, empty where anything will do) and by what singles it out."""

    text: str
    superlatives: tuple[Superlative, ...] = ()
    relations: tuple[Relation, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it only names a thing, so that there is nothing to reason about."""
        return not (self.superlatives or self.relations)

    def texts(self) -> Iterator[str]:
        """Every name in it, of the thing itself and of the others; empty ones are left out."""
        if self.text:
            yield self.text
        for relation in self.relations:
            yield from relation.other.texts()


@lru_cache(maxsize=100_000)
def parse(expression: str) -> Phrase:
    """The meaning of an expression. What follows a comma says more about the same thing."""
    clauses = [_clause(clause) for part in normalised(expression).split(",") if (clause := part.strip())]
    if not clauses:
        return Phrase("")
    return Phrase(
        " ".join(c.text for c in clauses if c.text),
        tuple(dict.fromkeys(s for c in clauses for s in c.superlatives)),
        tuple(r for c in clauses for r in c.relations),
    )


def normalised(expression: str) -> str:
    """Lower case, single blanks, commas for every stop; orders to the reader and the image itself left out."""
    text = re.sub(r"[‘’`]", "'", expression.lower())
    text = re.sub(r"\s*'\s*s\b", "'s", text)
    text = re.sub(r"'(?!\w)|(?<!\w)'", " ", text)  # quotes; an apostrophe is inside a word
    text = re.sub(r"[.;:!?()\[\]\"]+", ",", text)
    text = re.sub(r"[-_/&]+", " ", text)
    text = " ".join(text.replace(",", " , ").split())
    text = words.IMPERATIVES.sub("", text)
    for pattern, instead in _ERASED:
        text = pattern.sub(instead, text)
    return " ".join(text.split())


def _clause(clause: str) -> Phrase:
    found = relation_in(clause)
    if found is None:
        return thing(clause)
    head, other = thing(clause[: found.start()]), _clause(clause[found.end() :])
    name = str(found.lastgroup)
    if other.text or other.relations:
        return replace(head, relations=(Relation(name, other),))
    if name in ("near", "far"):  # "closest to the right": where the other phrase is only a place
        return replace(head, superlatives=(*head.superlatives, *other.superlatives))
    if words.PRONOUNS & set(clause[found.end() :].split()):  # "draped over it" says nothing that could be found
        return head
    alone = (Superlative((words.TOWARDS[name],)),) if name in words.TOWARDS else ()
    return replace(head, superlatives=(*head.superlatives, *alone, *other.superlatives))


def relation_in(text: str) -> re.Match[str] | None:
    """The first words that relate what stands before them to what follows; `lastgroup` is the relation's name."""
    return next((found for found in _RELATION.finditer(text) if _relates(text, found)), None)


def thing(text: str) -> Phrase:
    """A phrase without relations: superlatives taken out of it, the rest is its name."""
    superlatives = []
    for pattern, read in _SUPERLATIVES:
        start = 0
        while found := pattern.search(text, start):
            if not _is_place(text, found):
                start = found.end()
                continue
            superlatives.append(read(found))
            kept = found.groupdict().get("noun") or ""
            text = " ".join(f"{text[: found.start()]} {kept} {text[found.end() :]}".split())
            start = 0
    return Phrase(_name(text), tuple(dict.fromkeys(superlatives)))


def _name(text: str) -> str:
    """What is left of a phrase, without loose ends; empty where only words without content are left."""
    tokens = text.split()
    while tokens and tokens[-1] in words.LOOSE:
        tokens.pop()
    while tokens and tokens[0] in words.LOOSE - words.ARTICLES:
        tokens.pop(0)
    content = [t for t in tokens if t not in words.LOOSE and t not in words.NULL]
    return " ".join(tokens) if content else ""


def _relates(clause: str, found: re.Match[str]) -> bool:
    """Whether a relation's words say one here: not "bent over", not "his left of ..."."""
    before = clause[: found.start()].split()
    last = before[-1] if before else ""
    if found.group().strip() == "over" and (last in words.NOT_ABOVE or not clause[found.end() :].strip()):
        return False
    return last not in words.POSSESSIVES and not last.endswith("'s")


def _is_place(text: str, found: re.Match[str]) -> bool:
    """Whether a word of place says where the thing is: not "facing left", "his right hand", "a blue top"."""
    before = text[: found.start()].split()
    last = before[-1] if before else ""
    said = found.group().split()
    if last in words.POSSESSIVES or last.endswith("'s"):
        return False
    while before and before[-1] in ("to", "the", "towards", "toward"):
        before.pop()
    if before and before[-1] in words.TURNS:
        return False
    if said == ["top"] and last in words.GARMENTS:
        return False
    after = text[found.end() :].split()[:1]
    # "the back of the bus", "its bottom half of ..." are parts of a thing, "with his back to us" is no place.
    return not (after in (["of"], ["to"]) and not {"left", "right"} & set(said))


def _either(table: Mapping[str, str]) -> str:
    return "|".join(table.values())


def _direction(table: Mapping[str, str], said: str) -> str:
    """The key whose words `said` is."""
    return next(key for key, pattern in table.items() if re.fullmatch(pattern, said))


_VERTICAL = {key: f"{words.VERTICAL[key]}|{words.DEPTH[key]}" for key in ("top", "bottom")}
_ALL = words.HORIZONTAL | _VERTICAL | words.MIDDLE
_DIRECTIONS, _LENGTHS = _either(_ALL), _either(words.SIZES)
_PREFIX = (
    r"(?:(?:all the way |way )?(?:on|at|in|to|towards?|from|by|up|down) )?(?:the )?"
    r"(?:(?:very|far|extreme|most|furthest|farthest|closest|nearest|way|to|the) )*"
)
_PLACE = rf"(?: (?:most|hand))?(?: {words.PLACE})?(?! {words.PLACE}\b)"
_ENDS = rf"\b(?=$| (?:{words.AFTER})\b)"
_JOINED = r"(?: and| to(?: the)?| on(?: the)?)? "
_H, _V = rf"(?P<h>{_either(words.HORIZONTAL)})", rf"(?P<v>{_either(_VERTICAL)})"
_SIDE, _SIZE = rf"(?P<side>{_DIRECTIONS})", rf"(?P<size>{_LENGTHS})"
_NTH = rf"(?P<nth>{'|'.join(words.ORDINALS)}|last)"
_NOUN = r"(?P<noun>(?:(?!(?:with|in|on|at|of|by|from|to)\b)[\w']+ ){0,5}?)"


def _rank(found: re.Match[str]) -> int:
    """ "first" and, said of an edge, "last" are the one at it."""
    return words.ORDINALS.get(found.groupdict().get("nth") or "", 0)


def _side(found: re.Match[str]) -> Superlative:
    return Superlative((_direction(_ALL, found["side"]),), _rank(found))


def _size(found: re.Match[str]) -> Superlative:
    return Superlative((_direction(words.SIZES, found["size"]),), _rank(found))


def _corner(found: re.Match[str]) -> Superlative:
    return Superlative((_direction(_VERTICAL, found["v"]), _direction(words.HORIZONTAL, found["h"])))


# In the order they are looked for: what says most comes first.
_SUPERLATIVES = tuple(
    (re.compile(rf"\b{pattern}"), read)
    for pattern, read in (
        (
            rf"{_NTH} {_NOUN}(?:in )?(?:from|to|on|at|in)(?: the)?(?: far| very)? {_SIDE}(?: {words.PLACE})?"
            rf"(?: to(?: the)? (?:{_DIRECTIONS}))?\b",
            _side,
        ),
        (rf"{_NTH} (?:most )?(?P<size>{words.COUNTED})\b", _size),
        (rf"{_NTH} (?P<side>left ?most|right ?most|top ?most|highest|lowest)\b", _side),
        (rf"{_PREFIX}{_V}{_JOINED}{_H}{_PLACE}{_ENDS}", _corner),
        (rf"{_PREFIX}{_H}{_JOINED}{_V}{_PLACE}{_ENDS}", _corner),
        (rf"{_V} {_H}\b", _corner),
        (rf"{_H} {_V}\b", _corner),
        (rf"{_PREFIX}{_SIDE}{_PLACE}{_ENDS}", _side),
        (rf"(?:(?:far|very|most|furthest|farthest) )?{_SIDE}(?: {words.PLACE})?\b", _side),
        (rf"{_SIZE}\b", _size),
    )
)
_RELATION = re.compile(
    r"\b(?:(?:right|just|directly|immediately|slightly|a bit|a little|diagonally) )?(?:"
    + "|".join(rf"(?P<{name}>{pattern})" for name, pattern in words.RELATIONS.items())
    + r")(?= |$)"
)
_GROUP = r"(?:two|three|four|five|six|[2-6]|both|pair(?: of)?|group(?: of)?)"
_AWAY = r"(?:furthest|farthest|further|farther|far)(?: away)?"
_ERASED = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        # "the larger of the two dogs" is "the larger dogs"; "to the left of the two dogs" is a relation.
        (
            rf"(?<!\bto the )(?<!\bon the )(?<!\bin )(?<!\bin the )\b({_LENGTHS}|{_DIRECTIONS})(?: ones?)? "
            rf"(?:out )?of (?:the |these |those |all )?{_GROUP}\b",
            r"\1",
        ),
        (rf"\b(?:closest|nearest|closer|close)(?: up)? to (?:the )?(?:{words.VIEWER}|{words.FRAME})\b", "closest"),
        (rf"\b{_AWAY} from (?:the )?{words.VIEWER}\b", "furthest"),
        (rf"\bin front of (?:the )?{words.VIEWER}\b", "in front"),
        (rf"\b(?:of|in|on) (?:the |this |that |our |your )?(?:whole |entire )?{words.FRAME}\b", ""),
    )
)
