"""Sources of a few rows each, and a training of a second: that of tests/fixture/small_grounder.py."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from bench.clock import Clock
from bench.datasets.readers.labels import SourceRows
from bench.datasets.shapes import ShapesImages, make_scene
from bench.evaluation.validation import on_split
from bench.grounding import PipelineContext
from bench.training.task import TrainingJob
from clipvg.curriculum import nodes
from clipvg.curriculum.pools import share_of

SCENES = tuple(make_scene(2026, "train", i) for i in range(4))  # 25 expressions
VALIDATION = tuple(make_scene(2026, "val", i) for i in range(2))
TABLE = {"epochs": 1, "batch": 4, "reference_batch": 8, "learning_rate": 1e-2, "validate_every": 100}
EVERY = ("attribute", "location", "relation", "ordinal", "comparison")


class Drawn(ShapesImages):
    """Every image is drawn once."""

    @cache  # noqa: B019 - there is one source, for as long as the tests run
    def load(self, scene):
        return super().load(scene)


IMAGES = Drawn(2026)


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
def job(tmp_path):
    """job(out="out", seed=0, **table): what `bench train --pipeline small` hands to a curriculum."""

    def make(out="out", *, seed=0, **table):
        context = PipelineContext(
            name="small", dataset="shapes", options={}, folder=tmp_path, home=tmp_path / "home", device="cpu",
            dtype="float32", seed=seed, offline=True, clock=Clock("cpu"), train_scenes=list,
        )  # fmt: skip
        return TrainingJob(
            scenes=SCENES, images=IMAGES, validation=VALIDATION, validation_images=IMAGES, recipe=TABLE | table,
            out=tmp_path / out, context=context, validate=on_split(VALIDATION, IMAGES), split_name="shapes-train",
            validation_name="shapes-val", fingerprint="f" * 64,
        )  # fmt: skip

    return make


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
