"""The losses against plain loops, and what each may never do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.two_stage.tuning.losses import choose, contrast, false_negatives, siglip


def drawn(seed, views=2, queries=4, candidates=6):
    """Logits (V, Q, K) and overlaps (Q, K) on both sides of the bounds; the first text has no positive."""
    rng = np.random.default_rng(seed)
    overlap = rng.choice([0.0, 0.29, 0.3, 0.4, 0.49, 0.5, 0.9], (queries, candidates))
    overlap[0], overlap[1:, 0] = 0.1, 0.7
    return torch.tensor(rng.normal(0, 3, (views, queries, candidates))), torch.tensor(overlap)


def plain(logits, overlap):
    """The loss of one text, by loops."""
    right = sum(math.exp(x) for x, iou in zip(logits, overlap, strict=True) if iou >= 0.5)
    wrong = sum(math.exp(x) for x, iou in zip(logits, overlap, strict=True) if iou < 0.3)
    return -math.log(right / (right + wrong)) if right else 0.0


@given(st.integers(0, 10_000))
def test_choosing_is_the_plain_loop(seed):
    logits, overlap = drawn(seed)
    together, alone = choose(logits, overlap)
    for q, own in enumerate(overlap.tolist()):
        assert together[q].item() == pytest.approx(plain(logits.sum(0)[q].tolist(), own), abs=1e-9)
        assert alone[q].item() == pytest.approx(np.mean([plain(view[q].tolist(), own) for view in logits]), abs=1e-9)


def test_both_positives_are_pulled_up_and_the_band_has_no_gradient():
    logits = torch.zeros(1, 2, 4, dtype=torch.double, requires_grad=True)
    overlap = torch.tensor([[0.9, 0.6, 0.4, 0.0], [0.2, 0.2, 0.2, 0.2]])
    sum(loss.sum() for loss in choose(logits, overlap)).backward()
    first, without = logits.grad[0].tolist()
    assert first[0] < 0 and first[1] < 0 and first[3] > 0 and first[2] == 0
    assert without == [0, 0, 0, 0]  # no candidate is right, so none is wrong


def test_two_texts_of_one_object_never_push_apart():
    """The fault of contrasting each text with its own copy of the object."""
    texts = torch.eye(3, dtype=torch.double)[[0, 0, 1]].requires_grad_()
    objects = torch.eye(3, dtype=torch.double)[:2]
    positive = torch.tensor([[True, False], [True, False], [False, True]])
    contrast(4 * texts @ objects.T, positive).backward()
    # Toward their object (first axis), away from the other (second axis), and equally so.
    assert texts.grad[0, 0] < 0 < texts.grad[0, 1] and torch.equal(texts.grad[0], texts.grad[1])
    # With a copy of the object for each text it would be somebody's negative.
    copies = torch.zeros(2, 2, dtype=torch.double, requires_grad=True)
    contrast(copies, torch.ones(2, 2, dtype=torch.bool)).backward()
    assert not copies.grad.any()


def test_a_pair_that_is_left_out_has_no_gradient():
    logits = torch.randn(3, 3, dtype=torch.double, requires_grad=True)
    left_out = torch.tensor([[False, True, False]] * 3)
    contrast(logits, torch.eye(3, dtype=torch.bool), left_out).backward()
    assert logits.grad[0, 1] == 0 == logits.grad[2, 1] and logits.grad[1, 1] != 0 and logits.grad[0, 2] > 0
    plain = (torch.nn.functional.cross_entropy(logits, torch.arange(3))
             + torch.nn.functional.cross_entropy(logits.T, torch.arange(3))) / 2  # fmt: skip
    assert contrast(logits, torch.eye(3, dtype=torch.bool)).item() == pytest.approx(plain.item())


def test_false_negatives_are_those_nobody_can_tell_apart():
    texts = ["red car", "Red  car", "car", "red car on the left", "man", "red hat"]
    marked = false_negatives(texts, ["car", "bus", "car", "car", "person", "hat"], [0, 1, 2, 3, 3, 4])
    pairs = {(i, j) for i, j in marked.nonzero().tolist() if i < j}
    # Equal texts of any class; words within words of the same class; one image. "red hat" is another class.
    assert pairs == {(0, 1), (0, 2), (0, 3), (2, 3), (3, 4)}
    assert torch.equal(marked, marked.T) and marked.diagonal().all()


def test_siglip_weighs_both_sides_alike():
    overlap = torch.tensor([[0.8, 0.0, 0.4, 0.1], [0.0, 0.9, 0.0, 0.0]])
    logits = torch.zeros(2, 4, requires_grad=True)
    siglip(logits, overlap).sum().backward()
    positive, negative = overlap >= 0.5, overlap < 0.3
    assert (logits.grad[positive] < 0).all() and (logits.grad[negative] > 0).all() and logits.grad[0, 2] == 0
    # Five negatives stand against two positives, each of which weighs 2.5; a text has three or four pairs.
    assert logits.grad[0, 0].item() == pytest.approx(-0.5 * 2.5 / 3)
    assert logits.grad[1, 0].item() == pytest.approx(0.5 / 4)
