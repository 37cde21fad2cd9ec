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
from bench.grounding import Expression, Prediction, Scene
from bench.settings import RunSettings

SETTINGS = RunSettings(device="cpu", batch_size=3, decode_threads=2)


@pytest.fixture
def pipeline(tmp_path):
    return HashPipeline(pipeline_context("hash", make_split(), make_settings(tmp_path)))


def scored(pipeline, split, **share):
    return validate(pipeline, split.scenes, split.images, SETTINGS, **share)


@pytest.mark.parametrize("source", [MemoryImages(), MemoryImages(bad={"3.png", "7.png"}, small={"9.png"})])
def test_the_numbers_are_those_of_a_run(tmp_path, monkeypatch, pipeline, source):
    split = make_split(40, source)
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)
    metrics = evaluate("hash", split, make_settings(tmp_path, batch_size=5)).record.metrics
    found = scored(pipeline, split)
    assert (found["accuracy"], found["mean_iou"], found["n"]) == (metrics.accuracy, metrics.mean_iou, metrics.n)
    kinds = {f"accuracy/{kind}": each.accuracy for kind, each in metrics.strata["kind"].items()}
    assert kinds == {key: value for key, value in found.items() if "/" in key} and len(kinds) == 2
    assert 0 < found["accuracy"] < 1


@pytest.mark.parametrize("count", [2, 5, 60])
def test_shares_together_are_the_whole(pipeline, count):
    split = make_split(40)
    shares = []
    for index in range(count):
        with pytest.raises(BenchError):  # nobody else has answered yet
            scored(pipeline, split, index=index, count=count, gather=lambda rows: shares.append(rows) or rows)
    everything = [row for share in shares for row in share]
    assert sorted(row.scene for row in everything) == sorted(scene.id for scene in split.scenes)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    whole = scored(pipeline, split)
    for index in (0, count - 1):
        assert scored(pipeline, split, index=index, count=count, gather=lambda _: everything) == whole


def test_a_share_asked_twice_counts_once(pipeline):
    split = make_split(12)
    assert scored(pipeline, split, gather=lambda rows: rows + rows[:5]) == scored(pipeline, split)


def test_without_gather_a_share_is_scored_for_itself(pipeline):
    split = make_split(12)
    third = scored(pipeline, split, index=1, count=3)
    assert third == scored(pipeline, Split("x", "", split.scenes[1::3], split.images))
    assert third["n"] == sum(len(scene.expressions) for scene in split.scenes[1::3])


def test_bound_to_a_split_it_is_what_a_job_carries(pipeline):
    split = make_split(12)
    score = on_split(split.scenes, split.images, SETTINGS)
    assert score(pipeline) == scored(pipeline, split)
    assert score(pipeline, index=0, count=2, gather=None) == scored(pipeline, split, index=0, count=2)


def test_boxes_are_clipped_where_no_size_is_annotated(pipeline):
    """The image is 32 x 24; half of what is answered lies beyond its edge, and no annotation says so."""

    class Beyond:
        card = pipeline.card

        def ground(self, batch):
            return [Prediction(q.id, (0, 0, 64, 24)) for scene in batch for q in scene.queries]

    whole = Expression("0", "it", (0, 0, 32, 24))
    found = validate(Beyond(), [Scene("s", "s.png", None, None, (whole,))], MemoryImages(), SETTINGS)
    assert found == {"accuracy": 1.0, "mean_iou": 1.0, "n": 1.0}


def test_what_cannot_be_scored_is_said(pipeline, caplog):
    with pytest.raises(DataError, match=r"none of the 12 validation images can be read; the first one: 0\.png"):
        scored(pipeline, make_split(12, MemoryImages(gone=True)))
    with pytest.raises(DataError, match="no expressions"):
        validate(pipeline, [], MemoryImages(), SETTINGS)
    with pytest.raises(BenchError, match="6 of 12 scenes were answered by no process"):
        scored(pipeline, make_split(12), index=0, count=2, gather=lambda rows: rows)
    caplog.set_level(logging.WARNING, "bench.train")
    split = make_split(12, MemoryImages(bad={"4.png"}))
    assert scored(pipeline, split)["accuracy"] < scored(pipeline, make_split(12))["accuracy"] + 1e-9
    assert "1 images cannot be read" in caplog.text and "4.png" in caplog.text
