"""The red-style deconfounder alone: its dictionary and its attention."""

import numpy as np
import pytest
import torch

from bench.errors import SettingsError
from pipelines.deconfounder import Deconfounder, dictionary


def test_the_dictionary_has_an_entry_for_each_group_of_texts():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(3, 8, generator=generator)
    owner = torch.arange(90) % 3
    features = groups[owner] + 0.01 * torch.randn(90, 8, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = dictionary(features, 3, 5, seed=1)
        torch.manual_seed(1)
        assert torch.equal(made, dictionary(features, 3, 5, seed=1))
    assert made.shape == (3, 5) and torch.cdist(made, made)[~torch.eye(3, dtype=torch.bool)].min() > 1
    assert np.allclose(made.mean(dim=0), 0, atol=1e-3)  # groups of one size: entries around the mean
    with pytest.raises(SettingsError, match=r"entries = 4, but the training split has 3 different.*entries=3 or less"):
        dictionary(groups[owner], 4, 5, seed=1)


def test_a_token_takes_what_it_attends_to_under_a_uniform_prior():
    plug = Deconfounder(hidden=6, entries=3, code=4)
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plug(tokens), tokens)
    with torch.no_grad():
        for parameter in (plug.dictionary, *plug.parameters()):
            parameter.normal_()
        out = plug(tokens)
        # Token by token, entry by entry, as the formula is written.
        for place in np.ndindex(2, 5):
            products = [plug.query(tokens[place]) @ plug.key(entry) / 2 for entry in plug.dictionary]
            attention = torch.stack(products).softmax(dim=0)
            mean = sum((1 / 3) * (3 * a) * g for a, g in zip(attention, plug.dictionary, strict=True))
            assert torch.allclose(out[place], tokens[place] + plug.out.weight @ mean, atol=1e-5)
