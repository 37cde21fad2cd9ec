"""seg-clip and clip-pooling on the embedded data with the shipped CLIP."""

import numpy as np
import pytest

from bench.boxes import iou_elementwise
from bench.errors import SettingsError, WeightsError
from bench.settings import merged
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.segments import pipeline as module
from pipelines.two_stage.segments.pipeline import clip_pooling, seg_clip

FACTORIES = {"seg-clip": seg_clip, "clip-pooling": clip_pooling}
ENCODERS: dict[ClipOptions, ClipEncoder] = {}  # one takes a second to build


@pytest.fixture
def opened(context, monkeypatch):
    """opened(name, {"map": {...}}): the pipeline with these lines of its table changed."""

    def encoder(options, made):
        return ENCODERS.get(options) or ENCODERS.setdefault(options, ClipEncoder(options, made))

    monkeypatch.setattr(module, "ClipEncoder", encoder)

    def make(name, changes=None, **fields):
        base = context(name, **fields)
        return FACTORIES[name](context(name, options=merged(base.options, changes or {}), **fields))

    return make


def ground(pipeline, scenes, size):
    return [p for i in range(0, len(scenes), size) for p in pipeline.ground(scenes[i : i + size])]


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORIES)
def test_things_are_found_that_no_detector_named(opened, loaded, name):
    scenes, images = loaded[0][:12], loaded[1][:12]
    truth = {e.id: e for s in scenes for e in s.expressions}
    attribute = [p for p in ground(opened(name), images, 6) if truth[p.id].kind == "attribute"]
    hits = [float(iou_elementwise(p.box, truth[p.id].box)) >= 0.5 for p in attribute]
    # A box without the expression hits about one in five.
    assert len(hits) > 15 and np.mean(hits) > 0.3


CLASSIC = {"temperature": 0.0, "quantile": 0.75, "threshold": 0.43, "area": 0.0}
SEGMENTS = {"method": "slic", "compactness": 10.0}, {"levels": [8]}, {"long_side": 100}, {"sigma": 0.5}
CHANGES = [("segments", change) for change in (*SEGMENTS, {"compactness": 0.01})]
CHANGES += [("ranker", {"views": [view]}) for view in ("crop", "mask-blur")]
CHANGES += [("map", change) for change in (CLASSIC, {"grid": 20}, {"area": 0.5}, {"threshold": 0.3})]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [("seg-clip", CHANGES, 1), ("clip-pooling", [("pooling", {"fine": 1}), ("pooling", {"from_block": 2})], 2)],
)
def test_options_change_the_answers(opened, loaded, name, changes, count):
    tables, images = [{}, *({key: change} for key, change in changes)], loaded[1][:count]
    scores = [tuple(round(p.score, 6) for p in opened(name, table).ground(images)) for table in tables]
    assert len(set(scores)) == len(tables)


def test_clip_pooling_has_no_views_and_the_weights_flag_is_the_clip(opened):
    with pytest.raises(SettingsError, match=r"\[pipelines.clip-pooling.ranker\]: margin, views"):
        opened("clip-pooling", {"ranker": {"views": ["crop"], "margin": 0.1}})

    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        opened("seg-clip", {"weights": "clip=nowhere.safetensors"})
