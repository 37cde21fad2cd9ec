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

from pipelines.language import lexicon as words


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
    """Lower case, single blanks, commas for every stop; orders to the reader and the picture itself left out."""
    text = re.sub(r"[‘’`]", "'", expression.lower())
    text = re.sub(r"\s*'\s*s\b", "'s", text)
    text = re.sub(r"[.;:!?()\[\]\"]+", ",", text)
    text = re.sub(r"[-_/&]+", " ", text)
    text = " ".join(text.replace(",", " , ").split())
    text = words.IMPERATIVES.sub("", text)
    for pattern, instead in _ERASED:
        text = pattern.sub(instead, text)
    return " ".join(text.split())


def _clause(clause: str) -> Phrase:
    found = next((m for m in _RELATION.finditer(clause) if _relates(clause, m)), None)
    if found is None:
        return _thing(clause)
    head, other = _thing(clause[: found.start()]), _clause(clause[found.end() :])
    name = str(found.lastgroup)
    if other.text or other.relations:
        return replace(head, relations=(Relation(name, other),))
    if name in ("near", "far"):  # "closest to the right": where the other phrase is only a place
        return replace(head, superlatives=(*head.superlatives, *other.superlatives))
    if words.PRONOUNS & set(clause[found.end() :].split()):  # "draped over it" says nothing that could be found
        return head
    alone = (Superlative((words.TOWARDS[name],)),) if name in words.TOWARDS else ()
    return replace(head, superlatives=(*head.superlatives, *alone, *other.superlatives))


def _thing(text: str) -> Phrase:
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


_SIDES = {"left": words.HORIZONTAL["left"], "right": words.HORIZONTAL["right"], **words.VERTICAL}
_VERTICAL = {key: f"{words.VERTICAL[key]}|{words.DEPTH[key]}" for key in ("top", "bottom")}
_ALL = words.HORIZONTAL | _VERTICAL | words.MIDDLE

_PREFIX = (
    r"(?:(?:all the way |way )?(?:on|at|in|to|towards?|from|by|up|down) )?(?:the )?"
    r"(?:(?:very|far|extreme|most|furthest|farthest|closest|nearest|way|to|the) )*"
)
_PLACE = rf"(?: (?:most|hand))?(?: {words.PLACE})?(?! (?:{words.PLACE})\b)"
_H, _V = rf"(?P<h>{_either(words.HORIZONTAL)})", rf"(?P<v>{_either(_VERTICAL)})"
_NTH = rf"(?P<nth>{'|'.join(words.ORDINALS)}|last)"
_ENDS = rf"(?=$| (?:{words.AFTER})\b)"


def _corner(found: re.Match[str]) -> Superlative:
    return Superlative((_direction(_VERTICAL, found["v"]), _direction(words.HORIZONTAL, found["h"])))


def _counted(found: re.Match[str]) -> Superlative:
    return Superlative((_direction(_ALL, found["side"]),), words.ORDINALS.get(found["nth"], 0))


def _counted_size(found: re.Match[str]) -> Superlative:
    return Superlative((_direction(words.SIZES, found["size"]),), words.ORDINALS.get(found["nth"], 0))


def _sided(found: re.Match[str]) -> Superlative:
    return Superlative((_direction(_ALL, found["side"]),))


def _sized(found: re.Match[str]) -> Superlative:
    return Superlative((_direction(words.SIZES, found["size"]),))


_SUPERLATIVES = (
    (
        re.compile(
            rf"\b{_NTH} (?P<noun>(?:(?!(?:with|in|on|at|of|by|from|to)\b)[\w']+ ){{0,5}}?)(?:in )?(?:from|to|on|at|in)"
            rf"(?: the)?(?: far| very)? (?P<side>{_either(_ALL)})(?: (?:{words.PLACE}))?"
            rf"(?: to(?: the)? (?:{_either(_ALL)}))?\b"
        ),
        _counted,
    ),
    (re.compile(rf"\b{_NTH} (?:most )?(?P<size>{words.COUNTED})\b"), _counted_size),
    (re.compile(rf"\b{_NTH} (?P<side>left ?most|right ?most|top ?most|highest|lowest)\b"), _counted),
    (re.compile(rf"\b{_PREFIX}{_V},?(?: and| to(?: the)?| on(?: the)?)? {_H}{_PLACE}\b{_ENDS}"), _corner),
    (re.compile(rf"\b{_PREFIX}{_H},?(?: and| to(?: the)?| on(?: the)?)? {_V}{_PLACE}\b{_ENDS}"), _corner),
    (re.compile(rf"\b{_V} {_H}\b"), _corner),
    (re.compile(rf"\b{_H} {_V}\b"), _corner),
    (re.compile(rf"\b{_PREFIX}(?P<side>{_either(_ALL)}){_PLACE}\b{_ENDS}"), _sided),
    (re.compile(rf"\b(?:(?:far|very|most|furthest|farthest) )?(?P<side>{_either(_ALL)})(?: (?:{words.PLACE}))?\b"), _sided),
    (re.compile(rf"\b(?P<size>{_either(words.SIZES)})\b"), _sized),
)
_RELATION = re.compile(
    r"\b(?:(?:right|just|directly|immediately|slightly|a bit|a little|diagonally) )?(?:"
    + "|".join(rf"(?P<{name}>{pattern})" for name, pattern in words.RELATIONS.items())
    + r")(?= |$)"
)
_NUMBER = r"(?:out )?of (?:the |these |those |all )?(?:two|three|four|five|six|2|3|4|5|6|both|pair(?: of)?|group(?: of)?)\b"
_ERASED = (
    # "the larger of the two dogs" -> "the larger dogs"
    (re.compile(rf"(?<!\bto the )(?<!\bon the )(?<!\bin )(?<!\bin the )\b({_either(words.SIZES)}|{_either(_ALL)})(?: ones?)? {_NUMBER}"), r"\1"),
    (re.compile(rf"\b(closest|nearest|closer|close)(?: up)? to (?:the )?(?:{words.VIEWER}|{words.FRAME})\b"), "closest"),
    (re.compile(rf"\b(?:furthest|farthest|further|farther|far)(?: away)? from (?:the )?(?:{words.VIEWER})\b"), "furthest"),
    (re.compile(rf"\bin front of (?:the )?(?:{words.VIEWER})\b"), "in front"),
    (re.compile(rf"\b(?:of|in|on) (?:the |this |that |our |your )?(?:whole |entire )?(?:{words.FRAME})\b"), ""),
)
