"""Region views against Pillow, and what must hold for any box."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.clip.views import make_views, resample

CPU = torch.device("cpu")


def photo(width=310, height=205):
    """A picture with edges, gradients and noise, asymmetric in every way."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    channels = np.stack([(x * 255 // width), (y * 255 // height), ((x // 9 + y // 5) % 2) * 180], axis=2)
    return np.clip(channels + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("box", [(10, 20, 300, 200), (100, 50, 140, 90), (0, 0, 310, 205), (5, 100, 305, 112)])
@pytest.mark.parametrize("size", [64, 224])
def test_a_crop_is_pillows_bicubic(box, size):
    picture = photo()
    ours = make_views(picture, np.array([box], float), ["crop"], size, 0.0, CPU)[0, 0].permute(1, 2, 0).numpy() * 255
    theirs = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box=box)
    difference = np.abs(ours - np.asarray(theirs, float))
    # Pillow rounds and clips to 8 bits between its two passes, we do neither.
    assert difference.mean() < 0.6 and np.quantile(difference, 0.99) < 3


@given(st.tuples(st.floats(-20, 300), st.floats(-20, 200), st.floats(0.2, 400), st.floats(0.2, 300)))
def test_any_box_gives_a_finite_view(box):
    x, y, w, h = box
    views = make_views(photo(), np.array([[x, y, x + w, y + h]]), ["crop", "blur"], 32, 0.1, CPU)
    assert views.shape == (2, 1, 3, 32, 32)
    assert torch.isfinite(views).all() and views.min() >= 0 and views.max() <= 1


def test_a_flat_picture_stays_flat():
    flat = torch.full((3, 60, 80), 0.25)
    boxes = torch.tensor([[-10.0, -10, 30, 30], [70, 50, 95, 70], [10, 10, 11, 11]])
    assert torch.allclose(resample(flat, boxes, 16), torch.tensor(0.25), atol=1e-5)


def test_boxes_together_are_boxes_alone():
    boxes = np.array([[0, 0, 50, 50], [100, 20, 300, 200], [30, 30, 40, 180]], float)
    together = make_views(photo(), boxes, ["crop", "blur"], 48, 0.0, CPU)
    alone = [make_views(photo(), boxes[i : i + 1], ["crop", "blur"], 48, 0.0, CPU) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone, dim=1), atol=1e-5)


def test_blur_keeps_the_box_sharp_and_loses_the_rest():
    picture = photo()
    whole = make_views(picture, np.array([[0, 0, 310, 205.0]]), ["blur"], 64, 0.0, CPU)[0, 0]
    box = np.array([[0, 0, 155, 205.0]])  # the left half
    half = make_views(picture, box, ["blur"], 64, 0.0, CPU)[0, 0]
    assert torch.allclose(half[:, :, :32], whole[:, :, :32], atol=1e-5)
    assert half[:, :, 36:].diff(dim=2).abs().mean() < 0.3 * whole[:, :, 36:].diff(dim=2).abs().mean()


def test_a_margin_shows_the_surroundings():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:60, 40:60] = 255
    box = np.array([[40, 40, 60, 60.0]])
    tight = make_views(picture, box, ["crop"], 32, 0.0, CPU).mean()
    wide = make_views(picture, box, ["crop"], 32, 0.5, CPU).mean()
    assert tight > 0.95 and wide == pytest.approx(0.25, abs=0.03)
