"""What a ranker is handed: tidy boxes, and always at least one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.boxes import iou_pairwise
from bench.errors import SettingsError, UnknownName
from pipelines.two_stage.proposers import proposals as module
from pipelines.two_stage.proposers.proposals import Proposals, _without_copies, open_proposer, tidy

number = st.floats(-60, 400) | st.sampled_from([float("nan"), float("inf"), -float("inf")])
score = st.floats(0, 1) | st.just(float("nan"))
rows = st.lists(st.tuples(number, number, number, number, score), max_size=40)


def proposals(table):
    table = np.array(table, float).reshape(-1, 5)
    return Proposals(table[:, :4], table[:, 4], tuple(f"c{i}" for i in range(len(table))))


@pytest.mark.slow
@given(rows, st.integers(1, 12))
def test_tidy_boxes(table, top_k):
    out = tidy(proposals(table), (320, 240), top_k, 0.9, whole_image=True)
    assert 1 <= len(out) <= top_k + 1
    assert len(out.boxes) == len(out.scores) == len(out.labels)
    assert np.isfinite(out.boxes).all() and np.isfinite(out.scores).all()
    assert (out.boxes >= 0).all() and (out.boxes <= [320, 240, 320, 240]).all()
    assert ((out.boxes[:, 2:] - out.boxes[:, :2]).prod(1) >= 1).all()
    assert (np.diff(out.scores) <= 0).all()
    assert out.boxes[-1].tolist() == [0, 0, 320, 240]
    overlap = iou_pairwise(out.boxes[:-1], out.boxes[:-1])
    assert (overlap[~np.eye(len(overlap), dtype=bool)] <= 0.9).all()


def first_kept(boxes, same, count):
    """The rule, plainly: a box stays unless it copies one that stays."""
    kept = []
    for index, box in enumerate(boxes):
        if not kept or iou_pairwise(box[None], boxes[kept]).max() <= same:
            kept.append(index)
    return kept[:count]


@given(st.integers(0, 10**6), st.integers(0, 90), st.integers(1, 25), st.sampled_from([0.3, 0.7, 0.9, 1.0]))
def test_copies_are_those_of_the_plain_rule(seed, number, count, same):
    """Many boxes around few places, so that copies of copies come, within a block and across."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 200, (1 + seed % 7, 2))
    corner = places[rng.integers(0, len(places), number)] + rng.integers(0, 4, (number, 2))
    boxes = np.concatenate([corner, corner + rng.integers(10, 16, (number, 2))], axis=1).astype(float)
    assert _without_copies(boxes, same, count).tolist() == first_kept(boxes, same, count)


def test_only_as_many_boxes_are_compared_as_are_needed(monkeypatch):
    compared = []
    monkeypatch.setattr(module, "iou_pairwise", lambda a, b: (compared.append(len(a) * len(b)), iou_pairwise(a, b))[1])
    corner = np.arange(800.0)[:, None] * [3, 3]
    assert len(_without_copies(np.concatenate([corner, corner + 30], axis=1), 0.9, 20)) == 20
    assert sum(compared) <= 40 * 40  # of 800 x 800


def test_the_better_of_two_copies_stays_whatever_its_class():
    out = tidy(proposals([(10, 10, 50, 50, 0.3), (10, 10, 50, 51, 0.8)]), (100, 100), 5, 0.9, False)
    assert out.labels == ("c1",)


def test_nothing_found_is_nothing_or_the_whole_image():
    assert len(tidy(proposals([]), (100, 80), 5, 0.9, False)) == 0
    assert tidy(proposals([]), (100, 80), 5, 0.9, True).boxes.tolist() == [[0, 0, 100, 80]]


def test_thousands_of_boxes_are_cut_to_the_best():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 250, (5000, 2))
    table = np.concatenate([corner, corner + rng.uniform(5, 60, (5000, 2)), rng.uniform(0, 1, (5000, 1))], axis=1)
    out = tidy(proposals(table), (320, 320), 20, 0.9, False)
    assert len(out) == 20 and out.scores.min() > 0.98


def test_broken_boxes_crowd_nothing_out():
    """A detector gone wrong on most of its boxes: the sound ones stay, however confident the others are."""
    broken = [(np.nan, 0, 50, 50, 0.9)] * 500 + [(10, 10, 60, 60, np.nan)] * 500 + [(np.inf, 0, np.inf, 9, 0.8)] * 500
    out = tidy(proposals([*broken, (10, 10, 50, 50, 0.2)]), (100, 100), 5, 0.9, False)
    assert out.boxes.tolist() == [[10, 10, 50, 50]] and out.scores.tolist() == [0.2]


def test_a_table_without_a_kind_and_an_unknown_one_say_which_there_are(context):
    with pytest.raises(SettingsError, match=r"proposer\]: `kind`.*yolo"):
        open_proposer({"weights": "x.pt"}, "bench.toml [pipelines.mine.proposer]", context())

    with pytest.raises(UnknownName, match="yolo"):
        open_proposer({"kind": "yollo"}, "here", context())
