"""GroundingDINO as a proposer, and its boxes ranked by CLIP."""

import numpy as np
import pytest

from bench.boxes import iou_pairwise
from pipelines.two_stage.pipeline import two_stage
from pipelines.zoo.grounding_dino import grounding_dino, open_grounding_dino


@pytest.fixture(scope="module")
def folder(tiny_grounding_dino):
    return tiny_grounding_dino("grounding-dino")


def test_the_union_of_what_each_expression_found(context, folder, scenes):
    table = {"weights": folder, "boxes_per_text": 3, "whole_image": False, "same_iou": 0.999}
    found = open_grounding_dino(table, "here", context()).propose(scenes)
    answers = grounding_dino(context("grounding-dino", options={"weights": folder})).ground(scenes)
    firsts = iter(answers)
    for scene, mine in zip(scenes, found, strict=True):
        texts = {query.text for query in scene.queries}
        assert 3 <= len(mine) <= 3 * len(texts) and set(mine.labels) <= texts
        height, width = scene.image.shape[:2]
        for _ in scene.queries:  # the detector's own choice is always among them
            box = np.clip(next(firsts).box, 0, [width, height, width, height])
            assert iou_pairwise(box[None], mine.boxes).max() > 0.99


def test_few_boxes_and_the_whole_image(context, folder, scenes):
    table = {"weights": folder, "boxes_per_text": 10_000, "top_k": 5}
    for scene, mine in zip(scenes, open_grounding_dino(table, "here", context()).propose(scenes), strict=True):
        assert len(mine) <= 6 and mine.boxes[-1].tolist() == [0, 0, scene.image.shape[1], scene.image.shape[0]]


def test_ranked_by_clip(context, folder, scenes):
    table = {
        "proposer": {"kind": "grounding-dino", "weights": folder, "boxes_per_text": 4},
        "clip": {"model": "tiny-clip", "pretrained": "pipelines/weights/tiny-clip.safetensors"},
    }
    pipeline = two_stage(context("grounding-dino+clip", options=table))
    answers = pipeline.ground(scenes)
    assert [a.id for a in answers] == [q.id for s in scenes for q in s.queries]
    assert all(tuple(a.box) in {tuple(b) for b in a.proposals.tolist()} for a in answers)
    assert pipeline.card.parameters > pipeline.proposer.parameters > 1000
