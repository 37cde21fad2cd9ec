"""Boxes, stages and the first step of training, against the plain reference of the official code."""

import dataclasses

import numpy as np
import plain_dynamic_mdetr as plain
import plain_transvg
import pytest
import torch

from bench.grounding import Expression, LoadedScene, Query, Scene
from bench.predicting.one import predict
from bench.training.gradient_check import gradient_check
from pipelines.dynamic_mdetr.pipeline import dynamic_mdetr
from pipelines.dynamic_mdetr.task import DynamicMdetrTask

SIZES = {"bert": plain.SMALL, "clip": plain.SMALL_CLIP}
NOISE = 5e-5  # of float32, of an image's long side
TEXTS = ("the red star", "A person in a RED coat, left of [SEP] the dog ||| a", "dog", "left dog " * 30)
SCENES = tuple(
    LoadedScene(
        f"{width}x{height}",
        np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), np.uint8),
        tuple(Query(f"{width}:{n}", text) for n, text in enumerate(TEXTS)),
    )
    for width, height in ((200, 150), (90, 240), (300, 64))
)


@pytest.fixture(scope="module")
def double(tables):
    """The small networks' tables in float64, for ours to have all the noise."""
    plain_transvg.bert(plain.SMALL).double()
    return {name: {key: tensor.double() for key, tensor in table.items()} for name, table in tables.items()}


def inputs_of(name, scene, text, vocabulary):
    (pixels, *rest), placement = plain.inputs_of(SIZES[name], scene.image, text, vocabulary)
    return (pixels.double(), *rest), placement


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_answers_are_those_of_the_plain_reference(name, official, double, vocabulary):
    """Both ways, alone and in company; boxes of every stage and, with them, the points."""
    expected, long_side = {}, {}
    with torch.no_grad():
        for scene in SCENES:
            for query in scene.queries:
                inputs, placement = inputs_of(name, scene, query.text, vocabulary)
                boxes, points = plain.stages(double[name], SIZES[name], *inputs)
                ratio, left, top = placement
                at = (points * SIZES[name].image - torch.tensor([left, top])) / ratio
                expected[query.id] = [plain_transvg.in_image(box, placement, SIZES[name].image) for box in boxes], at
                long_side[query.id] = max(scene.image.shape)

    def check(predictions):
        assert {p.id for p in predictions} == expected.keys()
        for p in predictions:
            boxes, points = expected[p.id]
            assert np.abs(np.subtract(p.box, boxes[-1])).max() < NOISE * long_side[p.id]
            for stage, box, at in zip(p.stages, boxes, points, strict=len(p.stages) > 0):
                assert np.abs(np.subtract(stage.box, box)).max() < NOISE * long_side[p.id]
                assert np.abs(stage.points - at.numpy()).max() < NOISE * long_side[p.id]

    pipeline = dynamic_mdetr(official(name))
    together = pipeline.ground(SCENES)
    check(together)
    check([p for scene in SCENES for p in pipeline.ground([scene])])
    assert all(len(p.stages) == 3 for p in together)
    assert np.stack([p.box for p in together]).std(axis=0).min() > 1  # and they are not one box
    moved = np.stack([np.subtract(p.stages[0].box, p.stages[2].box) for p in together])
    assert np.abs(moved).max() > 1  # nor do the stages agree
    assert together[3].note == f"text cut from {62 if name == 'bert' else 60} to 12 tokens"
    check(dynamic_mdetr(official(name, fast=False, images=3)).ground(SCENES))


def test_a_text_without_a_token_is_a_miss_on_clip(official):
    """Where the official code divides by no token; beside it nothing changes."""
    pipeline = dynamic_mdetr(official("clip"))
    queries = (Query("a", "the red star"), Query("none", " \n"), Query("b", "dog"))
    some = pipeline.ground([dataclasses.replace(SCENES[0], queries=queries)])
    assert some[1].box is None and some[1].stages == () and "no token" in some[1].note
    alone = pipeline.ground([dataclasses.replace(SCENES[0], queries=queries[::2])])
    for one, other in zip(some[::2], alone, strict=True):
        assert one.box == pytest.approx(other.box, abs=1e-3)
    (only,) = pipeline.ground([dataclasses.replace(SCENES[0], queries=queries[1:2])])
    assert only.box is None


