"""The rows of several sources, and which of them a selection keeps.

A row is known by "SOURCE:ID". Whatever is kept is in one order, so that a set of rows is one training, not many.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

from bench.datasets.fingerprint import picture_key
from bench.datasets.label_sources import SourceRows
from bench.datasets.rows import Row, gather
from bench.errors import DataError
from bench.grounding import Expression, Scene
from clipvg.curriculum.search import Selection
from pipelines.language.parse import parse

log = logging.getLogger("bench.train")
Reliabilities = Mapping[tuple[str, str], Mapping[str, float]]  # (measurer, source) -> row -> IoU


@dataclass(frozen=True)
class Pool:
    """One source's rows, each once: `rows` (row name -> picture and expression) in the order of the file.

    `held_out` names the rows whose pictures no training may see; `duplicates` says how many copies were dropped.
    """

    name: str
    rows: Mapping[str, tuple[Scene, Expression]]
    held_out: frozenset[str]
    duplicates: int
    entities: float

    @property
    def pictures(self) -> int:
        return len({scene.file for scene, _ in self.rows.values()})

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """All rows, held out or not, as scenes."""
        return scenes_of(self.rows.values())

    @cached_property
    def to_train(self) -> tuple[Scene, ...]:
        """The rows that may be trained on, as scenes."""
        return scenes_of(value for name, value in self.rows.items() if name not in self.held_out)


def pool_of(source: SourceRows, held_out: float = 0.0) -> Pool:
    """A source's rows. The share `held_out` of all pictures is set aside, the same ones whatever the source.

    Raises DataError for a source without a row, or whose rows are all held out.
    """
    rows: dict[str, tuple[Scene, Expression]] = {}
    seen: set[tuple[str, str, tuple[float, ...]]] = set()
    copies = 0
    for scene in source.scenes:
        bare = replace(scene, expressions=())
        for expression in scene.expressions:
            what = (scene.file, expression.text, expression.box)
            copies += what in seen
            if what not in seen:
                seen.add(what)
                name = f"{source.name}:{expression.id}"
                rows[name] = (bare, replace(expression, id=name))
    if not rows:
        raise DataError(f"the source {source.name!r} has no rows; give it some, or leave it out")
    if copies:
        log.warning("curriculum: %s: %s rows are copies of others and count once", source.name, f"{copies:,}")
    aside = frozenset(name for name, (scene, _) in rows.items() if share_of(picture_key(scene.file)) < held_out)
    if len(aside) == len(rows):
        raise DataError(f"the source {source.name!r}: all of its {len(rows):,} rows are held out; lower held_out")
    return Pool(source.name, rows, aside, copies, entities_per_phrase(source))


def entities_per_phrase(source: SourceRows) -> float:
    """Mean number of entities in a phrase, by which MSA orders its sources (spec clipvg.md 4.4): as the rows say
    themselves ("entities" of their provenance), else the names that the phrase's parse has, one at least.
    """
    counts: list[int] = []
    for scene in source.scenes:
        for expression in scene.expressions:
            said = source.provenance.get(expression.id, {}).get("entities")
            if not isinstance(said, int):
                said = max(1, len(list(parse(expression.text).texts())))
            counts.append(said)
    return sum(counts) / len(counts) if counts else 0.0


def kept_rows(selection: Selection, pools: Mapping[str, Pool], reliabilities: Reliabilities) -> list[str]:
    """percent(H, h) of every choice (spec 4.2): rows whose reliability is at least the threshold, none held out."""
    kept: list[str] = []
    for choice in selection:
        found, pool = reliabilities[choice.measurer, choice.source], pools[choice.source]
        kept += [row for row in pool.rows if row not in pool.held_out and found[row] >= choice.threshold]
    return kept


def sampled(rows: Iterable[str], share: float) -> list[str]:
    """A share of the rows. A row is in or out by its name, so what a larger selection gives holds a smaller one's."""
    return list(rows) if share >= 1 else [row for row in rows if share_of(row) < share]


def share_of(name: str) -> float:
    """A number in 0..1 that belongs to a name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def selected(rows: Collection[str], pools: Iterable[Pool]) -> tuple[Scene, ...]:
    """The rows with these names as scenes, in the order of the pools and their files."""
    wanted = frozenset(rows)
    return scenes_of(value for pool in pools for name, value in pool.rows.items() if name in wanted)


def scenes_of(rows: Iterable[tuple[Scene, Expression]]) -> tuple[Scene, ...]:
    """Rows gathered by picture."""
    return tuple(gather((Row(s.file, e, s.width, s.height) for s, e in rows), "the labels"))


def in_order(pools: Sequence[Pool]) -> list[Pool]:
    """MSA's order: from few entities in a phrase to many; of equals as they were given."""
    return sorted(pools, key=lambda pool: pool.entities)
