"""Sources of a few rows each, in the world of tests/small_training.py."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_training import SCENES, clip_weights, job, one_tokenizer, recipe, same, table  # noqa: F401 - fixtures

from bench.trainable import Source
from clipvg.curriculum import driver
from clipvg.curriculum.rows import share_of


@pytest.fixture
def source():
    """source(name, kinds, entities): a source with those rows of the small world's scenes that are of such kinds."""

    def make(name, kinds=("attribute", "location"), entities=1, scenes=SCENES):
        mine = tuple(
            replace(scene, expressions=tuple(e for e in scene.expressions if e.kind in kinds)) for scene in scenes
        )
        mine = tuple(scene for scene in mine if scene.expressions)
        said = {e.id: {"source": name, "entities": entities} for scene in mine for e in scene.expressions}
        return Source(name, mine, said, ({"file": f"{name}.jsonl", "sha256": "0" * 64, "rows": len(said)},))

    return make


@pytest.fixture
def sources(source):
    """Two sources: easy, with one entity a phrase, and hard, with two."""
    return [source("hard", ("relation", "ordinal", "comparison"), 2), source("easy")]


@pytest.fixture
def spread(monkeypatch):
    """Networks of a second's training find nothing: what they measure is spread over 0 to 1, by row and measurer."""
    real = driver.reliability

    def measured(pipeline, *arguments):
        measurer = Path(pipeline.card.weights["clipvg"]).parent.name
        found = real(pipeline, *arguments)
        return {name: r._replace(iou=share_of(f"{measurer} {name}")) for name, r in found.items()}

    monkeypatch.setattr(driver, "reliability", measured)
