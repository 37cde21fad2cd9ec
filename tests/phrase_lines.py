"""Phrases in one line, for tests of who makes them."""


def line(phrase):
    """A phrase in one line: "man | 2 left | above(a red car)"."""
    places = [(f"{rank + 1} " if rank else "") + "+".join(towards) for towards, rank in phrase.superlatives]
    others = [f"{name}({line(other)})" for name, other in phrase.relations]
    return " | ".join(filter(None, (phrase.text or "_", ", ".join(places), ", ".join(others))))
