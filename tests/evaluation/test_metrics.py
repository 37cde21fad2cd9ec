"""The numbers of a run: small ones by hand, and the promise that the same input gives the same bytes."""

import random
from dataclasses import replace

import pytest

from bench.errors import UnknownName
from bench.evaluation.metrics import compute
from bench.grounding import Expression, Prediction, Scene
from bench.runs.numbers import Metrics
from bench.runs.predictions import SceneAnswers
from bench.settings import EvaluationSettings

UNIT = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 50.0, 60.0, 60.0)


def world():
    """Four images: all right, half right, one that could not be read, and one with no box."""

    def expressions(name):
        return tuple(Expression(f"{name}{n}", "man left", UNIT, kind=kind) for n, kind in enumerate("xy"))

    scenes = [Scene(name, f"{name}.jpg", 100, 100, expressions(name)) for name in "abcd"]
    lines = [
        SceneAnswers("a", (Prediction("a0", UNIT), Prediction("a1", (0, 0, 8, 10))), (UNIT, FAR)),
        SceneAnswers("b", (Prediction("b0", FAR), Prediction("b1", (0, 0, 6, 10))), (FAR, (0, 0, 5, 10), FAR)),
        SceneAnswers("c", (), None, "not an image"),
        SceneAnswers("d", (Prediction("d0", None), Prediction("d1", None)), ()),
    ]  # fmt: skip
    return scenes, lines


def test_by_hand():
    metrics = compute(*world())
    assert (metrics.n, metrics.hits, metrics.accuracy) == (8, 3, 3 / 8)
    assert (metrics.accuracy_70, metrics.accuracy_90) == (2 / 8, 1 / 8)
    assert metrics.mean_iou == (1 + 0.8 + 0 + 0.6) / 8 and metrics.oracle == 4 / 8
    assert metrics.proposals_per_image == 5 / 3
    assert metrics.no_box == 2  # d0 and d1; those of the unreadable image are counted as its error
    assert metrics.errors == 1
    low, high = metrics.ci95
    assert 0 < low < 3 / 8 < high < 1 and metrics.ci95_note == "4 images"
    kinds = metrics.strata["kind"]
    assert [(k, s.n, s.hits) for k, s in kinds.items()] == [("x", 4, 1), ("y", 4, 2)]
    assert metrics.strata["length"]["1-5"].n == 8
    assert metrics.strata["people"]["yes"].ci95 == metrics.ci95  # the same draws serve every row
    scenes, lines = world()
    bare = compute(scenes, [replace(line, proposals=None) for line in lines])
    assert bare.oracle is None and bare.proposals_per_image is None and bare.ci95 == metrics.ci95


def test_the_same_bytes_whatever_the_order_of_the_lines():
    scenes, lines = world()
    once = compute(scenes, lines).model_dump_json(by_alias=True)
    for seed in range(3):
        shuffled = random.Random(seed).sample(lines, len(lines))
        assert compute(scenes, iter(shuffled)).model_dump_json(by_alias=True) == once
    assert Metrics.model_validate_json(once) == compute(scenes, lines)


def test_settings_are_kept_with_the_numbers():
    scenes, lines = world()
    narrow = compute(scenes, lines, "iou", EvaluationSettings(draws=500, seed=3, confidence=0.6))
    assert (narrow.bootstrap.draws, narrow.bootstrap.seed, narrow.bootstrap.confidence) == (500, 3, 0.6)
    assert narrow.ci95[1] - narrow.ci95[0] < 0.6 * (compute(scenes, lines).ci95[1] - compute(scenes, lines).ci95[0])
    assert compute(scenes, lines, "iou", narrow.bootstrap) == narrow


def test_one_image_and_no_expression_say_that_nothing_is_known():
    scenes, lines = world()
    one = compute(scenes[:1], lines[:1])
    assert (one.accuracy, one.ci95, one.ci95_note) == (1.0, None, "1 image")
    none = compute([Scene("a", "a.jpg", 10, 10, ())], [])
    assert (none.n, none.hits, none.accuracy, none.mean_iou, none.ci95) == (0, 0, 0.0, 0.0, None)
    assert none.strata == {} and compute([], []).n == 0
    empty = [Scene(f"e{n}", "e.jpg", 10, 10, ()) for n in range(50)]  # not part of the sample
    assert compute(scenes + empty, lines).ci95 == compute(scenes, lines).ci95


def test_protocols_part():
    scenes, lines = world()
    lines[0] = SceneAnswers("a", (Prediction("a0", UNIT), Prediction("a1", (0, 0, 5, 10))), (UNIT,))
    assert compute(scenes, lines, "iou").hits == 3 and compute(scenes, lines, "strict").hits == 2
    assert compute(scenes, lines, "strict").oracle == 2 / 8  # the ceiling is measured as the hits are
    with pytest.raises(UnknownName, match="strict"):
        compute(scenes, lines, "strct")
