"""Phrases in one line, for tests of who makes them."""


def line(phrase):
    """A phrase in one line: "man | 2 left | above(a red car)"."""
    places = [(f"{s.rank + 1} " if s.rank else "") + "+".join(s.towards) for s in phrase.superlatives]
    others = [f"{relation.name}({line(relation.other)})" for relation in phrase.relations]
    return " | ".join(filter(None, (phrase.text or "_", ", ".join(places), ", ".join(others))))
