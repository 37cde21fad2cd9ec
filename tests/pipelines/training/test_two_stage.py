"""Training of the two-stage pipelines: which parts there are, and detectors trained for seconds that load."""

from itertools import pairwise

import pytest
import torch
from bench.trainable import TrainingJob

from bench.datasets.shapes import ShapesPictures, make_scene
from bench.errors import SettingsError, UnknownName
from bench.evaluation.validation import on_split
from bench.grounding import LoadedScene
from pipelines.proposers.opening import open_proposer
from pipelines.training.optimisation import pace
from pipelines.training.two_stage import train
from pipelines.weights import read_safetensors

SHAPES = {"circle", "cross", "heart", "moon", "ring", "square", "star", "triangle"}
SHORT = {"scenes": 12, "epochs": 2, "batch_size": 4}
PLAN = {"image_size": 64, "stem": 8, "pyramid": 16, "channels": (16, 16, 16, 16)}
RECIPES = {
    "ssd-clip": SHORT | {"plan": PLAN},
    "detr-clip": SHORT | {"image_size": 64, "width": 16, "decoder_layers": 2, "queries": 8},
}


@pytest.fixture
def job(context, tmp_path):
    """(pipeline, recipe, ...) -> a job of a few scenes."""
    pictures = ShapesPictures(2026)
    scenes, validation = ([make_scene(2026, part, i) for i in range(n)] for part, n in (("train", 12), ("val", 4)))

    def make(pipeline, recipe=None, part="detector", seed=0):
        table = {"detector": RECIPES[pipeline]} if recipe is None else recipe
        out = tmp_path / f"{pipeline}-{seed}"
        out.mkdir(exist_ok=True)
        asked = context(pipeline, seed=seed)
        score = on_split(validation, pictures)
        return TrainingJob(scenes, pictures, validation, pictures, table, part, out, asked, score)

    return make


@pytest.mark.parametrize("pipeline", list(RECIPES))
def test_a_detector_trained_for_seconds_loads(job, context, loaded, pipeline):
    kind = pipeline.removesuffix("-clip")
    made = train(job(pipeline))["detector"]
    assert made.path.name == f"tiny-{kind}.safetensors" and made.recipe["epochs"] == 2
    assert 0 <= made.score["recall@0.75"] <= made.score["recall@0.5"] <= 1
    table = {"kind": kind, "weights": str(made.path), "confidence": 0.0}
    (found,) = open_proposer(table, "test", context()).propose([LoadedScene("s", loaded[1][0].picture, ())])
    assert len(found) >= 2 and set(found.labels) <= SHAPES | {""}


@pytest.mark.parametrize("pipeline", list(RECIPES))
def test_the_seed_decides(job, pipeline):
    """The same seed makes the same weights, bit by bit; another seed others."""

    def trained(seed):
        return read_safetensors(train(job(pipeline, seed=seed))["detector"].path)[0]

    first, same, other = trained(1), trained(1), trained(2)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_mistakes_are_named(job):
    with pytest.raises(UnknownName, match=r"part of ssd-clip.*'detecter'.*'detector'"):
        train(job("ssd-clip", part="detecter"))
    with pytest.raises(SettingsError, match=r"train\.ssd-clip\].*unknown key 'clap'"):
        train(job("ssd-clip", {"clap": {}}))
    with pytest.raises(SettingsError, match=r"\[train\.detr-clip\.detector\].*'query'.*queries"):
        train(job("detr-clip", {"detector": {"query": 3}}))


def test_the_pace():
    """Up for the warm-up, at its height right after, and nothing left at the end."""
    rates = [pace(step, 100, 10) for step in range(100)]
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:])) and 0 < rates[-1] < 1e-3
