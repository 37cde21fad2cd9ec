"""Reliability: a scorer's IoU with each row's own box, the same whole or in shares, and 0 without an answer."""

import logging
import math

import numpy as np
import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.boxes import clip_xyxy, iou_elementwise
from bench.errors import BenchError, UnknownName
from bench.evaluation.loop import evaluate
from bench.evaluation.opening import pipeline_context
from bench.evaluation.reliability import Reliability, measure
from bench.grounding import Expression, Prediction, Scene
from bench.settings import RunSettings

SETTINGS = RunSettings(device="cpu", batch_size=3, decode_threads=2)


@pytest.fixture
def pipeline(tmp_path):
    return HashPipeline(pipeline_context("hash", make_split(), make_settings(tmp_path)))


def scored(pipeline, split, **share):
    return dict(measure(pipeline, split.scenes, split.images, SETTINGS, **share).rows)


def always(pipeline, box):
    """A scorer that answers everything with the same box."""

    class Stubborn:
        card = pipeline.card

        def ground(self, batch):
            return [Prediction(q.id, box) for scene in batch for q in scene.queries]

    return Stubborn()


def one(box, width=32, height=24):
    return [Scene("s", "s.png", width, height, (Expression("e", "it", box),))]


def test_each_row_is_the_iou_that_a_run_counts(tmp_path, monkeypatch, pipeline):
    split = make_split(40)
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: HashPipeline)
    metrics = evaluate("hash", split, make_settings(tmp_path)).record.metrics
    result = scored(pipeline, split)
    assert list(result) == [e.id for s in split.scenes for e in s.expressions]
    values = np.array([row.iou for row in result.values()])
    assert values.mean() == pytest.approx(metrics.mean_iou, abs=1e-12)
    assert (values >= 0.5).mean() == metrics.accuracy and 0 < metrics.accuracy < 1
    for scene in split.scenes:
        for expression in scene.expressions:
            r, box = result[expression.id]
            if box is None:
                assert r == 0
            else:
                assert r == pytest.approx(float(iou_elementwise(clip_xyxy(box, 32, 24), expression.box)), abs=1e-12)


def test_the_box_is_clipped_to_the_image_before_it_is_compared(pipeline):
    beyond = always(pipeline, (0, 0, 64, 24))
    for scenes in (one((0, 0, 32, 24)), one((0, 0, 32, 24), None, None)):
        assert measure(beyond, scenes, MemoryImages(), SETTINGS).rows == {"e": Reliability(1.0, (0, 0, 64, 24))}


def test_the_official_way_clamps_to_the_square_that_the_network_saw(pipeline):
    """32 x 24 in a square of 32: four pixels of padding above and below, which the answer may cover."""
    scenes = one((0.0, 0.0, 31.9, 23.9))
    over = always(pipeline, (0, -10, 32, 40))
    assert measure(over, scenes, MemoryImages(), SETTINGS, under="letterbox-clamped").rows["e"].iou == pytest.approx(
        31 * 23 / (32 * 32)
    )
    assert measure(over, scenes, MemoryImages(), SETTINGS).rows["e"].iou > 0.9
    with pytest.raises(UnknownName, match="letterbox-clamped"):
        measure(over, scenes, MemoryImages(), SETTINGS, under="letterbox-clampd")


@pytest.mark.parametrize("box", [None, (math.nan, 0, 5, 5), (9, 9, 5, 5), (40, 40, 50, 50), (1e300, 0, math.inf, 5)])
def test_no_usable_box_is_zero(pipeline, box):
    result = measure(always(pipeline, box), one((0, 0, 32, 24)), MemoryImages(), SETTINGS)
    assert result.rows["e"].iou == 0 and result.unreadable == 0
    assert result.no_box == (box != (40, 40, 50, 50))  # beyond the image, but a box


def test_shares_together_are_the_whole(pipeline):
    split = make_split(40, MemoryImages(bad={"3.png"}))
    shares = []
    for index in range(3):
        with pytest.raises(BenchError):  # no other process has answered yet
            scored(pipeline, split, index=index, count=3, gather=lambda rows: shares.append(rows) or rows)
    rows = [row for share in shares for row in share]
    whole, second = scored(pipeline, split), scored(pipeline, split, index=1, count=3, gather=lambda _: rows)
    assert second == whole and list(second) == list(whole)


def test_what_cannot_be_read_is_zero(pipeline, caplog):
    split = make_split(12, MemoryImages(bad={"4.png"}, small={"5.png"}))
    caplog.set_level(logging.WARNING, "bench.label")
    result = measure(pipeline, split.scenes, split.images, SETTINGS)
    lost = [e.id for scene in split.scenes[4:6] for e in scene.expressions]
    assert result.unreadable == len(lost) and all(result.rows[name] == (0.0, None) for name in lost)
    assert "2 images cannot be read" in caplog.text and "4.png" in caplog.text
    assert result.no_box == sum(row.box is None for row in result.rows.values()) - len(lost) > 0
    assert f"no box for {result.no_box} of {len(result.rows)}" in caplog.text


def test_the_official_way_does_not_need_the_size_of_what_cannot_be_read(pipeline):
    scenes = [*one((0, 0, 9, 9), None, None), Scene("t", "t.png", None, None, (Expression("f", "x", (0, 0, 9, 9)),))]
    whole, source = always(pipeline, (0, 0, 9, 9)), MemoryImages(bad={"s.png"})
    result = measure(whole, scenes, source, SETTINGS, under="letterbox-clamped")
    assert result.rows == {"e": (0.0, None), "f": (1.0, (0, 0, 9, 9))} and result.unreadable == 1
    assert result.sizes == {"t": (32, 24)}  # of the decoded image
