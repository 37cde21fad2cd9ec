"""Accuracy on images of a list and on the others: ids in every spelling, and a test that is not paired."""

import json

import numpy as np
import pytest

from bench.comparison.paired import UNKNOWN
from bench.errors import BenchError, DataError
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Expression, Prediction, Scene
from bench.reporting.train_images import image_list, independent_difference, on_train_images
from bench.runs.numbers import Bootstrap
from bench.runs.predictions import SceneAnswers
from bench.settings import Resolved, Settings

DRAWS = Bootstrap(draws=200, seed=0, confidence=0.95)


@pytest.mark.parametrize(("name", "text", "keys"), [
    ("ids.txt", "581857\n\n000000000005\nCOCO_train2014_000000000007_3.jpg\n", {"581857", "5", "7"}),
    ("ids.json", "[581857, \"000000000005.jpg\"]", {"581857", "5"}),
    ("image_data.json", json.dumps([{"image_id": 1, "coco_id": 9}, {"image_id": 2, "coco_id": None}]), {"9"}),
])  # fmt: skip
def test_ids_in_every_spelling(tmp_path, name, text, keys):
    (tmp_path / name).write_text(text)
    for given, called in ((str(tmp_path / name), name.rpartition(".")[0]), (f"vg={tmp_path / name}", "vg")):
        assert image_list(given, Resolved(Settings())) == (called, keys)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.json", "{}", "expected a JSON list"), ("a.json", "[1, [2]]", "image id 2"), ("a.txt", "\n \n", "no image id"),
    ("a.json", "[", "not JSON"), ("a.json", '[{"image_id": 5}]', "image id 1"),
])  # fmt: skip
def test_a_broken_list_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        image_list(str(tmp_path / name), Resolved(Settings()))


def test_what_is_neither_file_nor_split(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        image_list(str(tmp_path / "none.txt"), Resolved(Settings()))
    with pytest.raises(BenchError, match="no split is called"):
        image_list("coco", Resolved(Settings()))


def run_of(hits):
    """A run on images 0, 1, ...: an expression for each entry of their lists, hit where it is 1."""
    scenes, rows = [], []
    for number, own in enumerate(hits):
        ids = [f"{number}-{k}" for k in range(len(own))]
        scenes.append(Scene(str(number), f"{number}.jpg", 10, 10, tuple(Expression(i, "a", (0, 0, 8, 8)) for i in ids)))
        boxes = ((0.0, 0.0, 8.0, 8.0) if hit else None for hit in own)
        rows.append(SceneAnswers(str(number), tuple(map(Prediction, ids, boxes))))
    return outcomes(scenes, rows, protocol("iou"))


def test_each_part_has_its_own_numbers():
    made = on_train_images(run_of([[1, 1], [0], [1], [], [0, 0], [0]]), "x", {"0", "2", "3", "99"}, DRAWS)
    assert (made.listed, made.inside.images, made.inside.n, made.inside.hits) == (4, 2, 3, 3)
    assert (made.outside.images, made.outside.n, made.outside.hits) == (3, 4, 0)
    assert made.difference == 1 and -1 < made.ci95[0] < made.ci95[1] <= 1 and 0 < made.p < 1
    for keys in ((), {"0", "1", "2", "3", "4", "5"}):
        made = on_train_images(run_of([[1], [0], [1], [1], [0], [0]]), "x", keys, DRAWS)
        assert made.difference is None and (made.ci95, made.p) == (UNKNOWN, 1.0)


def test_false_alarms_where_the_expressions_of_an_image_are_alike():
    rng, alarms, covered = np.random.default_rng(0), 0, 0
    for _ in range(400):
        parts = []
        for images in (60, 200):
            counts = rng.integers(1, 12, images).astype(float)
            rates = rng.beta(0.8, 0.4, images)  # clustered: correlation 0.45 within an image
            parts.append((rng.binomial(counts.astype(int), rates).astype(float), counts))
        (low, high), p = independent_difference(parts, 0.95)
        alarms += p <= 0.05
        covered += low <= 0 <= high
        assert (p <= 0.05) == (not low <= 0 <= high) or abs(p - 0.05) < 1e-4
    assert 0.02 <= alarms / 400 <= 0.09 and covered >= 364
