"""Sources of a few rows each, and a training of a second: that of tests/fixture/small_grounder.py."""

from dataclasses import replace
from pathlib import Path

import pytest
from training_world import SCENES

from bench.datasets.readers.labels import SourceRows
from clipvg.curriculum import nodes
from clipvg.curriculum.pools import share_of

TABLE = {"epochs": 1, "batch": 4, "reference_batch": 8, "learning_rate": 1e-2, "validate_every": 100}
EVERY = ("attribute", "location", "relation", "ordinal", "comparison")


@pytest.fixture
def source():
    """source(name, kinds, entities): a source with the rows of SCENES that are of such kinds."""

    def make(name, kinds=("attribute", "location"), entities=1, scenes=SCENES):
        mine = tuple(replace(s, expressions=tuple(e for e in s.expressions if e.kind in kinds)) for s in scenes)
        mine = tuple(scene for scene in mine if scene.expressions)
        provenance = {e.id: {"source": name, "entities": entities} for scene in mine for e in scene.expressions}
        files = ({"file": f"{name}.jsonl", "sha256": "0" * 64, "rows": len(provenance)},)
        return SourceRows(name, mine, provenance, files)

    return make


@pytest.fixture
def sources(source):
    """Two sources: easy, with one entity a phrase, and hard, with two."""
    return [source("hard", ("relation", "ordinal", "comparison"), 2), source("easy")]


@pytest.fixture
def job(make_job):
    """job(out="out", seed=0, **table): what `bench train --pipeline small` hands to a curriculum."""
    return lambda out="out", *, seed=0, **table: make_job("small", TABLE | table, out, seed=seed)


@pytest.fixture
def spread(monkeypatch):
    """Networks of a second's training learn nothing: reliabilities are spread over 0 to 1, by row and scorer."""
    real = nodes.measure

    def measured(pipeline, *arguments):
        scorer = Path(next(iter(pipeline.card.weights.values()))).parent.name
        scored = real(pipeline, *arguments)
        rows = {name: row._replace(iou=share_of(f"{scorer} {name}")) for name, row in scored.rows.items()}
        return replace(scored, rows=rows)

    monkeypatch.setattr(nodes, "measure", measured)
