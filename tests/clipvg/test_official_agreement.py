"""Preprocessing, answers and the first step of training, against the plain reference of the official code."""

import copy
from dataclasses import replace

import numpy as np
import plain_clipvg
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from training_world import Stepping

from bench.grounding import Expression, LoadedScene, Query, Scene
from bench.training.gradient_check import gradient_check, without_dropout
from clipvg.network import POSITIONS
from clipvg.pipeline import clipvg
from clipvg.task import ClipVGTask
from pipelines.canvas import Canvas, covered, integer_box, letterboxed, normalised, stacked
from pipelines.layers import giou, l1

CPU = torch.device("cpu")
NOISE = 5e-5  # of float32, of an image's side; the small network is a loud one
TEXTS = [
    "the red star",
    "A Person in a RED coat, left of the dog",
    "wow!( the left one",  # its "!" has the id of padding
    "second " * 60 + "from the left",  # cut at the context
    "!~",
]
sides = st.integers(1, 400)


def image_of(width, height, seed=0):
    """A smooth image with some noise: uint8 (H, W, 3)."""
    rng = np.random.default_rng([seed, width, height])
    coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
    smooth = np.asarray(plain_clipvg.Image.fromarray(coarse).resize((width, height), plain_clipvg.Image.BICUBIC))
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.slow
@settings(max_examples=25)
@given(sides, sides, st.sampled_from([14, 16, 32]))
def test_any_image_becomes_the_official_canvas(width, height, patch):
    assume(round(224 / max(width, height) * min(width, height)) > 0)  # the official code has no answer to a thread
    image = image_of(width, height)
    canvas = letterboxed(image, 224, "official")
    pixels, masked = stacked([canvas], patch, "official", CPU)
    plain_pixels, plain_masked, (ratio, left, top) = plain_clipvg.preprocessed(image, 224, patch)
    assert ((canvas.left, canvas.top), canvas.ratio) == ((left, top), (ratio, ratio))
    torch.testing.assert_close(pixels[0], plain_pixels, atol=1e-6, rtol=0)
    assert torch.equal(masked[0], plain_masked)


numbers = st.floats(0, 900, allow_nan=False).map(lambda v: round(v, 2))


@settings(max_examples=60)
@given(sides, sides, st.tuples(numbers, numbers, numbers, numbers), st.sampled_from(["refcoco", "refcocog", "referit"]))
def test_the_official_ground_truth(width, height, box, dataset):
    """Annotations have two decimals; ours arrive as xyxy, whose cut must be that of the width and the height."""
    x, y, w, h = box
    form = "xyxy" if dataset == "referit" else "xywh"
    ratio, left, top = 224 / max(width, height), 3, 11
    canvas = Canvas(np.zeros((224, 224, 3), np.uint8), left, top, 224, 224, (ratio, ratio))
    plain = plain_clipvg.ground_truth((x, y, x + w, y + h) if form == "xyxy" else box, (ratio, left, top), form)
    ours = canvas.to_canvas(integer_box((x, y, x + w, y + h), form))
    np.testing.assert_allclose(ours, plain.numpy(), atol=1e-6, rtol=1e-6)


@settings(max_examples=60)
@given(sides, sides, st.tuples(*[st.floats(0, 1)] * 4))
def test_an_answer_goes_back_to_the_image(width, height, box):
    ratio, left, top = 224 / max(width, height), 17, 5
    canvas = Canvas(np.zeros((224, 224, 3), np.uint8), left, top, 224, 224, (ratio, ratio))
    ours = canvas.to_image(np.array([box]))[0]
    np.testing.assert_allclose(ours, plain_clipvg.in_image(box, (ratio, left, top)), atol=1e-9 * max(width, height))
    np.testing.assert_allclose(canvas.to_canvas(tuple(ours)), box, atol=1e-9)


@pytest.fixture
def pipeline(official_file, context):
    """pipeline(**options): clipvg on the small official file."""
    path = official_file()
    return lambda **options: clipvg(context({"weights": str(path)} | options))


SCENES = [
    LoadedScene(
        f"{width}x{height}", image_of(width, height), tuple(Query(f"{width}:{n}", t) for n, t in enumerate(TEXTS))
    )
    for width, height in ((301, 200), (97, 240), (64, 64), (11, 30), (333, 65))
]


def answers(pipeline, scenes):
    return {p.id: np.array(p.box) for p in pipeline.ground(scenes)}


def farthest(some, others):
    """The largest difference of two sets of answers, as a share of the image's long side."""
    assert some.keys() == others.keys()
    long_sides = {query.id: max(scene.image.shape) for scene in SCENES for query in scene.queries}
    return max(np.abs(some[key] - others[key]).max() / long_sides[key] for key in some)


