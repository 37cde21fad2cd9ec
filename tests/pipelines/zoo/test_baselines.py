"""Baselines use no pixels and no words, except the two that use labels."""

import json

import numpy as np
import pytest

from bench.errors import DataError, SettingsError, UsageError
from bench.evaluation.opening import open_pipeline
from bench.grounding import Expression, LoadedScene, Query, Scene
from bench.settings import load_settings
from pipelines.two_stage.proposers.proposals import Proposals
from pipelines.zoo import baselines
from pipelines.zoo.label_clip import label_clip

QUERIES = (Query("a", "the dogs on the left"), Query("b", "red thing"))
SCENE = LoadedScene("s", np.zeros((100, 200, 3), np.uint8), QUERIES)


class FixedProposer:
    """A proposer of fixed boxes."""

    sha256, parameters, accelerated, annotated = {"w": "0"}, 1, frozenset(), ""

    def __init__(self, boxes, labels):
        self.proposals = Proposals(np.array(boxes, float).reshape(-1, 4), np.linspace(1, 0.5, len(boxes)), labels)

    def propose(self, scenes):
        return [self.proposals for _ in scenes]


@pytest.fixture
def propose(monkeypatch):
    def use(boxes, labels):
        monkeypatch.setattr("pipelines.zoo.baselines.open_proposer", lambda *_: FixedProposer(boxes, labels))

    return use


def answers(factory, context, options=None):
    return [p.box for p in factory(context("x", options=options or {})).ground([SCENE])]


def test_placed_boxes(context):
    assert answers(baselines.whole_image, context) == [(0, 0, 200, 100)] * 2
    assert answers(baselines.centre_box, context, {"share": 0.5}) == [(50, 25, 150, 75)] * 2


def test_the_fixed_box_is_the_best_of_the_train_split():
    low = np.array([0.25, 0.5]) + np.random.default_rng(0).uniform(-0.02, 0.02, (50, 2))
    best = baselines.best_fixed_box(np.concatenate([low, low + 0.25], axis=1), 8)
    assert best == pytest.approx((0.25, 0.5, 0.5, 0.75))


def test_a_noun_that_comes_often_has_a_fixed_box_of_its_own(context):
    def scene(text, x):
        return Scene("s", "s.jpg", 100, 100, (Expression(text, text, (x, 0, x + 50, 100)),))

    train = [scene("a dog", 0)] * 5 + [scene("a cat", 50)] * 6 + [scene("a cow", 0)] * 4
    options = {"per": "noun", "grid": 4}
    made = baselines.fixed_box(context("fixed-box", options=options, train_scenes=lambda *_: train))
    queries = tuple(Query(text, text) for text in ("dog on a mat", "cats and the cat", "the cat", "cow"))
    boxes = [p.box for p in made.ground([LoadedScene("s", SCENE.image, queries)])]
    left, right, whole = (0, 0, 100, 100), (100, 0, 200, 100), (0, 0, 200, 100)
    assert boxes == [
        left,
        whole,
        right,
        whole,
    ]  # "cats" and "cow" are rare: the box of all, which halves of images reach
    assert "2 nouns" in made.card.summary and made.card.supervision == "full"


def test_chosen_proposals(context, propose):
    propose([(0, 0, 10, 10), (0, 0, 90, 90), (20, 20, 30, 30)], ("cat", "tree", "dog"))
    assert answers(baselines.largest_proposal, context) == [(0, 0, 90, 90)] * 2
    assert answers(baselines.label_only, context) == [(20, 20, 30, 30), (0, 0, 10, 10)]
    first, second = (answers(baselines.random_proposal, context) for _ in range(2))
    assert first == second
    propose([(0, 0, 10, 10), (20, 20, 30, 30)], ("do", "on the left"))  # labels are whole words
    assert answers(baselines.label_only, context)[0] == (20, 20, 30, 30)


def test_random_is_spread_over_the_proposals(context, propose):
    propose([(i, 0, i + 1, 10) for i in range(4)], ("",) * 4)
    scene = LoadedScene("s", SCENE.image, tuple(Query(str(i), "x") for i in range(400)))
    boxes = [p.box for p in baselines.random_proposal(context("x", options={})).ground([scene])]
    counts = np.unique([b[0] for b in boxes], return_counts=True)[1]
    assert len(counts) == 4 and counts.min() > 60


def test_nothing_found_is_answered_with_the_whole_image(context, propose):
    propose([], ())
    for factory in (baselines.largest_proposal, baselines.random_proposal, baselines.label_only):
        assert answers(factory, context) == [(0, 0, 200, 100)] * 2


def test_an_unknown_option_is_named(context):
    with pytest.raises(SettingsError, match=r"pipelines\.x\].*'shar'.*'share'"):
        answers(baselines.centre_box, context, {"shar": 0.3})


@pytest.mark.slow
def test_what_a_baseline_learned_from(context):
    """The best box of the train split has learned from its boxes; a box that nobody fitted has not."""
    assert baselines.fixed_box(context("fixed-box")).card.supervision == "full"
    assert baselines.fixed_box(context("fixed-box", train_scenes=list)).card.supervision == "none"
    assert baselines.centre_box(context("centre-box")).card.supervision == "none"


def test_the_fixed_box_of_own_data_is_chosen_on_a_file_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    settings = load_settings(flags={"run.device": "cpu"})
    with pytest.raises(UsageError, match=r"fixed-box learns from a train split.*--set train=file:PATH\.jsonl"):
        open_pipeline("fixed-box", "file", settings)
    train = tmp_path / "train.jsonl"
    row = {"image": "a.jpg", "text": "it", "box_xyxy": [0, 0, 50, 100], "width": 100, "height": 100}
    train.write_text(json.dumps(row))
    opened = open_pipeline("fixed-box", "file", settings, {"train": f"file:{train}"})
    assert opened.card.summary.endswith("0.00, 0.00, 0.50, 1.00") and opened.card.supervision == "full"
    train.write_text(json.dumps({key: value for key, value in row.items() if key not in ("width", "height")}))
    with pytest.raises(DataError, match="none of the 1 train images has a size"):
        open_pipeline("fixed-box", "file", settings, {"train": f"file:{train}"})


@pytest.fixture
def nearest(context, propose):
    """nearest(labels, *texts): label-clip's answers where a detector finds a box of each label, best first."""

    def make(labels, *texts, image=SCENE.image):
        propose([(i, 0, i + 10, 10) for i in range(len(labels))], labels)
        queries = tuple(Query(str(n), text) for n, text in enumerate(texts))
        return label_clip(context("label-clip")).ground([LoadedScene("s", image, queries)])

    return make


def test_the_nearest_name_and_of_it_the_most_confident_box_and_without_boxes_a_miss(nearest):
    answers = nearest(("star", "ring", "cross", "ring"), "the ring", "cross", "star")
    assert [a.box[0] for a in answers] == [1, 2, 0]
    assert answers[0].score == pytest.approx(np.linspace(1, 0.5, 4)[1])
    noise = np.random.default_rng(0).integers(0, 255, SCENE.image.shape, np.uint8)
    assert [a.box for a in nearest(("star", "ring", "cross", "ring"), "the ring", image=noise)] == [answers[0].box]
    (answer,) = nearest((), "the ring")
    assert answer.box is None and len(answer.proposals) == 0
