"""All scored boxes as one prediction: the best first, each object once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.boxes import iou_pairwise
from pipelines import sets
from pipelines.sets import scored_set


def test_each_object_once_and_the_best_first():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 11], [0, 0, 5, 5]], float)
    made = scored_set("q", boxes, np.array([0.5, 0.2, 0.9, 0.1]), "a note")
    assert (made.id, made.note, made.box, made.score, made.none) == ("q", "a note", (0, 0, 10, 11), 0.9, None)
    assert [(each.box, each.score) for each in made.others] == [((50, 50, 60, 60), 0.2), ((0, 0, 5, 5), 0.1)]


def test_without_a_box_it_says_that_nothing_is_there(monkeypatch):
    made = scored_set("q", np.zeros((0, 4)), np.zeros(0), proposals=np.zeros((0, 4)))
    assert made.box is None and made.none == 1 and made.others == () and made.proposals.shape == (0, 4)
    monkeypatch.setattr(sets, "MOST", 2)
    assert len(scored_set("q", np.arange(20.0).reshape(5, 4) * 30, np.arange(5.0)).boxes) == 2


@given(st.lists(st.tuples(*[st.integers(0, 20)] * 4, st.integers(0, 6)), min_size=1, max_size=20))
def test_the_first_is_what_a_pipeline_of_one_box_answers(rows):
    table = np.array(rows, float)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4] + 1], axis=1)
    made = scored_set("q", boxes, table[:, 4])
    assert made.box == tuple(boxes[table[:, 4].argmax()])
    scores, kept = [each.score for each in made.boxes], np.array([each.box for each in made.boxes])
    assert scores == sorted(scores, reverse=True)
    overlaps = iou_pairwise(kept, kept)
    assert (overlaps[~np.eye(len(kept), dtype=bool)] <= sets.SAME).all()
    assert (iou_pairwise(boxes, kept).max(axis=1) > sets.SAME - 1e-9).all()  # what was left out has one alike
