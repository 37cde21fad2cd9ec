"""Validation in training: the same numbers as a run of the same pipeline, whole or in shares."""

import logging

import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.datasets.split import Split
from bench.errors import BenchError, DataError
from bench.evaluation.loop import evaluate
from bench.evaluation.opening import pipeline_context
from bench.evaluation.validation import on_split, validate
from bench.settings import RunSettings

SETTINGS = RunSettings(device="cpu", batch_size=3, decode_threads=2)


@pytest.fixture
def pipeline(tmp_path):
    return HashPipeline(pipeline_context("hash", make_split(), make_settings(tmp_path)))


def scored(pipeline, split, **share):
    return validate(pipeline, split.scenes, split.images, SETTINGS, **share)


@pytest.mark.slow
@pytest.mark.parametrize("source", [MemoryImages(), MemoryImages(bad={"3.png", "7.png"}, small={"9.png"})])
def test_the_numbers_are_those_of_a_run(tmp_path, monkeypatch, pipeline, source):
    split = make_split(40, source)
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)
    metrics = evaluate("hash", split, make_settings(tmp_path, batch_size=5)).record.metrics
    scores = scored(pipeline, split)
    kinds = {f"accuracy/{kind}": each.accuracy for kind, each in metrics.strata["kind"].items()}
    assert scores == {"accuracy": metrics.accuracy, "mean_iou": metrics.mean_iou, "n": metrics.n, **kinds}
    assert 0 < scores["accuracy"] < 1 and len(kinds) == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5, 60])
def test_shares_together_are_the_whole(pipeline, count):
    split = make_split(40)
    shares = []
    for index in range(count):
        with pytest.raises(BenchError, match="scenes have predictions from no process"):
            scored(pipeline, split, index=index, count=count, gather=lambda rows: shares.append(rows) or rows)
    rows = [row for share in shares for row in share]
    assert sorted(row.scene for row in rows) == sorted(scene.id for scene in split.scenes)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    whole = scored(pipeline, split)
    for index in (0, count - 1):  # a scene that comes twice counts once
        assert scored(pipeline, split, index=index, count=count, gather=lambda _: rows + rows[:5]) == whole


def test_a_share_for_itself_and_bound_to_a_split(pipeline):
    split = make_split(12)
    third = scored(pipeline, split, index=1, count=3)
    assert third == scored(pipeline, Split("x", "", split.scenes[1::3], split.images))
    assert third["n"] == sum(len(scene.expressions) for scene in split.scenes[1::3])
    assert on_split(split.scenes, split.images, SETTINGS)(pipeline, index=1, count=3, gather=None) == third


def test_what_cannot_be_scored(pipeline, caplog):
    with pytest.raises(DataError, match=r"none of the 12 validation images can be read; the first one: 0\.png"):
        scored(pipeline, make_split(12, MemoryImages(gone=True)))
    with pytest.raises(DataError, match="no expressions"):
        validate(pipeline, [], MemoryImages(), SETTINGS)
    caplog.set_level(logging.WARNING, "bench.train")
    scored(pipeline, make_split(12, MemoryImages(bad={"4.png"})))
    assert "1 images cannot be read" in caplog.text and "4.png" in caplog.text
