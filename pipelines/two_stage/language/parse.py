"""Parse an expression into a name, superlatives, places in an order, and relations to other objects.

    "the second man from the left behind a red car"
        Phrase("the man", ((("left",), 1),), (("above", Phrase("a red car")),))

A small parser by words and their order, for English at large and the telegraphic English of RefCOCO: "left" is a
superlative in "elephant left", but not in "facing left" or "his left hand". Where spaCy is installed, dependency.py
parses the same meaning from a dependency tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from pipelines.two_stage.language import lexicon as words

# The one furthest towards these (several at once for corners), by its place in that order: 0 is the first.
Superlative = tuple[tuple[str, ...], int]
# A name, one of the keys of `lexicon.RELATIONS`, and the other object.
Relation = tuple[str, "Phrase"]


@dataclass(frozen=True, slots=True)
class Phrase:
    """An object by name (`text`, empty where any will do), and by what singles it out."""

    text: str
    superlatives: tuple[Superlative, ...] = ()
    relations: tuple[Relation, ...] = ()

    @property
    def plain(self) -> bool:
        """Tell whether it is only a name, so that there is nothing to reason about."""
        return not (self.superlatives or self.relations)

    def texts(self) -> Iterator[str]:
        """Yield every name in it, of the object itself and of the others, without empty ones."""
        if self.text:
            yield self.text
        for _, other in self.relations:
            yield from other.texts()


@lru_cache(maxsize=100_000)
def parse(expression: str) -> Phrase:
    """Parse an expression. What follows a comma adds to the same object."""
    clauses = [_clause(clause) for part in normalised(expression).split(",") if (clause := part.strip())]
    if not clauses:
        return Phrase("")
    return Phrase(
        " ".join(c.text for c in clauses if c.text),
        tuple(dict.fromkeys(s for c in clauses for s in c.superlatives)),
        tuple(r for c in clauses for r in c.relations),
    )


def normalised(expression: str) -> str:
    """Normalise to lower case, single blanks and commas for stops, without imperatives and the image itself."""
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
    match = relation_in(clause)
    if match is None:
        return noun_phrase(clause)
    head, other = noun_phrase(clause[: match.start()]), _clause(clause[match.end() :])
    name = str(match.lastgroup)
    if other.text or other.relations:
        return replace(head, relations=((name, other),))
    if name in ("near", "far"):  # "closest to the right": where the other phrase is only a place
        return replace(head, superlatives=(*head.superlatives, *other.superlatives))
    if words.PRONOUNS & set(clause[match.end() :].split()):  # "draped over it" names nothing that has a box
        return head
    alone = (((words.TOWARDS[name],), 0),) if name in words.TOWARDS else ()
    return replace(head, superlatives=(*head.superlatives, *alone, *other.superlatives))


def relation_in(text: str) -> re.Match[str] | None:
    """Match the first words that relate what precedes them to what follows; `lastgroup` is the relation's name."""
    return next((match for match in _RELATION.finditer(text) if _relates(text, match)), None)


def noun_phrase(text: str) -> Phrase:
    """Parse a phrase without relations: superlatives are taken out, the rest is its name."""
    superlatives = []
    for pattern, build in _SUPERLATIVES:
        start = 0
        while match := pattern.search(text, start):
            if not _is_place(text, match):
                start = match.end()
                continue
            superlatives.append(build(match))
            kept = match.groupdict().get("noun") or ""
            text = " ".join(f"{text[: match.start()]} {kept} {text[match.end() :]}".split())
            start = 0
    return Phrase(_name(text), tuple(dict.fromkeys(superlatives)))


def _name(text: str) -> str:
    """Strip loose ends off a phrase; empty where only words without content are left."""
    tokens = text.split()
    while tokens and tokens[-1] in words.LOOSE:
        tokens.pop()
    while tokens and tokens[0] in words.LOOSE - words.ARTICLES:
        tokens.pop(0)
    content = [t for t in tokens if t not in words.LOOSE and t not in words.NULL]
    return " ".join(tokens) if content else ""


