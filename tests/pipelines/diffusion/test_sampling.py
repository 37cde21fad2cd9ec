"""Schedule, signals, DDIM and the medoid: what has to hold whatever the network."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.diffusion.sampling import SCALE, denoise, kept, medoid, noise_of, noised, to_boxes, to_signal

numbers = st.floats(0.05, 0.45)
BOX = torch.tensor([0.3, 0.6, 0.2, 0.3])


def test_the_share_of_signal_falls_from_one_to_nothing():
    shares = kept(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert shares[0] == pytest.approx(1) and 0 <= shares[-1] < 1e-9
    assert (shares.diff() < 0).all() and (shares[:-1] > 0).all()
    assert kept(torch.tensor(0.5)) == pytest.approx(0.494, abs=0.01)  # half of the power is left half-way


@given(st.lists(st.floats(-50, 50), min_size=4, max_size=4))
def test_any_signal_is_a_box_inside_with_sides(signal):
    box = to_boxes(torch.tensor(signal))
    low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
    assert (box[2:] > 0).all() and (low >= -1e-6).all() and (high <= 1 + 1e-6).all()


@given(numbers, numbers, numbers, numbers)
def test_a_box_is_its_signals_box(x, y, width, height):
    box = torch.tensor([0.5 + (x - 0.25) / 2, 0.5 + (y - 0.25) / 2, width, height])
    assert torch.allclose(to_boxes(to_signal(box)), box, atol=1e-6) and to_signal(box).abs().max() <= SCALE
    for u in (0.01, 0.5, 1.0):  # without noise a signal is only smaller
        clean = noised(box, torch.tensor([u]), torch.zeros(4))
        assert torch.allclose(clean, kept(torch.tensor(u)).sqrt() * to_signal(box))


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("start", [1.0, 0.3])
def test_a_network_that_knows_the_box_leads_to_it_in_any_number_of_steps(steps, start):
    noise = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    signal = noised(BOX, torch.full((2, 5, 1), start), noise)
    given_u = []

    def exact(boxes, u):
        given_u.append(u[0, 0].item())
        assert boxes.shape == (2, 5, 4) and u.shape == (2, 5)
        return BOX.expand(2, 5, 4), torch.zeros(2, 5)

    boxes, logits = denoise(exact, signal, start, steps)
    assert torch.allclose(boxes, BOX.expand(2, 5, 4)) and logits.shape == (2, 5)
    assert given_u == pytest.approx([start * (1 - n / steps) for n in range(steps)], abs=1e-6)


def test_on_the_way_a_signal_keeps_its_own_noise():
    """With the exact box, a step ends where the same noise at less strength would be: no noise is added."""
    noise = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1))
    met = []

    def exact(boxes, u):
        met.append((boxes, u))
        return BOX.expand(1, 3, 4), torch.zeros(1, 3)

    denoise(exact, noised(BOX, torch.ones(1, 3, 1), noise), 1.0, 4)
    for boxes, u in met:
        assert torch.allclose(boxes, to_boxes(noised(BOX, u[..., None], noise)), atol=1e-4)


def test_one_sample_in_one_step_is_a_plain_regressor():
    noise, regressed = torch.randn(3, 1, 4), torch.rand(3, 1, 4) * 0.2 + 0.4
    boxes, _ = denoise(lambda boxes, u: (regressed, torch.zeros(3, 1)), noise, 1.0, 1)
    box, agreement = medoid(boxes, torch.ones(3, 1))
    assert torch.equal(box, regressed[:, 0]) and torch.allclose(agreement, torch.ones(3))


def test_the_medoid_is_a_sample_of_the_heavier_cluster():
    left, right = torch.tensor([0.2, 0.5, 0.2, 0.2]), torch.tensor([0.8, 0.5, 0.2, 0.2])
    samples = torch.stack([left, left + 0.01, right, right, right])[None]
    box, agreement = medoid(samples, torch.ones(1, 5))
    assert torch.equal(box[0], right) and agreement[0] == pytest.approx(3 / 5)
    box, agreement = medoid(samples, torch.tensor([[1.0, 1.0, 0.1, 0.1, 0.1]]))
    assert box[0, 0] < 0.5 and agreement[0] > 0.7
    assert medoid(left.expand(1, 7, 4), torch.rand(1, 7) + 0.1)[1] == pytest.approx(1)
    # Float noise does not choose among samples that are alike.
    shaken = left + 1e-5 * torch.randn(20, 7, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(medoid(shaken, torch.ones(20, 7))[0], shaken[:, 0])


def test_noise_is_of_the_contents_and_of_nothing_else():
    noise = noise_of(0, "image", "the red star", 64)
    assert np.array_equal(noise, noise_of(0, "image", "the red star", 64))
    assert np.array_equal(noise[:8], noise_of(0, "image", "the red star", 8))
    for other in ((1, "image", "the red star"), (0, "other", "the red star"), (0, "image", "a red star")):
        assert not np.array_equal(noise, noise_of(*other, 64))
    many = noise_of(3, "a", "b", 20_000)
    assert np.allclose(many.mean(axis=0), 0, atol=0.03) and np.allclose(many.std(axis=0), 1, atol=0.03)