@pytest.fixture(scope="module")
def expected(small_table, small_sizes):
    """The plain reference's answers about SCENES, by query id; in float64, for ours to have all the noise."""
    w, s = {key: t.double() for key, t in small_table.items()}, small_sizes
    out = {}
    for scene in SCENES:
        pixels, masked, placement = plain_clipvg.preprocessed(scene.image, s.image, s.patch)
        for query in scene.queries:
            box = plain_clipvg.forward(w, s, pixels.double(), masked, plain_clipvg.token_ids(query.text, s.context))
            out[query.id] = np.array(plain_clipvg.in_image(box, placement, s.image))
    return out


def test_the_texts_are_what_they_are_meant_to_be():
    ids = [plain_clipvg.token_ids(text, 32).tolist() for text in TEXTS]
    assert 0 in ids[2][: ids[2].index(49407)] and 0 in ids[4][: ids[4].index(49407)]
    assert ids[3][-1] == 49407 and 0 not in ids[3]


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_answers_are_those_of_the_plain_reference(fast, pipeline, expected):
    result = answers(pipeline(fast=fast), SCENES)
    assert farthest(result, expected) < NOISE
    boxes = np.stack([result[key] for key in expected])
    assert boxes.std(axis=0).min() > 1  # and they are not one box


@pytest.mark.slow
def test_any_batch_and_any_pass_gives_the_same_answers(pipeline, expected):
    grounder = pipeline(images=2, texts=3)
    assert farthest(answers(grounder, SCENES), expected) < NOISE
    assert farthest(answers(grounder, SCENES[::-1]), expected) < NOISE  # texts from the cache
    alone = {}
    for scene in SCENES:
        for query in scene.queries[::-1]:
            alone |= answers(grounder, [LoadedScene(scene.id, scene.image, (query,))])
    assert farthest(alone, expected) < NOISE
    empty = LoadedScene("nobody asks", SCENES[0].image, ())
    assert farthest(answers(grounder, [empty, *SCENES, empty]), expected) < NOISE
    assert grounder.ground([empty]) == []


def test_a_text_that_was_cut_is_noted(pipeline):
    notes = [p.note for p in pipeline().ground(SCENES[:1])]
    assert [bool(note) for note in notes] == [False, False, False, True, False]
    assert notes[3] == "text cut from 65 to 32 tokens"


@pytest.fixture
def rows(small_sizes):
    """Four rows of training: pixels, masked patches, ids and targets, as the plain reference makes them."""
    s, out = small_sizes, []
    boxes = ((30.9, 20.2, 80.7, 90.5), (5.0, 30.0, 60.5, 100.2), (1.9, 1.9, 50.1, 20.0), (3.0, 2.0, 5.0, 12.9))
    for scene, box, text in zip(SCENES, boxes, TEXTS, strict=False):
        pixels, masked, placement = plain_clipvg.preprocessed(scene.image, s.image, s.patch)
        target = plain_clipvg.ground_truth(box, placement, side=s.image)
        out.append((pixels.double(), masked, plain_clipvg.token_ids(text, s.context), target.double()))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_the_first_step_of_training(recompute, rows, small_network, small_state, small_sizes):
    wanted_l1, wanted_giou, gradients = plain_clipvg.first_step(small_state, small_sizes, rows)
    network = copy.deepcopy(small_network)  # in eval mode: dropout off
    network.recompute = recompute
    trained = {k: p for k, p in network.named_parameters() if not k.startswith("clip.") or k == POSITIONS}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    pixels, masked, ids, targets = (torch.stack(part) for part in zip(*rows, strict=True))
    boxes = network(pixels, masked, ids)
    far, away = l1(boxes, targets.float()), 1 - giou(boxes, targets.float())[0]
    assert far.mean().item() == pytest.approx(wanted_l1, rel=1e-5)
    assert away.mean().item() == pytest.approx(wanted_giou, rel=1e-5)
    (far + away).mean().backward()
    assert set(trained) == set(gradients) - {"visu_proj.weight", "visu_proj.bias"}
    for key, parameter in trained.items():
        torch.testing.assert_close(parameter.grad.double(), gradients[key], atol=5e-6, rtol=1e-4, msg=key)
    norms = [float(gradient.norm()) for gradient in gradients.values()]
    assert min(norms) > 1e-5  # every part is reached: these are real gradients


class Album:
    """The images of SCENES, as a split loads them."""

    def load(self, scene):
        return next(each.image for each in SCENES if each.id == scene.id)


class Losses(ClipVGTask):
    """Keeps the mean loss of each step; its targets are of float64 too."""

    def losses(self, batch, rng):
        terms = super().losses(replace(batch, targets=batch.targets.double()), rng)
        self.kept[-1] += (terms["l1"] + terms["giou"]).sum().item() / STEP
        return terms