def test_an_answer_is_drawn_with_its_stages(official):
    answer = predict(dynamic_mdetr(official("clip")), SCENES[0].image, TEXTS[0])
    without = dataclasses.replace(answer, prediction=dataclasses.replace(answer.prediction, stages=()))
    drawn, bare = (np.asarray(each.drawn())[: len(SCENES[0].image)] for each in (answer, without))
    assert 50 < (drawn != bare).any(axis=2).sum() < 5000


class Album:
    """The images of SCENES, as a split loads them."""

    def load(self, scene):
        return next(s.image for s in SCENES if s.id == scene.id)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_first_step_laid_open(name, files, vocabulary, make_job, double):
    """`bench train --check-step`, images and annotations to gradient norms; more rows than a forward pass takes."""
    scenes, batch = [], []
    for number, scene in enumerate(SCENES):
        height, width = scene.image.shape[:2]
        box = (0.1 * width + 0.7, 0.2 * height + 0.3, 0.6 * width + 0.9, 0.5 * height + 0.8)  # xyxy
        expressions = tuple(Expression(f"{number}:{n}", text, box) for n, text in enumerate(TEXTS))
        scenes.append(Scene(scene.id, scene.id, width, height, expressions))
        for text in TEXTS:
            inputs, placement = inputs_of(name, scene, text, vocabulary)
            listed = (*box[:2], box[2] - box[0], box[3] - box[1])
            batch.append((*inputs, plain_transvg.ground_truth(listed, placement, SIZES[name].image)))
    l1, giou, gradients = plain.first_step(double[name], SIZES[name], batch)
    recipe = {"start_from": str(files[name]), "tokenizer": str(vocabulary), "batch": 8}
    job = make_job("dynamic-mdetr", recipe, scenes=scenes, images=Album(), saves=False)
    job = dataclasses.replace(job, context=dataclasses.replace(job.context, dataset="refcoco"))
    result = gradient_check(DynamicMdetrTask(job))
    assert (result["rows"], len(result["boxes_cxcywh"])) == (12, 12)
    assert result["l1"] == pytest.approx(l1, rel=1e-4) and result["giou"] == pytest.approx(giou, rel=1e-4)
    norms = {key: gradient.norm().item() for key, gradient in gradients.items()}
    largest = max(norms.values())
    # A softmax does not depend on the bias of its keys: those gradients are noise.
    assert result["gradient_norms"] == pytest.approx(norms, rel=2e-3, abs=1e-6 * largest)
    assert sum(norm > 1e-4 * largest for norm in norms.values()) > 0.8 * len(norms)


FULL = {
    "R50": plain.Sizes(),
    "R101": plain.Sizes(blocks=plain_transvg.R101, tokens=40),
    "CLIP-B/16": plain.ClipSizes(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size(name, context, tmp_path):
    """At 640 pixels, two texts of one image: the first one's box within 1e-4 of the canvas."""
    sizes = FULL[name]
    state = plain.official_state(sizes)
    path = plain.write_official(tmp_path / "full.pth", state, sizes)
    vocabulary = plain_transvg.write_vocabulary(tmp_path / "bert", ("the", "red", "star", "left", "dog"), 200)
    image = np.random.default_rng(0).integers(0, 256, (427, 640, 3), np.uint8)
    scene = LoadedScene("full", image, tuple(Query(str(n), text) for n, text in enumerate(TEXTS[:2])))
    with torch.no_grad():  # seconds at this size; both texts, both ways, at small sizes above
        inputs, placement = plain.inputs_of(sizes, image, TEXTS[0], vocabulary)
        expected = plain_transvg.in_image(plain.forward(state, sizes, *inputs), placement)
    options = {"weights": str(path), "tokenizer": str(vocabulary)}
    predictions = dynamic_mdetr(context("dynamic-mdetr", dataset="refcoco", options=options)).ground([scene])
    difference = np.abs(np.subtract(predictions[0].box, expected)).max() / 640
    print(f"{name}: {difference:.2g} of the canvas")
    assert difference < 1e-4
    assert np.abs(np.subtract(*[p.box for p in predictions])).max() > 1
