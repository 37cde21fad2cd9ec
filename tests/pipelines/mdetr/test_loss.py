"""Matching against every permutation, and the set loss of perfect outputs."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.box_losses import giou
from pipelines.mdetr.loss import Targets, Weights, match, set_loss
from pipelines.mdetr.model import Output


def some(seed, counts, queries=4, slots=6):
    """Random logits (B, N, S + 1), boxes (B, N, 4), and targets, `counts` of them in each expression."""
    torch.manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    positive = torch.rand(len(owner), slots).softmax(-1)
    targets = Targets(torch.rand(len(owner), 4) * 0.5 + 0.1, positive, owner)
    return torch.randn(len(counts), queries, slots + 1), torch.rand(len(counts), queries, 4) * 0.5 + 0.1, targets


@given(st.integers(0, 10_000), st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any))
def test_the_match_costs_least_of_all_permutations(seed, counts):
    logits, boxes, targets = some(seed, counts)
    weights = Weights()
    found = match(logits, boxes, targets, weights)
    for expression, count in enumerate(counts):
        mine = (targets.owner == expression).nonzero()[:, 0]

        def cost(queries, mine=mine, expression=expression):
            total = 0.0
            for target, query in zip(mine, queries, strict=True):
                chance = logits[expression, query].softmax(-1)[:-1] @ targets.positive[target]
                box, wanted = boxes[expression, query], targets.boxes[target]
                total += 5 * (box - wanted).abs().sum() - 2 * giou(box, wanted)[0] - chance
            return float(total)

        best = min(cost(order) for order in permutations(range(4), count))
        assert cost(found[mine].tolist()) == pytest.approx(best, abs=1e-4)
        assert len(set(found[mine].tolist())) == count


def test_more_targets_than_queries_is_refused():
    with pytest.raises(ValueError, match="5 targets for 4 queries"):
        match(*some(0, [5]), Weights())


def answers(logits, boxes):
    return Output(logits[None], boxes[None], *(torch.zeros(1),) * 3)


def test_a_perfect_answer_costs_only_the_entropy_of_its_tokens():
    _, _, targets = some(1, [1, 1])
    targets = Targets(targets.boxes, torch.tensor([[1.0, 0, 0, 0, 0, 0]] * 2), targets.owner)
    logits = torch.full((2, 4, 7), -30.0)
    logits[:, 0, 0] = 30.0  # the first query says the first token, the others no object
    logits[:, 1:, -1] = 30.0
    boxes = torch.full((2, 4, 4), 0.9)
    boxes[:, 0] = targets.boxes
    terms = set_loss(answers(logits, boxes), targets, Weights())
    assert {k: round(float(v), 5) for k, v in terms.items()} == {"token": 0.0, "l1": 0.0, "giou": 0.0}


def test_queries_without_a_target_count_a_tenth():
    _, _, targets = some(1, [1])
    logits, boxes = torch.zeros(1, 4, 7), torch.full((1, 4, 4), 0.9)
    boxes[:, 2] = targets.boxes
    token = set_loss(answers(logits, boxes), targets, Weights())["token"]
    assert float(token) == pytest.approx(float(torch.tensor(7.0).log()) * (1 + 3 * 0.1), rel=1e-5)
