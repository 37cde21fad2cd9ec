"""Boxes, attention and the first step of training, against the plain reference of the official code."""

import dataclasses

import numpy as np
import plain_transvg
import pytest
import torch
from PIL import Image

from bench.errors import SettingsError
from bench.grounding import Expression, LoadedScene, Query, Scene
from bench.training.gradient_check import gradient_check
from pipelines.transvg.pipeline import transvg
from pipelines.transvg.task import TransVGTask

SIZES = plain_transvg.SMALL
NOISE = 5e-5  # of float32, of an image's long side
TEXTS = ("the red star", "A person in a RED coat, left of [SEP] the dog ||| a", "", "left dog " * 30)
SCENES = tuple(
    LoadedScene(
        f"{width}x{height}",
        np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), np.uint8),
        tuple(Query(f"{width}:{n}", text) for n, text in enumerate(TEXTS)),
    )
    for width, height in ((200, 150), (90, 240), (64, 64), (333, 65))
)


@pytest.fixture(scope="module")
def double(small_table):
    """The small network's table in float64, for ours to have all the noise."""
    plain_transvg.bert(SIZES).double()
    return {key: tensor.double() for key, tensor in small_table.items()}


def inputs_of(scene, text, vocabulary):
    pixels, padding, placement = plain_transvg.preprocessed(scene.image, SIZES.image)
    ids, real = plain_transvg.token_ids(text, vocabulary, SIZES.tokens)
    return (pixels.double(), padding, ids, real), placement


@pytest.fixture(scope="module")
def expected(double, vocabulary):
    """The plain reference's answers about SCENES, by query id."""
    out = {}
    for scene in SCENES:
        for query in scene.queries:
            inputs, placement = inputs_of(scene, query.text, vocabulary)
            box = plain_transvg.forward(double, SIZES, *inputs)
            out[query.id] = np.array(plain_transvg.in_image(box, placement, SIZES.image))
    return out


def farthest(predictions, expected):
    """The largest difference of two sets of answers, as a share of the image's long side."""
    long_sides = {query.id: max(scene.image.shape) for scene in SCENES for query in scene.queries}
    assert {p.id for p in predictions} == expected.keys()
    return max(np.abs(np.array(p.box) - expected[p.id]).max() / long_sides[p.id] for p in predictions)


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_answers_are_those_of_the_plain_reference(fast, official, expected):
    pipeline = transvg(official(fast=fast))
    predictions = pipeline.ground(SCENES)
    assert farthest(predictions, expected) < NOISE
    assert np.stack([p.box for p in predictions]).std(axis=0).min() > 1  # and they are not one box
    alone = [p for scene in SCENES for p in pipeline.ground([scene])]
    assert farthest(alone, expected) < NOISE
    cut = [f"text cut from {number} to 12 tokens" for number in (22, 62)]
    assert [p.note for p in predictions[:4]] == ["", cut[0], "", cut[1]]


@pytest.mark.slow
def test_a_few_at_a_time_are_the_same(official, expected):
    assert farthest(transvg(official(images=1, texts=3)).ground(SCENES[::-1]), expected) < NOISE


