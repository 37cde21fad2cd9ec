"""Label files as the sources that a curriculum chooses among, and what such a file is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.datasets.readers.labels import Album, load_labels, open_album
from bench.errors import DataError
from bench.grounding import Expression, Scene
from bench.labelling.label_files import source_of_list
from bench.settings import Resolved


@dataclass(frozen=True, slots=True)
class SourceRows:
    """One source of pseudo-labels: its rows as scenes, the provenance of each row (expression id -> plain JSON, empty
    where the file has none), and the files it came from."""

    name: str
    scenes: Sequence[Scene]
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Sequence[Mapping[str, Any]] = ()


def sources_of(
    split_name: str, paths: Sequence[Path], resolved: Resolved, limit: int | None = None, album: Album | None = None
) -> list[SourceRows]:
    """The sources in `paths`, in order: rows belong to the source that they name themselves, else to their file's.

    Files that say the same source are one. `limit` takes the first images of each file. Raises DataError for two
    rows of a source with one id, and what `load_labels` raises.
    """
    sources: dict[str, SourceRows] = {}
    album = album or open_album(split_name, resolved)
    for path in paths:
        given = load_labels(split_name, [path], resolved, album)
        split = given.split if limit is None else given.split.limited(limit)
        otherwise = source_name(path, given.files[0]["rows"], given.provenance)
        for name, scenes in _by_source(split.scenes, given.provenance, otherwise).items():
            before = sources.get(name, SourceRows(name, ()))
            known = _ids(before.scenes)
            if again := [row for row in _ids(scenes) if row in known]:
                raise DataError(
                    f"{path}: {len(again):,} ids, {again[0]!r} among them, are those of rows in another file of the "
                    f"source {name!r}; give the rows ids of their own, or leave one file out"
                )
            said = {**before.provenance, **given.provenance}
            sources[name] = SourceRows(name, (*before.scenes, *scenes), said, (*before.files, *given.files))
    return list(sources.values())


def _ids(scenes: Sequence[Scene]) -> dict[str, None]:
    return {expression.id: None for scene in scenes for expression in scene.expressions}


def _by_source(
    scenes: Sequence[Scene], provenance: Mapping[str, Mapping[str, Any]], otherwise: str
) -> dict[str, list[Scene]]:
    """Source -> the scenes with its rows alone."""
    out: dict[str, list[Scene]] = {}
    for scene in scenes:
        rows: dict[str, list[Expression]] = {}
        for expression in scene.expressions:
            said = provenance.get(expression.id, {}).get("source")
            rows.setdefault(said if isinstance(said, str) and said else otherwise, []).append(expression)
        for name, mine in rows.items():
            out.setdefault(name, []).append(replace(scene, expressions=tuple(mine)))
    return out


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