STEP = 4  # rows


@pytest.mark.slow
@pytest.mark.parametrize("group", ["row", "image"])
def test_twenty_steps_in_float64(group, official_file, make_job, small_table, small_sizes):
    """Training drops all padding, of images and texts; the plain reference masks it, and computes every row alone."""
    s, scenes = small_sizes, []
    for number, scene in enumerate(SCENES[:4]):
        height, width = scene.image.shape[:2]
        box = (0.1 * width, 0.2 * height, 0.6 * width + 1, 0.5 * height + 1)
        expressions = tuple(Expression(f"{number}:{n}", text, box) for n, text in enumerate(TEXTS))
        scenes.append(Scene(scene.id, scene.id, width, height, expressions))
    recipe = {
        "start_from": str(official_file()), "network": {"image_size": s.image}, "group": group, "batch": 2,
        "reference_batch": STEP, "epochs": 4, "schedule": "constant", "augment": {"crop": "off"},
    }  # fmt: skip
    task = Losses(make_job("clipvg", recipe, scenes=scenes, images=Album(), saves=False))
    task.model.double()
    without_dropout(task.model)
    stepping = Stepping(task, augment=False)
    task.kept, batches = [], []
    for number in range(20):
        task.kept.append(0.0)
        rows = []
        for _, batch in stepping.batches(number):
            # Its own pixels and targets: only what the network makes of them is compared.
            pixels = normalised(batch.images, covered(batch.edges, s.image), "official").double()
            for text, owner, target in zip(batch.texts, batch.places, batch.targets.double(), strict=True):
                masked = torch.from_numpy(~batch.patches[owner])
                rows.append((pixels[owner], masked, plain_clipvg.token_ids(text, s.context), target))
        batches.append(rows)
        stepping.step(number)
    w = {key: tensor.double() for key, tensor in small_table.items()}
    wanted, weights = plain_clipvg.trained_steps(w, s, batches, task.config.learning_rate, task.config.weight_decay)
    np.testing.assert_allclose(task.kept, wanted, rtol=5e-9)
    assert max(wanted) - min(wanted) > 0.1 and any(masked.any() for rows in batches for _, masked, *_ in rows)
    mine = dict(task.model.named_parameters())
    for key in weights.keys() - {"visu_proj.weight", "visu_proj.bias"}:
        torch.testing.assert_close(mine[key].detach(), weights[key], rtol=0, atol=1e-8, msg=key)
        assert not torch.equal(weights[key], w[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["refcoco", "referit"])
def test_the_first_step_laid_open(dataset, official_file, make_job, small_table, small_sizes):
    """`bench train --check-step`, images and annotations to gradient norms; more rows than a forward pass takes."""
    s, scenes, batch = small_sizes, [], []
    for number, scene in enumerate(SCENES[:3]):
        height, width = scene.image.shape[:2]
        box = (0.1 * width + 0.7, 0.2 * height + 0.3, 0.6 * width + 0.9, 0.5 * height + 0.8)  # xyxy
        listed = (*box[:2], box[2] - box[0], box[3] - box[1]) if dataset == "refcoco" else box
        expressions = tuple(Expression(f"{number}:{n}", text, box) for n, text in enumerate(TEXTS[:3]))
        scenes.append(Scene(scene.id, scene.id, width, height, expressions))
        pixels, masked, placement = plain_clipvg.preprocessed(scene.image, s.image, s.patch)
        target = plain_clipvg.ground_truth(listed, placement, "xywh" if dataset == "refcoco" else "xyxy", s.image)
        ids = [plain_clipvg.token_ids(text, s.context) for text in TEXTS[:3]]
        batch += [(pixels.double(), masked, each, target.double()) for each in ids]
    w = {key: tensor.double() for key, tensor in small_table.items()}
    wanted_l1, wanted_giou, gradients = plain_clipvg.first_step(w, s, batch)
    recipe = {"start_from": str(official_file()), "network": {"image_size": s.image}}
    job = make_job("clipvg", recipe, scenes=scenes, images=Album(), saves=False)
    object.__setattr__(job.context, "dataset", dataset)
    result = gradient_check(ClipVGTask(job))
    assert (result["rows"], len(result["boxes_cxcywh"])) == (9, 9)
    assert result["l1"] == pytest.approx(wanted_l1, rel=1e-4) and result["giou"] == pytest.approx(wanted_giou, rel=1e-4)
    assert result["loss"] == pytest.approx(wanted_l1 + wanted_giou, rel=1e-4)
    norms = {key: gradient.norm().item() for key, gradient in gradients.items()}
    assert result["gradient_norms"] == pytest.approx(norms, rel=1e-2)
