"""Metrics of masks against a slow pycocotools loop, gRefCOCO's rule, and OneRef's protocol against its definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco

from bench.datasets.annotations import annotations_of
from bench.errors import DataError
from bench.evaluation.differences import score_here
from bench.evaluation.masks import THRESHOLDS
from bench.evaluation.metrics import compute
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Expression, Prediction, Scene
from bench.masks import encode
from bench.runs.numbers import Bootstrap
from bench.runs.predictions import SceneAnswers, dump_line, from_predictions, parse_row
from bench.settings import EvaluationSettings

NAN = (float("nan"),) * 4
HEIGHT, WIDTH = 12, 17
FAST = EvaluationSettings(draws=200)


def world(images=40, seed=0, no_target=0.0):
    """Random ground truths and answers: (scenes, answers, [(truth, predicted) arrays or None])."""
    rng = np.random.default_rng(seed)
    scenes, answers, pairs = [], [], []
    for n in range(images):
        expressions, predictions = [], []
        for k in range(rng.integers(1, 4)):
            truth = rng.random((HEIGHT, WIDTH)) < 0.3 if rng.random() >= no_target else None
            kind = rng.random()
            predicted = (
                None if kind < 0.1 else np.zeros((HEIGHT, WIDTH), bool) if kind < 0.3
                else rng.random((HEIGHT, WIDTH)) < 0.3 if truth is None
                else truth ^ (rng.random((HEIGHT, WIDTH)) < rng.choice((0.02, 0.2)))
            )  # fmt: skip
            name = f"{n}-{k}"
            box = NAN if truth is None else (1, 1, 5, 5)
            mask = None if truth is None else encode(truth)
            expressions.append(Expression(name, "it", box, mask=mask))
            predictions.append(Prediction(name, None, mask=None if predicted is None else encode(predicted)))
            pairs.append((truth, predicted))
        scenes.append(Scene(str(n), f"{n}.jpg", WIDTH, HEIGHT, tuple(expressions)))
        answers.append(SceneAnswers(str(n), tuple(predictions)))
    return scenes, answers, pairs


@pytest.mark.parametrize("no_target", (0.0, 0.3))
def test_metrics_equal_a_slow_loop(no_target):
    scenes, answers, pairs = world(no_target=no_target)
    metrics = compute(scenes, answers, settings=FAST).masks
    total, union, ious, every, rejected, kept, none = 0, 0, [], [], [], [], 0
    for truth, predicted in pairs:
        masks = [np.zeros((HEIGHT, WIDTH), bool) if m is None else m for m in (predicted, truth)]
        raw = [coco.encode(np.asfortranarray(m, np.uint8)) for m in masks]
        shared = int(coco.area(coco.merge(raw, intersect=True)))
        whole = int(coco.area(coco.merge(raw)))
        total, union = total + shared, union + whole
        if truth is None:
            right = predicted is not None and not predicted.any()
            rejected.append(right)
            every.append(float(right))
            continue
        iou = float(coco.iou([raw[0]], [raw[1]], [0])[0, 0])
        ious.append(iou)
        every.append(iou)
        kept.append(masks[0].any())
        none += not masks[0].any()
    assert metrics.ciou.value == total / union and metrics.miou.value == pytest.approx(np.mean(ious), abs=1e-12)
    for name in THRESHOLDS:
        assert metrics.precision[name].value == np.mean(np.array(ious) >= float(name))
    assert (metrics.n, metrics.no_target, metrics.no_mask) == (len(pairs), len(rejected), none)
    if no_target:
        assert metrics.giou.value == pytest.approx(np.mean(every), abs=1e-12)
        assert metrics.no_target_accuracy.value == np.mean(rejected)
        assert metrics.target_accuracy.value == np.mean(kept)
    else:
        assert metrics.giou is metrics.no_target_accuracy is metrics.target_accuracy is None


def test_intervals_are_those_of_a_bootstrap_over_images():
    scenes, answers, _ = world(images=60, seed=3)
    settings = Bootstrap(draws=2000, seed=1, confidence=0.95)
    metrics = compute(scenes, answers, settings=settings).masks
    results = outcomes(scenes, answers, protocol("iou"))
    image, rng = results.image[results.masks.expression], np.random.default_rng(5)
    sums = np.stack([np.bincount(image, v) for v in (results.masks.shared, results.masks.union)], axis=1)
    drawn = sums[rng.integers(0, 60, (2000, 60))].sum(axis=1)
    expected = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    np.testing.assert_allclose(metrics.ciou.ci95, expected, atol=0.01)
    for ratio in (metrics.ciou, metrics.miou, *metrics.precision.values()):
        assert ratio.ci95[0] <= ratio.value <= ratio.ci95[1]
    # Boxes keep their own, to the bit.
    without = [replace(row, answers=tuple(replace(a, mask=None) for a in row.answers)) for row in answers]
    plain = compute(scenes, without, settings=settings)
    assert plain.masks is None and compute(scenes, answers, settings=settings).ci95 == plain.ci95


def test_masks_are_scored_only_where_both_sides_have_them():
    scenes, answers, _ = world(images=3)
    bare = [replace(s, expressions=tuple(replace(e, mask=None) for e in s.expressions)) for s in scenes]
    assert compute(bare, answers, settings=FAST).masks is None
    stored = [parse_row(__import__("json").loads(dump_line(from_predictions(a.scene, a.answers)))) for a in answers]
    assert compute(scenes, stored, settings=FAST) == compute(scenes, answers, settings=FAST)
    # An image without an answer has empty masks, which reject nothing.
    lost = [SceneAnswers(answers[0].scene, (), error="gone"), *answers[1:]]
    assert compute(scenes, lost, settings=FAST).masks.no_mask >= len(scenes[0].expressions)


def test_a_mask_of_another_size_is_named():
    scenes, answers, _ = world(images=1)
    wrong = replace(answers[0].answers[0], mask=encode(np.ones((3, 3), bool)))
    rows = [SceneAnswers("0", (wrong, *answers[0].answers[1:]))]
    with pytest.raises(DataError, match=r"the answer to expression '0-0': its mask is \[3, 3\] \(height, width\)"):
        compute(scenes, rows, settings=FAST)


def test_other_ground_truth_masks_are_other_data():
    scenes, answers, _ = world(images=3)
    here = compute(scenes, answers, settings=FAST).masks
    again = compute(scenes[::-1], answers, settings=FAST).masks
    assert again.data == here.data
    other = encode(np.ones((HEIGHT, WIDTH), bool))
    moved = [replace(s, expressions=(replace(s.expressions[0], mask=other), *s.expressions[1:])) for s in scenes]
    assert compute(moved, answers, settings=FAST).masks.data != here.data
    assert len(annotations_of(scenes).masks) == here.n


@pytest.mark.parametrize("size", ((384, 384), (300, 384), (384, 211)))
def test_letterbox_dilated_is_the_official_rule_where_pixels_are_those_of_the_canvas(size):
    height, width = size
    rng = np.random.default_rng(height + width)
    top, left = (round((384 - side) / 2 - 0.1) for side in size)
    coarse = torch.from_numpy(rng.normal(size=(1, 1, 9, 9)))
    cells = F.interpolate(coarse, size=(192, 192), mode="bicubic") + 0.01
    truth = F.interpolate(coarse, size=size, mode="bicubic")[0, 0].numpy() > 0.3
    # 1. The official way, from the cells: thresholded, then interpolated, and every pixel counts that is not 0.
    inside = torch.zeros(384, 384, dtype=torch.bool)
    inside[top : top + height, left : left + width] = torch.from_numpy(truth)
    in_image = torch.zeros(192, 192)
    rows, columns = (((torch.arange(192) * 2 + 1 - a) >= 0) & ((torch.arange(192) * 2 + 1 - a) < side)
                     for a, side in ((top, height), (left, width)))  # fmt: skip
    in_image[rows[:, None] & columns] = 1
    positive = F.relu(cells.sigmoid() - 0.5) * in_image
    grown = F.interpolate(positive, size=(384, 384), mode="bilinear", align_corners=False)[0, 0] != 0
    # 2. Ours, from a mask that has each cell's value at its centre.
    fine = (positive[0, 0] > 0).repeat_interleave(2, 0).repeat_interleave(2, 1)
    predicted = fine[top : top + height, left : left + width].numpy()
    shared, union = protocol("letterbox-dilated").masks([encode(predicted)], [encode(truth)])
    assert (shared[0], union[0]) == (int((grown & inside).sum()), int((grown | inside).sum()))


def test_a_re_score_notices_changed_masks():
    scenes, answers, _ = world(images=5)
    metrics = compute(scenes, answers, settings=FAST)

    class Record:
        protocol, imported = "iou", None

    Record.metrics = metrics
    assert score_here(Record, answers, scenes)[2] == []
    broken = [replace(row, answers=tuple(replace(a, mask=None) for a in row.answers)) for row in answers[:1]]
    (*_, differences) = score_here(Record, [*broken, *answers[1:]], scenes)
    assert any("metrics.masks.ciou.value" in line for line in differences)
    # A run of before has none, which is no difference.
    Record.metrics = metrics.model_copy(update={"masks": None})
    assert score_here(Record, answers, scenes)[2] == []
