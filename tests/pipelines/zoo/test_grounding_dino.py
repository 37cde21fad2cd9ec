"""GroundingDINO: the plain forward pass's answers, each expression a prompt of its own, whoever the neighbours are."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from bench.boxes import iou_pairwise
from bench.errors import SettingsError, WeightsError
from bench.grounding import LoadedScene, Query
from pipelines.zoo.grounding_dino import grounding_dino, open_grounding_dino, prompt

FAMILIES = ("grounding-dino", "mm-grounding-dino")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, hub_folder):
    return hub_folder(request.param)


@pytest.fixture
def build(context, folder):
    def make(dtype="float32", several=False, **options):
        named = {"options": {"weights": folder} | options, "dtype": dtype, "several": several}
        return grounding_dino(context("grounding-dino", **named))

    return make


@pytest.fixture(scope="module")
def plainly(folder):
    """(scene, text) -> box and score through the library's own processor, model and post-processing."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(scene, text):
        inputs = processor(images=Image.fromarray(scene.image), text=prompt(text), return_tensors="pt")
        with torch.inference_mode():
            output = model(**inputs)
        results = processor.post_process_grounded_object_detection(
            output, inputs.input_ids, threshold=0.0, target_sizes=[scene.image.shape[:2]]
        )[0]
        words = ~torch.isin(inputs.input_ids[0], torch.tensor([101, 102, 1012, 1029]))
        scores = output.logits[0, :, : len(words)][:, words].sigmoid().amax(1)
        return results["boxes"][scores.argmax()].numpy(), float(scores.max())

    return answer


@pytest.mark.slow
def test_the_answers_of_the_plain_forward_pass(build, plainly, scenes):
    answers = build(texts_in_batch=3).ground(scenes)
    queries = [(scene, query) for scene in scenes for query in scene.queries]
    assert [a.id for a in answers] == [query.id for _, query in queries]
    for answer, (scene, query) in zip(answers, queries, strict=True):
        box, score = plainly(scene, query.text)
        assert np.allclose(answer.box, box, atol=1e-5 * max(scene.image.shape)) and abs(answer.score - score) < 1e-5
    assert len({a.box for a in answers}) >= 4  # the texts matter
    assert answers[0].box == answers[4].box  # the same text twice


@pytest.mark.slow
def test_all_boxes_where_several_are_wanted(build, scenes):
    for one, every in zip(build().ground(scenes), build(several=True).ground(scenes), strict=True):
        assert (one.id, one.box) == (every.id, every.box) and abs(one.score - every.score) < 1e-6
        scores = [each.score for each in every.boxes]
        assert one.others == () and 1 < len(scores) <= 100 and scores == sorted(scores, reverse=True)


def test_each_expression_is_its_own_prompt():
    assert prompt("Dog") == "dog."
    assert prompt(" the Dog. ") == "the dog." == prompt("the dog ...")


@pytest.mark.slow
def test_a_text_too_long_keeps_its_end_and_says_so(build, scenes):
    scene = scenes[0]
    long = LoadedScene("s", scene.image, (Query("long", "the red box on the left of " * 5), Query("short", "dog")))
    cut, short = build().ground([long])
    assert cut.note == "text cut from 38 to 16 tokens" and short.note == ""
    assert np.isfinite(cut.box).all()


def test_what_is_refused(build, context, tmp_path):
    with pytest.raises(SettingsError, match="texts_in_batch"):
        build(texts_in_batch=0)
    with pytest.raises(WeightsError, match=r"GroundingDINO: the weights IDEA-Research/.* are not there"):
        build(weights="IDEA-Research/grounding-dino-tiny")


@pytest.mark.slow
def test_the_union_of_what_each_expression_found(context, folder, scenes):
    table = {"weights": folder, "boxes_per_text": 3, "whole_image": False, "same_iou": 0.999}
    results = open_grounding_dino(table, "here", context()).propose(scenes)
    answers = grounding_dino(context("grounding-dino", options={"weights": folder})).ground(scenes)
    firsts = iter(answers)
    for scene, mine in zip(scenes, results, strict=True):
        texts = {query.text for query in scene.queries}
        assert 3 <= len(mine) <= 3 * len(texts) and set(mine.labels) <= texts
        height, width = scene.image.shape[:2]
        for _ in scene.queries:  # the detector's own choice is always among them
            box = np.clip(next(firsts).box, 0, [width, height, width, height])
            assert iou_pairwise(box[None], mine.boxes).max() > 0.99


@pytest.mark.slow
def test_few_boxes_and_the_whole_image(context, folder, scenes):
    table = {"weights": folder, "boxes_per_text": 10_000, "top_k": 5}
    for scene, mine in zip(scenes, open_grounding_dino(table, "here", context()).propose(scenes), strict=True):
        assert len(mine) <= 6 and mine.boxes[-1].tolist() == [0, 0, scene.image.shape[1], scene.image.shape[0]]
