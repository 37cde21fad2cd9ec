"""Ranking by cosines over views, and score subtraction."""

import torch
import torch.nn.functional as F

from pipelines.clip.ranking import rank


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_probabilities_of_the_summed_cosines():
    regions, texts = unit(2, 5, 8), unit(3, 8, seed=1)
    chances = rank(regions, texts, 10.0)
    by_hand = torch.stack([sum(10 * regions[v] @ t for v in range(2)).softmax(0) for t in texts])
    assert chances.shape == (3, 5) and torch.allclose(chances, by_hand, atol=1e-6)


def test_subtraction_takes_away_what_every_caption_likes():
    liked = F.normalize(torch.tensor([1.0, 1, 1, 0]), dim=0)  # a region that every caption of the bank likes
    fitting = F.normalize(torch.tensor([0.0, 0, 1, 1.2]), dim=0)
    bank = torch.eye(4)[:3]
    text = F.normalize(torch.tensor([[0.9, 0.9, 0.9, 0.8]]), dim=1)
    regions = torch.stack([liked, fitting])[None]
    assert rank(regions, text, 100.0).argmax() == 0
    assert rank(regions, text, 100.0, bank, 1.0).argmax() == 1
    assert torch.equal(rank(regions, text, 100.0, bank, 0.0), rank(regions, text, 100.0))