def _relates(clause: str, match: re.Match[str]) -> bool:
    """Tell whether a relation's words are one here: not "bent over", not "his left of ..."."""
    before = clause[: match.start()].split()
    last = before[-1] if before else ""
    if match.group().strip() == "over" and (last in words.NOT_ABOVE or not clause[match.end() :].strip()):
        return False
    return last not in words.POSSESSIVES and not last.endswith("'s")


def _is_place(text: str, match: re.Match[str]) -> bool:
    """Tell whether a word of place locates the object: not "facing left", "his right hand", "a blue top"."""
    before = text[: match.start()].split()
    last = before[-1] if before else ""
    matched = match.group().split()
    if last in words.POSSESSIVES or last.endswith("'s"):
        return False
    while before and before[-1] in ("to", "the", "towards", "toward"):
        before.pop()
    if before and before[-1] in words.TURNS:
        return False
    if matched == ["top"] and last in words.GARMENTS:
        return False
    after = text[match.end() :].split()[:1]
    # "the back of the bus", "its bottom half of ..." are parts of an object, "with his back to us" is no place.
    return not (after in (["of"], ["to"]) and not {"left", "right"} & set(matched))


def _either(table: Mapping[str, str]) -> str:
    return "|".join(table.values())


def _direction(table: Mapping[str, str], text: str) -> str:
    """Return the key whose words match `text`."""
    return next(key for key, pattern in table.items() if re.fullmatch(pattern, text))


_VERTICAL = {key: f"{words.VERTICAL[key]}|{words.DEPTH[key]}" for key in ("top", "bottom")}
_ALL = words.HORIZONTAL | _VERTICAL | words.MIDDLE
_DIRECTIONS, _LENGTHS = _either(_ALL), _either(words.SIZES)
_PREFIX = (
    r"(?:(?:all the way |way )?(?:on|at|in|to|towards?|from|by|up|down) )?(?:the )?"
    r"(?:(?:very|far|extreme|most|furthest|farthest|closest|nearest|way|to|the) )*"
)
_PLACE = rf"(?: (?:most|hand))?(?: {words.PLACE})?(?! {words.PLACE}\b)"
_ENDS = rf"\b(?=$| (?:{words.AFTER})\b)"
_AND = r"(?: and| to(?: the)?| on(?: the)?)? "
_H, _V = rf"(?P<h>{_either(words.HORIZONTAL)})", rf"(?P<v>{_either(_VERTICAL)})"
_SIDE, _SIZE = rf"(?P<side>{_DIRECTIONS})", rf"(?P<size>{_LENGTHS})"
_NTH = rf"(?P<nth>{'|'.join(words.ORDINALS)}|last)"
_NOUN = r"(?P<noun>(?:(?!(?:with|in|on|at|of|by|from|to)\b)[\w']+ ){0,5}?)"


def _rank(match: re.Match[str]) -> int:
    """Return a place in an order: "first" and, of an edge, "last" are the one at it."""
    return words.ORDINALS.get(match.groupdict().get("nth") or "", 0)


def _side(match: re.Match[str]) -> Superlative:
    return (_direction(_ALL, match["side"]),), _rank(match)


def _size(match: re.Match[str]) -> Superlative:
    return (_direction(words.SIZES, match["size"]),), _rank(match)


def _corner(match: re.Match[str]) -> Superlative:
    return (_direction(_VERTICAL, match["v"]), _direction(words.HORIZONTAL, match["h"])), 0


# In the order of the search: the most specific comes first.
_SUPERLATIVES = tuple(
    (re.compile(rf"\b{pattern}"), build)
    for pattern, build in (
        (
            rf"{_NTH} {_NOUN}(?:in )?(?:from|to|on|at|in)(?: the)?(?: far| very)? {_SIDE}(?: {words.PLACE})?"
            rf"(?: to(?: the)? (?:{_DIRECTIONS}))?\b",
            _side,
        ),
        (rf"{_NTH} (?:most )?(?P<size>{words.COUNTED})\b", _size),
        (rf"{_NTH} (?P<side>left ?most|right ?most|top ?most|highest|lowest)\b", _side),
        (rf"{_PREFIX}{_V}{_AND}{_H}{_PLACE}{_ENDS}", _corner),
        (rf"{_PREFIX}{_H}{_AND}{_V}{_PLACE}{_ENDS}", _corner),
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
