"""MDETR's losses one by one: what a perfect answer costs, what counts, and what padding may not change."""

import math

import pytest
import torch

from pipelines.mdetr.losses import LossWeights, contrastive_loss, match, set_losses, shares_of
from pipelines.mdetr.model import Output

TARGETS = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.6, 0.2, 0.4]])
POSITIVE = torch.tensor([[False, True, False, False], [False, True, True, False]])
PADDING = torch.tensor([[False, False, False, True], [False] * 4])


def perfect(layers=1):
    """Query 1 answers for both expressions, the others say no object: logits over 5 slots, 2-vectors of 4 tokens."""
    logits = torch.full((2, 3, 6), -30.0)
    logits[:, [0, 2], -1] = 30.0
    logits[0, 1, 1], logits[1, 1, 1:3] = 30.0, 30.0
    boxes = torch.full((2, 3, 4), 0.9)
    boxes[:, 1] = TARGETS
    queries = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]).expand(2, 3, 2)
    text = torch.tensor([[[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]]).repeat(2, 1, 1)
    text[1, 2, 0], text[1, 3, 0] = 1.0, -1.0
    return Output(*(x.expand(layers, *x.shape) for x in (logits, boxes, queries)), text, torch.zeros(1))


def losses(output, weights=LossWeights()):  # noqa: B008 - a frozen constant
    return set_losses(output, TARGETS, POSITIVE, PADDING, weights)


def test_a_perfect_answer_costs_only_the_entropy_of_its_tokens():
    terms = losses(perfect())
    assert terms["token"].tolist() == pytest.approx([0, math.log(2)], abs=1e-5)
    assert terms["l1"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert terms["giou"].tolist() == pytest.approx([0, 0], abs=1e-5)
    # Its own two tokens share the probability of one direction; the other direction is certain.
    assert terms["contrastive"].tolist() == pytest.approx([0, math.log(2) / 2], abs=1e-5)


def test_losses_are_summed_over_decoder_layers():
    once, thrice = losses(perfect()), losses(perfect(3))
    for name, loss in once.items():
        torch.testing.assert_close(thrice[name], 3 * loss)


def test_queries_without_a_target_count_a_tenth():
    terms = losses(perfect())["token"]
    output = perfect()
    output.logits[0, :, [0, 2]] = 0.0
    extra = losses(output)["token"] - terms
    assert extra.tolist() == pytest.approx([0.1 * 2 * math.log(6)] * 2, rel=1e-5)
    assert losses(output, LossWeights(no_object=1.0))["token"][0] == pytest.approx(2 * math.log(6), rel=1e-5)


@pytest.mark.parametrize(("weights", "query"), [({}, 0), ({"token": 99.0}, 1), ({"l1": 0.0, "giou": 0.0}, 1)])
def test_the_match_weighs_tokens_and_boxes(weights, query):
    """Query 0 has the box, query 1 the tokens."""
    output = perfect()
    boxes = output.boxes[0].flip(1)
    boxes[:, 0] = TARGETS
    boxes[:, 1] = 0.9
    shares = shares_of(POSITIVE, 5)
    assert match(output.logits[0], boxes, TARGETS, shares, LossWeights(**weights)).tolist() == [query] * 2


def test_padding_of_texts_changes_nothing():
    torch.manual_seed(0)
    queries, text = (torch.nn.functional.normalize(torch.randn(2, n, 8), dim=-1) for n in (3, 4))
    matched = torch.tensor([2, 0])
    both = contrastive_loss(queries, text, matched, POSITIVE, PADDING)
    alone = contrastive_loss(queries[:1], text[:1, :3], matched[:1], POSITIVE[:1, :3], PADDING[:1, :3])
    torch.testing.assert_close(both[:1], alone)


def test_an_expression_without_tokens_has_finite_losses():
    nothing = torch.zeros_like(POSITIVE)
    terms = set_losses(perfect(), TARGETS, nothing, PADDING, LossWeights())
    assert all(torch.isfinite(loss).all() for loss in terms.values()) and not terms["contrastive"].any()


def test_tokens_share_equally_and_those_beyond_the_slots_have_none():
    assert shares_of(POSITIVE, 6).tolist() == [[0, 1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0, 0]]
    assert shares_of(POSITIVE, 2).tolist() == [[0, 1], [0, 1]]
