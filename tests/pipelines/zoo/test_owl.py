"""OWLv2 and OWL-ViT: the plain forward pass's answers, and boxes of a padded square in the original's pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from bench.grounding import LoadedScene, Query
from pipelines.zoo.owl import owl

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["owlv2", "owlvit"])
def folder(request, hub_folder):
    return hub_folder(request.param)


@pytest.fixture
def build(context, folder):
    def make(dtype="float32", several=False, **options):
        return owl(context("owlv2", options={"weights": folder} | options, dtype=dtype, several=several))

    return make


@pytest.mark.slow
def test_the_answers_of_the_plain_forward_pass(build, folder, scenes):
    """The library's own processor, model and post-processing, one text at a time."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
    answers = iter(build().ground(scenes))
    different = set()
    for scene in scenes:
        for query in scene.queries:
            given = {"images": Image.fromarray(scene.image), "text": [[query.text.lower()]]}
            inputs = processor(**given, return_tensors="pt", truncation=True, max_length=16)
            with torch.inference_mode():
                output = model(**inputs)
            results = processor.post_process_grounded_object_detection(
                output, threshold=0.0, target_sizes=[scene.image.shape[:2]]
            )[0]
            best, answer = results["scores"].argmax(), next(answers)
            assert answer.id == query.id and abs(answer.score - float(results["scores"][best])) < 1e-5
            assert np.allclose(answer.box, results["boxes"][best], atol=1e-5 * max(scene.image.shape))
            different.add(round(answer.score, 5))
    assert len(different) >= 4  # the texts matter


def test_all_boxes_where_several_are_wanted(build, scenes):
    for one, every in zip(build().ground(scenes), build(several=True).ground(scenes), strict=True):
        assert one.id == every.id and np.allclose(one.box, every.box) and abs(one.score - every.score) < 1e-6
        scores = [each.score for each in every.boxes]
        assert 1 < len(scores) <= 100 and scores == sorted(scores, reverse=True)


def test_a_padded_square_is_undone(build, folder):
    """OWLv2 sees an image and the same one with the padding already in it alike; OWL-ViT squashes, so it must not."""
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (32, 64, 3), np.uint8)
    square = np.zeros((64, 64, 3), np.uint8)
    square[:32] = image
    pipeline = build()
    a, b = (pipeline.ground([LoadedScene("s", p, (Query("q", "dog"),))])[0] for p in (image, square))
    assert np.allclose(a.box, b.box, atol=1e-3) == ("owlv2" in folder)


def test_a_image_too_large_is_reduced_and_its_box_is_not(build):
    """Every pixel five times: the same image, and a box five times as large. Smooth, so that no filter matters."""
    down, across = np.mgrid[0:60, 0:80]
    small = np.stack([across * 3, down * 4, 255 - across * 2], axis=-1).astype(np.uint8)
    large = small.repeat(5, axis=0).repeat(5, axis=1)
    pipeline = build()
    a, b = (pipeline.ground([LoadedScene("s", p, (Query("q", "dog"),))])[0] for p in (small, large))
    assert np.allclose(np.multiply(a.box, 5), b.box, rtol=0.05, atol=5)


def test_a_text_too_long_says_so(build, scenes):
    texts = ("the red box " * 6, "the red box")
    queries = tuple(Query(str(i), text) for i, text in enumerate(texts))
    cut, whole = build(prompt="a {}").ground([LoadedScene("s", scenes[0].image, queries)])
    assert cut.note == "text cut from 21 to 16 tokens" and whole.note == ""
