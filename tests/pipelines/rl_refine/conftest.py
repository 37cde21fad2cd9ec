"""Observations made by hand, for a small policy; and jobs of a training on the shipped CLIP and SSD."""

import pytest
import torch
import torch.nn.functional as F
from training_world import make_job  # noqa: F401 - a fixture

from pipelines.rl_refine.network import Observation, Policy, PolicyConfig

SMALL = PolicyConfig(embed=6, channels=3, cells=4, hidden=16, proposals=2)
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])


def random_boxes(count, generator, smallest=0.1):
    """Boxes inside the canvas, sides from `smallest` to 0.9."""
    sides = smallest + (0.9 - smallest) * torch.rand(count, 2, generator=generator)
    return torch.cat([sides / 2 + (1 - sides) * torch.rand(count, 2, generator=generator), sides], dim=1)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def observation(rng):
    """observation(count): what is known of `count` pairs of three images, at random, with targets."""

    def make(count=8):
        known = torch.rand(count, 2, generator=rng) < 0.8
        proposals, start, targets = (random_boxes(n, rng) for n in (2 * count, count, count))
        return Observation(
            torch.randn(3, 6, 5, 5, generator=rng), torch.randint(3, (count,), generator=rng),
            F.normalize(torch.randn(count, 6, generator=rng), dim=1), WHOLE.repeat(count, 1),
            proposals.unflatten(0, (count, 2)), torch.rand(count, 2, 2, generator=rng), known, start, targets,
        )  # fmt: skip

    return make


@pytest.fixture
def policy():
    """A small policy with random weights."""
    torch.manual_seed(0)
    return Policy(SMALL)


@pytest.fixture
def job(make_job):  # noqa: F811
    """job(out="out", fields=None, **changes of the recipe): 2 epochs of 4 steps of a small policy."""

    def make(out="out", *, fields=None, **changes):
        recipe = {
            "name": "small", "network": {"channels": 4, "cells": 4, "hidden": 16, "proposals": 4}, "stages": (),
            "epochs": 2, "batch": 4, "reference_batch": 8, "episodes": 3, "save_every": 3, "log_every": 1, "workers": 0,
        }  # fmt: skip
        return make_job("rl-refine", recipe | changes, out, **(fields or {}))

    return make
