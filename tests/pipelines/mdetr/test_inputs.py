"""Images by the official size rule and filter."""

import numpy as np
import plain_mdetr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.mdetr.inputs import normalised, resized, target_size

sides = st.integers(1, 12_000)


@given(sides, sides)
def test_sizes(width, height):
    w, h = target_size(width, height, 800, 1333)
    assert (w < h) == (width < height) or w == h
    assert target_size(height, width, 800, 1333) == (h, w)
    assert 1 <= min(w, h) <= 800
    # Rounding the short side to a whole pixel is what may carry the long side of a flat image past its limit.
    ratio = max(width, height) / min(width, height)
    assert max(w, h) <= max(1333 + ratio / 2 + 1, ratio + 1)
    if ratio * 800 <= 1333:
        assert min(w, h) == 800


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((640, 480), (1066, 800)),  # 1066.67 is truncated
        ((480, 640), (800, 1066)),
        ((1333, 800), (1333, 800)),
        ((1000, 500), (1332, 666)),  # 666.5 is rounded to the even 666
        ((10_000, 50), (1400, 7)),
        ((1, 1), (800, 800)),
    ],
)
def test_sizes_worked_out_by_hand(size, wanted):
    assert target_size(*size, 800, 1333) == wanted


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_pixels_agree_with_the_plain_ones(width, height, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    ours = normalised(resized(image, 24, 40))
    torch.testing.assert_close(ours, plain_mdetr.preprocessed(image, 24, 40), atol=1e-6, rtol=1e-6)


def test_a_image_of_the_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    out = resized(image, 24, 40)
    assert out.dtype == torch.uint8 and out.permute(1, 2, 0).numpy().tolist() == image.tolist()
