"""What a file of pseudo-labels is called: the source its rows come from, or the file's own name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.datasets.pseudo_lists import source_of_list


def source_name(path: Path, rows: int, provenance: Mapping[str, Mapping[str, Any]]) -> str:
    """The source that all `rows` rows of a file say they come from; else the one that an official list of its own is
    named after; else the file's name without its suffix."""
    said = {str(each["source"]) for each in provenance.values() if each.get("source")}
    if len(said) == 1 and sum(bool(each.get("source")) for each in provenance.values()) == rows:
        return said.pop()
    return source_of_list(path.name) or path.stem


def told_apart(names: Sequence[str]) -> list[str]:
    """The names, those that are there more than once numbered: template, relation, template -> template-1, relation,
    template-2. No two are the same."""
    often = Counter(names)
    taken = {name for name in names if often[name] == 1}
    numbers: Counter[str] = Counter()
    out = []
    for name in names:
        new = name
        while often[name] > 1 and (new == name or new in taken):
            numbers[name] += 1
            new = f"{name}-{numbers[name]}"
        taken.add(new)
        out.append(new)
    return out
