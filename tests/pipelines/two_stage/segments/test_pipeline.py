"""seg-clip and clip-pooling on the embedded data with the shipped CLIP."""

import numpy as np
import pytest

from bench.boxes import iou_elementwise
from bench.errors import SettingsError, WeightsError
from bench.grounding import LoadedScene, Query
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


@pytest.mark.parametrize("name", FACTORIES)
def test_the_same_boxes_for_every_batch_size(opened, loaded, name):
    seen = loaded[1][:4]
    pipeline = opened(name)
    one, all_ = ground(pipeline, seen, 1), ground(pipeline, seen, 4)
    assert [p.id for p in one] == [p.id for p in all_] == [q.id for s in seen for q in s.queries]
    for a, b in zip(one, all_, strict=True):
        assert a.box == pytest.approx(b.box, abs=1e-3) and a.score == pytest.approx(b.score, abs=1e-4)


@pytest.mark.parametrize("name", FACTORIES)
def test_things_are_found_that_no_detector_named(opened, loaded, name):
    scenes, seen = loaded[0][:12], loaded[1][:12]
    truth = {e.id: e for s in scenes for e in s.expressions}
    attribute = [p for p in ground(opened(name), seen, 6) if truth[p.id].kind == "attribute"]
    hits = [float(iou_elementwise(p.box, truth[p.id].box)) >= 0.5 for p in attribute]
    # A box blind to what is asked hits about one in five.
    assert len(hits) > 15 and np.mean(hits) > 0.3


@pytest.mark.parametrize("name", FACTORIES)
def test_odd_images_and_texts_are_answered_inside_the_image(opened, name):
    noise = np.random.default_rng(0)
    images = [
        np.full((1, 1, 3), 200, np.uint8),
        np.full((60, 90, 3), 127, np.uint8),
        noise.integers(0, 255, (2, 700, 3)).astype(np.uint8),
        noise.integers(0, 255, (700, 5, 3)).astype(np.uint8),
    ]
    texts = ("⭐🔴", "x", "the red star " * 40)
    scenes = [
        LoadedScene(str(i), image, tuple(Query(f"{i}/{j}", text) for j, text in enumerate(texts)))
        for i, image in enumerate(images)
    ]
    answers = opened(name).ground(scenes)
    assert len(answers) == 12
    for answer, image in zip(answers, np.repeat(np.arange(4), 3), strict=True):
        height, width = images[image].shape[:2]
        x1, y1, x2, y2 = answer.box
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and np.isfinite(answer.score)
        assert ("cut from" in answer.note) == answer.id.endswith("/2")
    assert answers[0].box == (0, 0, 1, 1)


def test_options_change_the_answers(opened, loaded):
    seen = loaded[1][:1]
    changes = (
        {},
        {"segments": {"method": "slic", "compactness": 10.0}},
        {"segments": {"levels": [8]}},
        {"segments": {"long_side": 100}},
        {"segments": {"sigma": 0.5}},
        {"segments": {"compactness": 0.01}},
        {"ranker": {"views": ["crop"]}},
        {"ranker": {"views": ["mask-blur"]}},
        {"map": {"grid": 20}},
        {"map": {"temperature": 0.0, "quantile": 0.75, "threshold": 0.43, "area": 0.0}},
        {"map": {"area": 0.5}},
        {"map": {"threshold": 0.3}},
    )
    scores = [tuple(round(p.score, 6) for p in opened("seg-clip", change).ground(seen)) for change in changes]
    assert len(set(scores)) == len(changes)


def test_pooling_options_change_the_answers(opened, loaded):
    seen = loaded[1][:2]
    changes = ({}, {"pooling": {"fine": 1}}, {"pooling": {"from_block": 2}})
    scores = [tuple(round(p.score, 6) for p in opened("clip-pooling", change).ground(seen)) for change in changes]
    assert len(set(scores)) == len(changes)


def test_views_are_nothing_that_clip_pooling_has(opened):
    with pytest.raises(SettingsError, match=r"\[pipelines.clip-pooling.ranker\]: margin, views"):
        opened("clip-pooling", {"ranker": {"views": ["crop"], "margin": 0.1}})


def test_unknown_options_are_refused(opened):
    with pytest.raises(SettingsError, match=r"unknown key 'segments\.level'; did you mean 'levels'"):
        opened("seg-clip", {"segments": {"level": [4]}})


def test_the_weights_flag_is_the_clip(opened):
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        opened("seg-clip", {"weights": "clip=nowhere.safetensors"})


@pytest.mark.parametrize("name", FACTORIES)
def test_the_card_names_what_is_trained(opened, name):
    card = opened(name).card
    assert card.saw_test_images == "no" and card.trained_on == "CLIP: shapes-train"
    assert set(card.sha256) == {"clip"} and "watershed" in card.summary
    assert card.parameters > 1_000_000
