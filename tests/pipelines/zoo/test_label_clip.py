"""label-clip: names against names, never a pixel."""

import numpy as np
import pytest

from bench.grounding import LoadedScene, Query
from pipelines.two_stage.proposers.proposals import Proposals
from pipelines.zoo.label_clip import label_clip

IMAGE = np.zeros((100, 200, 3), np.uint8)
BOXES = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 90, 90], [0, 50, 20, 90]], float)


class Found:
    sha256, parameters, accelerated, annotated = {"w": "0"}, 1, frozenset(), ""

    def __init__(self, labels):
        self.proposals = Proposals(BOXES[: len(labels)], np.linspace(0.9, 0.6, len(labels)), labels)

    def propose(self, scenes):
        return [self.proposals for _ in scenes]


@pytest.fixture
def ask(context, monkeypatch):
    def make(labels, *texts, image=IMAGE):
        monkeypatch.setattr("pipelines.zoo.baselines.open_proposer", lambda *_: Found(labels))
        queries = tuple(Query(str(n), text) for n, text in enumerate(texts))
        return label_clip(context("label-clip")).ground([LoadedScene("s", image, queries)])

    return make


def test_the_nearest_name_and_of_it_the_most_confident_box(ask):
    answers = ask(("star", "ring", "cross", "ring"), "the ring", "cross", "star")
    assert [a.box for a in answers] == [tuple(BOXES[i]) for i in (1, 2, 0)]
    assert answers[0].score == pytest.approx(0.8)


def test_the_image_is_not_looked_at(ask):
    noise = np.random.default_rng(0).integers(0, 255, IMAGE.shape, np.uint8)
    texts = ("red star", "ring on the left")
    assert [a.box for a in ask(("star", "ring"), *texts)] == [a.box for a in ask(("star", "ring"), *texts, image=noise)]


def test_nothing_found_is_a_counted_miss(ask):
    (answer,) = ask((), "the ring")
    assert answer.box is None and len(answer.proposals) == 0