@pytest.mark.slow
def test_the_first_step_laid_open(official, official_file, vocabulary, make_job, double):
    """`bench train --check-step`, images and annotations to gradient norms; more rows than a forward pass takes."""
    scenes, batch = [], []
    for number, scene in enumerate(SCENES[:3]):
        height, width = scene.image.shape[:2]
        box = (0.1 * width + 0.7, 0.2 * height + 0.3, 0.6 * width + 0.9, 0.5 * height + 0.8)  # xyxy
        expressions = tuple(Expression(f"{number}:{n}", text, box) for n, text in enumerate(TEXTS))
        scenes.append(Scene(scene.id, scene.id, width, height, expressions))
        for text in TEXTS:
            inputs, placement = inputs_of(scene, text, vocabulary)
            listed = (*box[:2], box[2] - box[0], box[3] - box[1])
            batch.append((*inputs, plain_transvg.ground_truth(listed, placement, SIZES.image)))
    l1, giou, gradients = plain_transvg.first_step(double, SIZES, batch)
    recipe = {"start_from": str(official_file()), "tokenizer": str(vocabulary)}
    images = {scene.id: scene.image for scene in SCENES}
    job = make_job("transvg", recipe, scenes=scenes, images=Album(images), saves=False)
    job = dataclasses.replace(job, context=dataclasses.replace(job.context, dataset="refcoco"))
    result = gradient_check(TransVGTask(job))
    assert (result["rows"], len(result["boxes_cxcywh"])) == (12, 12)
    assert result["l1"] == pytest.approx(l1, rel=1e-4) and result["giou"] == pytest.approx(giou, rel=1e-4)
    assert result["loss"] == pytest.approx(l1 + giou, rel=1e-4)
    norms = {key: gradient.norm().item() for key, gradient in gradients.items()}
    largest = max(norms.values())
    # A softmax does not depend on the bias of its keys: those gradients are noise.
    assert result["gradient_norms"] == pytest.approx(norms, rel=2e-3, abs=1e-6 * largest)
    assert sum(norm > 1e-4 * largest for norm in norms.values()) > 0.8 * len(norms)


class Album:
    """The images of SCENES, as a split loads them."""

    def __init__(self, images):
        self.images = images

    def load(self, scene):
        return self.images[scene.id]


@pytest.mark.slow
def test_the_attention_of_reg(official, double, vocabulary):
    scene, side = SCENES[0], SIZES.image // 32
    first, *_ = transvg(official(attention=True)).ground([scene])
    plain, *_ = transvg(official()).ground([scene])
    assert first.box == pytest.approx(plain.box, abs=1e-3) and plain.attention is None
    inputs, _ = inputs_of(scene, TEXTS[0], vocabulary)
    weights = plain_transvg.joint(double, SIZES, *inputs)[1][1 + SIZES.tokens :].view(side, side)
    assert 0 < weights.sum() < 1 and (weights[0] == 0).all()  # some went to the text, none to the padding
    # The image is 160 x 120 pixels of the canvas, 20 below its edge: 5 x 3.75 cells.
    part = Image.fromarray(weights.float().numpy()).resize((5, 4), Image.BILINEAR, box=(0, 20 / 32, 5, 140 / 32))
    assert (first.attention.rows, first.attention.columns) == (4, 5)
    np.testing.assert_allclose(first.attention.shares, np.asarray(part) / np.asarray(part).max(), atol=0.6 / 63)
    with pytest.raises(SettingsError, match="attention needs fast = true"):
        transvg(official(attention=True, fast=False))


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "tokens"), [((3, 4, 6, 3), 20), (plain_transvg.R101, 40)])
def test_full_size(blocks, tokens, context, tmp_path):
    """R50 and R101 at 640 pixels, two texts of one image: the first one's box within 1e-4 of the canvas."""
    sizes = plain_transvg.Sizes(blocks=blocks, tokens=tokens)
    state = plain_transvg.official_state(sizes)
    path = plain_transvg.write_official(tmp_path / "full.pth", state, sizes)
    vocabulary = plain_transvg.write_vocabulary(tmp_path / "bert", ("the", "red", "star", "left", "dog"), 200)
    image = np.random.default_rng(0).integers(0, 256, (427, 640, 3), np.uint8)
    scene = LoadedScene("full", image, tuple(Query(str(n), text) for n, text in enumerate(TEXTS[:2])))
    pixels, padding, placement = plain_transvg.preprocessed(image)
    with torch.no_grad():  # seconds at this size; both texts, both ways, at small sizes above
        ids, real = plain_transvg.token_ids(TEXTS[0], vocabulary, tokens)
        expected = plain_transvg.in_image(plain_transvg.forward(state, sizes, pixels, padding, ids, real), placement)
    options = {"weights": str(path), "tokenizer": str(vocabulary)}
    boxes = [p.box for p in transvg(context("transvg", dataset="refcoco", options=options)).ground([scene])]
    difference = np.abs(np.subtract(boxes[0], expected)).max() / 640
    print(f"{blocks}: {difference:.2g} of the canvas")
    assert difference < 1e-4
    assert np.abs(np.subtract(*boxes)).max() > 1
