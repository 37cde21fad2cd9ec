"""Reliability: a scorer's IoU with each row's own box, the same whole or in shares, and 0 without an answer."""

import logging
import math

import numpy as np
import pytest
from fake_world import HashPipeline, MemoryImages, make_settings, make_split

from bench import registry
from bench.boxes import clip_xyxy, iou_elementwise
from bench.errors import BenchError, DataError, UnknownName
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


def says(pipeline, box):
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
    found = scored(pipeline, split)
    assert list(found) == [e.id for s in split.scenes for e in s.expressions]
    values = np.array([row.iou for row in found.values()])
    assert values.mean() == pytest.approx(metrics.mean_iou, abs=1e-12)
    assert (values >= 0.5).mean() == metrics.accuracy and 0 < metrics.accuracy < 1
    for scene in split.scenes:
        for expression in scene.expressions:
            r, box = found[expression.id]
            if box is None:
                assert r == 0
            else:
                assert r == pytest.approx(float(iou_elementwise(clip_xyxy(box, 32, 24), expression.box)), abs=1e-12)


def test_the_box_is_clipped_to_the_image_before_it_is_compared(pipeline):
    beyond = says(pipeline, (0, 0, 64, 24))
    for scenes in (one((0, 0, 32, 24)), one((0, 0, 32, 24), None, None)):
        assert measure(beyond, scenes, MemoryImages(), SETTINGS).rows == {"e": Reliability(1.0, (0, 0, 64, 24))}


def test_the_official_way_clamps_to_the_square_that_the_network_saw(pipeline):
    """32 x 24 in a square of 32: four pixels of padding above and below, which the answer may cover."""
    scenes = one((0.0, 0.0, 31.9, 23.9))
    over = says(pipeline, (0, -10, 32, 40))
    assert measure(over, scenes, MemoryImages(), SETTINGS, under="letterbox-clamped").rows["e"].iou == pytest.approx(
        31 * 23 / (32 * 32)
    )
    assert measure(over, scenes, MemoryImages(), SETTINGS).rows["e"].iou > 0.9
    with pytest.raises(UnknownName, match="letterbox-clamped"):
        measure(over, scenes, MemoryImages(), SETTINGS, under="letterbox-clampd")


@pytest.mark.parametrize("box", [None, (math.nan, 0, 5, 5), (9, 9, 5, 5), (40, 40, 50, 50), (1e300, 0, math.inf, 5)])
def test_no_usable_box_is_zero(pipeline, box):
    found = measure(says(pipeline, box), one((0, 0, 32, 24)), MemoryImages(), SETTINGS)
    assert found.rows["e"].iou == 0 and found.unreadable == 0
    assert found.no_box == (box != (40, 40, 50, 50))  # beyond the image, but a box


@pytest.mark.parametrize("count", [2, 60])
def test_shares_together_are_the_whole(pipeline, count):
    split = make_split(40, MemoryImages(bad={"3.png"}))
    shares = []
    for index in range(count):
        with pytest.raises(BenchError):  # nobody else has answered yet
            scored(pipeline, split, index=index, count=count, gather=lambda rows: shares.append(rows) or rows)
    everything = [row for share in shares for row in share]
    whole = scored(pipeline, split)
    for index in (0, count - 1):
        found = scored(pipeline, split, index=index, count=count, gather=lambda _: everything + everything[:5])
        assert found == whole and list(found) == list(whole)


def test_what_cannot_be_read_is_zero_and_said(pipeline, caplog):
    split = make_split(12, MemoryImages(bad={"4.png"}, small={"5.png"}))
    caplog.set_level(logging.WARNING, "bench.label")
    seen = []
    found = measure(pipeline, split.scenes, split.images, SETTINGS, advance=seen.append)
    lost = [e.id for scene in split.scenes[4:6] for e in scene.expressions]
    assert found.unreadable == len(lost) and all(found.rows[name] == (0.0, None) for name in lost)
    assert sum(seen) == 12
    assert "2 images cannot be read" in caplog.text and "4.png" in caplog.text
    assert found.no_box == sum(row.box is None for row in found.rows.values()) - len(lost) > 0
    assert f"no box for {found.no_box} of {len(found.rows)}" in caplog.text


def test_the_official_way_does_not_need_the_size_of_what_cannot_be_read(pipeline):
    scenes = [*one((0, 0, 9, 9), None, None), Scene("t", "t.png", None, None, (Expression("f", "x", (0, 0, 9, 9)),))]
    whole, source = says(pipeline, (0, 0, 9, 9)), MemoryImages(bad={"s.png"})
    found = measure(whole, scenes, source, SETTINGS, under="letterbox-clamped")
    assert found.rows == {"e": (0.0, None), "f": (1.0, (0, 0, 9, 9))} and found.unreadable == 1


def test_nothing_to_score_is_an_error(pipeline):
    with pytest.raises(DataError, match=r"none of the 12 label images can be read; the first one: 0\.png"):
        scored(pipeline, make_split(12, MemoryImages(gone=True)))
    with pytest.raises(DataError, match="no expressions"):
        measure(pipeline, [], MemoryImages(), SETTINGS)


def test_sizes_of_images_that_nobody_annotated(pipeline):
    scenes = [*one((0, 0, 9, 9), None, None), Scene("t", "t.png", 32, 24, (Expression("f", "x", (0, 0, 9, 9)),))]
    assert measure(says(pipeline, None), scenes, MemoryImages(), SETTINGS).sizes == {"s": (32, 24)}
